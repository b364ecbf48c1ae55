"""A run with faults made on purpose: what the assembly asks at each seam. Without faults it hands everything back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from detector.alerts.alert import Sign
from detector.alerts.clock import Clock
from detector.alerts.mqtt_connection import Connect
from detector.alerts.mqtt_connection import connect as connect_in_earnest
from detector.analysis.pool import AnalysisPool
from detector.config.config import Config
from detector.config.faults import Fault as ConfigFault
from detector.config.loading import Reading
from detector.config_file import ConfigFile
from detector.ingest.revocations import RevocationStore
from detector.session_settings import SessionSettings
from detector.simulation.fault import Fault
from detector.store.database import Database
from detector.trust.commands import Line

log = structlog.get_logger()

_MARK_CHARACTERS = 200
_LIVE = "enforcement.live"
_MAY_CUT = (
    "a rehearsal must not cut whoever happens to be live; set it to false, or add --may-cut where every publisher of "
    "this node is yours"
)


class Rehearsal:
    """The faults of one run.

    Nothing is cut in a rehearsal unless `may_cut`: it is refused where the config lets anybody be cut, at the start and
    at every reload. Each alert of it says so under `simulated`, signed with the rest.
    """

    def __init__(self, faults: tuple[Fault, ...] = (), *, may_cut: bool = False) -> None:
        self.faults = faults
        self.may_cut = may_cut

    def __str__(self) -> str:
        """The faults as they would be asked for."""
        return ",".join(map(str, self.faults))

    def begin(self) -> None:
        """Count the time of each fault from now."""
        if self.faults:
            log.warning("simulation.running", faults=str(self), may_cut=self.may_cut)
        for fault in self.faults:
            fault.started_at = time.monotonic()

    def objection(self, config: Config) -> tuple[str, str] | None:
        """Why this config cannot be rehearsed with: the key, and a sentence with the remedy."""
        if not self.faults:
            return None
        if config.enforcement.live and not self.may_cut:
            return _LIVE, _MAY_CUT
        for fault in self.faults:
            why = fault.objection(config)
            if why is None and fault.needs_cuts and not config.enforcement.live:
                why = (
                    f"nothing is cut; set {_LIVE} to true and add --may-cut where every publisher of this node is yours"
                )
            if why is not None:
                return f"--simulate {fault.name}", why
        return None

    def file(self, path: Path) -> ConfigFile:
        """The config file to follow, which this may object to."""
        return _RehearsedFile(path, self) if self.faults else ConfigFile(path)

    def notes(self) -> list[str]:
        """What health says of it."""
        return [fault.note() for fault in self.faults]

    # The seams

    def session(self, settings: SessionSettings) -> SessionSettings:
        """What a session goes by."""
        job = settings.job
        for fault in self.faults:
            job = fault.job(job)
        return settings if job is settings.job else replace(settings, job=job)

    def pool(self, pool: AnalysisPool) -> AnalysisPool:
        """The analysis processes, not started yet."""
        for fault in self.faults:
            fault.pool(pool)
        return pool

    def database(self, path: Path) -> Database:
        """The store, to be entered; what cannot be opened now may be later."""
        made = next((made for fault in self.faults if (made := fault.database(path)) is not None), None)
        return made or Database.open(path, must_open=False)

    def denials(self, store: RevocationStore) -> RevocationStore:
        """Where denied keys are kept."""
        for fault in self.faults:
            store = fault.denials(store)
        return store

    def connect(self) -> Connect:
        """The way to the broker."""
        connect: Connect = connect_in_earnest
        for fault in self.faults:
            connect = fault.connect(connect)
        return connect

    def answers(self, line: Line) -> Line:
        """The line on which a cutter elsewhere answers."""
        for fault in self.faults:
            line = fault.answers(line)
        return line

    def clock(self) -> Clock:
        """The clocks of alerts and their delivery."""
        return Clock(wall_ms=self.wall_ms()) if self.faults else Clock()

    def wall_ms(self) -> Callable[[], int]:
        """The wall clock, in milliseconds since the epoch."""
        real = Clock().wall_ms
        return (lambda: real() + sum(fault.wall_step_ms() for fault in self.faults)) if self.faults else real

    def wall_seconds(self) -> Callable[[], float]:
        """The wall clock, in seconds since the epoch."""
        wall_ms = self.wall_ms()
        return lambda: wall_ms() / 1000

    def sign(self, sign: Sign) -> Sign:
        """What alerts are signed with."""
        if not self.faults:
            return sign
        mark = str(self)[:_MARK_CHARACTERS]

        def marked(body: Mapping[str, Any]) -> dict[str, Any]:
            return sign({**body, "simulated": mark})

        return marked


class _RehearsedFile(ConfigFile):
    """The config file of a rehearsal: with a config that must not be rehearsed with, it has a fault."""

    def __init__(self, path: Path, rehearsal: Rehearsal) -> None:
        super().__init__(path)
        self._rehearsal = rehearsal

    def read(self) -> Reading:
        """As `ConfigFile.read`."""
        reading = super().read()
        objection = None if reading.config is None else self._rehearsal.objection(reading.config)
        if objection is None:
            return reading
        key, why = objection
        line = reading.line_of(tuple(key.split("."))) if key == _LIVE else 1
        return replace(reading, config=None, faults=(ConfigFault(str(self.path), line, key, why),))

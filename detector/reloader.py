"""Hot reload: the file is read and checked as a whole, compared with what is in force, and taken up in one go.

On any fault nothing changes: the last good config stays in force, and health notes it. It notes it and does not turn
red, because the service does its whole job: a probe that takes a node out of rotation, or restarts it, over a config
file that only the next start will need would make an outage of a typing mistake. Alarms have a metric of its own.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from detector.analysis.setup import ModelRefused, load_manifests, unknown_classes
from detector.api.view import ReloadReport
from detector.banks.budget import bank_sizes, excesses
from detector.config.config import Config
from detector.config.faults import Fault, key_text
from detector.config.loading import Reading
from detector.config_file import ConfigFile
from detector.logs import configure_logs
from detector.metrics import Metrics
from detector.reload import Changes, difference
from models.manifest import Manifest

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.4
"""A change is taken up at the second look that finds the same: within the second that is promised."""
_OUR_FAULT = "could not be taken up by a fault of stopframe's; restart it, and report what its log says"


class Reloader:
    """Follows one config file for a running service.

    `in_force` is asked for the config that holds, `take` makes the service go by another one.
    """

    def __init__(
        self,
        file: ConfigFile,
        manifests: Sequence[Manifest],
        metrics: Metrics,
        *,
        in_force: Callable[[], Config],
        take: Callable[[Config], Awaitable[None]],
    ) -> None:
        self._file = file
        self._manifests = tuple(manifests)
        self._metrics = metrics
        self._in_force = in_force
        self._take = take
        self._is_asked = asyncio.Event()
        self.around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._turn = asyncio.Lock()
        self._faults: tuple[Fault, ...] = ()
        self._waiting: tuple[str, ...] = ()
        self._earlier: tuple[tuple[str, ...], float] | None = None
        metrics.set_config_taken(is_taken=True)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._file.path

    def follows(self, file: Path) -> bool:
        """Whether `file` is the one, whatever links lead there."""
        try:
            return file.resolve() == self.path.resolve()
        except (OSError, RuntimeError):  # links that lead in a circle
            return False

    def ask(self) -> None:
        """Reload soon, whether the file changed or not; for signal handlers."""
        self._is_asked.set()

    async def run(self) -> None:
        """Reload whenever the file changes or somebody asked, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await self._is_asked.wait()
            is_asked = self._is_asked.is_set()
            self._is_asked.clear()
            if is_asked or await asyncio.to_thread(self._file.has_changed):
                await self.reload()

    async def reload(self) -> ReloadReport:
        """Read the file and take up what differs; with any fault in it, nothing."""
        async with self._turn:
            with self.around():
                try:
                    return await self._reload()
                except Exception as error:
                    # Whatever a part raises: a fault of ours in one reload must end neither the work nor further ones.
                    log.warning("config.refused", fault=type(error).__name__, count=1, note=_OUR_FAULT, exc_info=error)
                    return self._refuse((Fault(str(self.path), 1, "(file)", _OUR_FAULT),), is_told=True)

    async def _reload(self) -> ReloadReport:
        reading = await asyncio.to_thread(self._file.read)
        faults = await asyncio.to_thread(self._examine, reading)
        if faults or reading.config is None:
            return self._refuse(faults)
        return await self._apply(difference(self._in_force(), reading.config))

    def notes(self) -> list[str]:
        """What an operator should know of the file, for health; short, since anybody may read it."""
        notes = []
        if self._faults:
            first, more = self._faults[0], len(self._faults) - 1
            others = f" and {more} more" if more else ""
            key = "" if first.key == "(file)" else f" at {first.key}"
            notes.append(
                f"the config file has a fault in line {first.line}{key}{others}, and the next start would be "
                "refused or leave a model out: the last good config stays in force; "
                "'stopframe check' says what to correct"
            )
        if self._waiting:
            notes.append(
                f"the config file changes {', '.join(self._waiting)}, which takes a restart; until then the old values "
                "are in force"
            )
        return notes

    def _examine(self, reading: Reading) -> tuple[Fault, ...]:
        """Everything for which a start would refuse the file, and one thing that a start would take."""
        if reading.config is None or reading.document is None:
            return reading.faults
        if not reading.document.values:
            what = "holds no value: a reload takes no empty file, since one that is being written looks the same"
            return (self._fault(reading, (), f"{what}; write at least one key"),)
        sizes = bank_sizes(self._in_force().state_dir)
        over = tuple(
            self._fault(reading, ("banks", name, "max_distance"), sentence)
            for name, sentence in excesses(reading.config, sizes)
        )
        if reading.config.models == self._in_force().models:
            return over + tuple(
                self._fault(reading, ("classes", name), sentence)
                for name, sentence in unknown_classes(reading.config, self._manifests)
            )
        try:
            load_manifests(reading.config)
        except ModelRefused as error:
            return (*over, self._fault(reading, ("models",), str(error)))
        return over

    def _fault(self, reading: Reading, location: tuple[str, ...], sentence: str) -> Fault:
        return Fault(str(self.path), reading.line_of(location), key_text(location) or "(file)", sentence)

    def _refuse(self, faults: tuple[Fault, ...], *, is_told: bool = False) -> ReloadReport:
        self._faults = faults
        self._metrics.set_config_taken(is_taken=False)
        if not is_told:
            note = "the last good config is in force"
            log.warning("config.refused", fault=str(faults[0]), count=len(faults), note=note)
        return ReloadReport(str(self.path), faults=tuple(str(fault) for fault in faults))

    async def _apply(self, changes: Changes) -> ReloadReport:
        before = self._in_force()
        was_refused, was_waiting = bool(self._faults), self._waiting
        if changes.in_force != before:
            try:
                await self._take(changes.in_force)
            except BaseException:  # half of two configs is neither: whoever was told of the new one goes back
                await self._take(before)
                raise
        self._faults, self._waiting = (), changes.waiting
        self._metrics.set_config_taken(is_taken=True)
        if changes.applied or was_refused:
            log.info("config.applied", keys=changes.applied)
        if changes.waiting and changes.waiting != was_waiting:
            log.warning("config.waits_for_restart", keys=changes.waiting)
        if changes.in_force.log != before.log:  # after the change was told, whatever level it asks for
            configure_logs(changes.in_force.log.level, changes.in_force.log.format)
        if changes.applied:
            self._earlier = (changes.applied, time.monotonic())
        elif self._earlier is not None:
            keys, at = self._earlier
            ago = round(time.monotonic() - at, 3)
            return ReloadReport(str(self.path), earlier=keys, earlier_seconds=ago, waiting=changes.waiting)
        return ReloadReport(str(self.path), applied=changes.applied, waiting=changes.waiting)

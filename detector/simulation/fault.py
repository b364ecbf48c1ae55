"""What a simulated fault is: when it holds, and the seams of the assembly at which it may stand in for the real one.

A fault overrides the one or two seams where its real counterpart appears; at all others it hands back what it is given.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from detector.alerts.mqtt_connection import Connect
from detector.analysis.pool import AnalysisPool
from detector.config.config import Config
from detector.config.units import Duration, Share
from detector.ingest.revocations import RevocationStore
from detector.store.database import Database
from detector.trust.commands import Line
from streams.job import Job


class Fault(ABC):
    """One fault of a rehearsal: made from its amount, and from when on it holds, in seconds after the start.

    `clock` is the monotonic clock, `started_at` the start in its time. Raises ValueError with a sentence where the
    amount is none.
    """

    name: ClassVar[str]
    """The word by which it is asked for."""

    usual: ClassVar[str]
    """Its amount where none is given."""

    needs_cuts: ClassVar[bool] = False
    """Whether it shows nothing where nothing may be cut."""

    def __init__(
        self, amount: str, begins: Duration, ends: Duration | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.amount = amount
        self.begins, self.ends = begins, ends
        self._clock = clock
        self.started_at = clock()
        self.take_amount(amount)

    @abstractmethod
    def take_amount(self, amount: str) -> None:
        """Read the amount; raise ValueError where it is none."""

    def __str__(self) -> str:
        """As it would be asked for."""
        until = "" if self.ends is None else f"-{self.ends}"
        return f"{self.name}={self.amount}@{self.begins}{until}"

    @property
    def begins_at(self) -> float:
        """When it begins, by the monotonic clock."""
        return self.started_at + self.begins.seconds

    @property
    def ends_at(self) -> float:
        """When it is over, by the monotonic clock."""
        return float("inf") if self.ends is None else self.started_at + self.ends.seconds

    @property
    def is_on(self) -> bool:
        """Whether it holds now."""
        return self.begins_at <= self._clock() < self.ends_at

    def note(self) -> str:
        """What health says of it."""
        state = "under way" if self.is_on else "not begun yet" if self._clock() < self.begins_at else "over"
        return f"simulating {self}: {state}"

    def objection(self, config: Config) -> str | None:
        """Why it would show nothing under this config; None where it would."""
        del config
        return None

    # The seams

    def job(self, job: Job) -> Job:
        """What a reader is told."""
        return job

    def pool(self, pool: AnalysisPool) -> None:  # noqa: B027 - most faults leave it as it is
        """The analysis processes, not started yet."""

    def database(self, path: Path) -> Database | None:
        """The store in place of the usual one."""
        del path
        return None

    def denials(self, store: RevocationStore) -> RevocationStore:
        """Where keys that may not publish outlive the service."""
        return store

    def connect(self, connect: Connect) -> Connect:
        """The way to the broker."""
        return connect

    def answers(self, line: Line) -> Line:
        """The line on which a cutter elsewhere answers."""
        return line

    def wall_step_ms(self) -> int:
        """How far the wall clock is set ahead."""
        return 0


class LastingFault(Fault):
    """A fault whose amount is how long it lasts."""

    def __init__(
        self, amount: str, begins: Duration, ends: Duration | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if ends is not None:
            raise ValueError("its amount is how long it lasts; leave the end out, as in broker-drop=30s@60s")
        super().__init__(amount, begins, Duration(begins.ms + Duration.parse(amount).ms), clock)

    def take_amount(self, amount: str) -> None:
        """As `Fault.take_amount`."""
        if not Duration.parse(amount).ms:
            raise ValueError("0s is no time; write such as 30s")

    def __str__(self) -> str:
        """As `Fault`."""
        return f"{self.name}={self.amount}@{self.begins}"


def share(amount: str) -> float:
    """Read a share as a ratio above 0. Raises ValueError as `Share.parse`."""
    ratio = Share.parse(amount).ratio
    if not ratio:
        raise ValueError("0% is nothing; write such as 5%")
    return ratio

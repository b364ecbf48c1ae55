"""What every client of a hash exchange promises, and what goes wrong between us and one."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from models.lists.contents import ListContents


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a list has been taken in. `position` is the exchange's own word, read by its client alone.

    `version` is what people and alerts call it; `at_seconds` is when the chain that led here began (Unix time).
    """

    position: str
    version: str
    at_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A part of a list. `checkpoint` is set on the last page of a chain, and holds once all of them were taken in.

    `is_everything`: the chain lists all that the exchange holds, so that what is not in it is gone there.
    """

    contents: ListContents
    checkpoint: Checkpoint | None = None
    is_last: bool = False
    is_everything: bool = False


class ExchangeClient(Protocol):
    """Fetches one list of one exchange."""

    @property
    def refetch_after_seconds(self) -> float | None:
        """With a checkpoint older than this all is fetched again: the exchange forgets what it deleted. None: never."""
        ...

    def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """What is new since a checkpoint, or everything; nothing counts before the last page has come.

        Raises:
            ChainBroken: The exchange no longer knows the chain's next page; begin anew.
            ExchangeFailed: It does not answer, or not as it should.
        """
        ...


class ExchangeFailed(Exception):
    """Raised where a list cannot be had now: one sentence. `retry_after_seconds` is what the exchange asked for."""

    def __init__(self, sentence: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class ChainBroken(ExchangeFailed):
    """Raised where the pages so far are of no use any more."""


class NotAdopted(Exception):
    """Raised where a list came whole and is not taken over as it is: one sentence with the remedy."""


Clock = Callable[[], float]
"""Unix time."""

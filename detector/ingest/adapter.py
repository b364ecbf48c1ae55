"""What the service asks of an ingest server, whichever it is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar

from detector.events import CutResult, Publisher, StreamKey
from streams.job import SourceKind

T = TypeVar("T")


class IngestUnavailable(Exception):
    """The ingest server did not do what it was asked, and why, in one sentence without any key.

    Raised by every method of an `IngestServer`. What was asked for may have happened or not: ask again.
    """


@dataclass(frozen=True, slots=True)
class PublisherStarted:
    """A publisher is live that was not before."""

    publisher: Publisher


@dataclass(frozen=True, slots=True)
class PublisherEnded:
    """The publisher on this connection is live no more, for whatever reason."""

    key: StreamKey
    connection: str


PublisherChange: TypeAlias = PublisherStarted | PublisherEnded


class IngestServer(Protocol):
    """One ingest server: an async context manager, usable between its enter and its exit.

    All methods belong to one event loop. Those that wait raise `IngestUnavailable` and may be cancelled at any time.
    """

    @property
    def name(self) -> str:
        """The server's name in `StreamKey.server`."""

    @property
    def can_cut(self) -> bool:
        """Whether `cut` and `revoke` can do anything at all here."""

    async def __aenter__(self) -> Self:
        """Connect or listen."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything; every `changes()` ends."""

    async def publishers(self) -> list[Publisher]:
        """Who is live now, as the server itself reports it."""

    def changes(self) -> AsyncIterator[PublisherChange]:
        """Starts with one `PublisherStarted` for everyone live, then goes on with what changes.

        Memory is bounded by the number of live publishers. A consumer that falls behind gets the difference between
        what it was told and what is true: whoever came and went in between is left out, the present never is. Every
        `PublisherStarted` is followed by its `PublisherEnded`. Ends when the server is left.
        """

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """Drop the publisher of `key`; only the one on `connection` where that is given.

        `CutResult.count` is what the server dropped: 0 means that nothing happened, however politely it answered.
        """

    async def revoke(self, key: StreamKey) -> None:
        """Deny `key` to every later publisher, across restarts. Does not touch a publisher that is live. Idempotent.

        Where the denial is in force before it is on disk, `is_revoked` says so at once, and `cut` may come meanwhile.
        """

    async def restore(self, key: StreamKey) -> None:
        """Undo `revoke`. Idempotent."""

    def is_revoked(self, key: StreamKey) -> bool:
        """Whether `key` is denied; answered from memory."""

    def problems(self) -> list[str]:
        """What keeps this server from being watched or obeyed now, one sentence each; answered from memory."""

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """How the detector's own reader gets at the stream: the kind of source, and a URL that holds the key."""


async def answer_within(seconds: float, question: Awaitable[T]) -> T:
    """What an ingest server answers to `question`; one that hangs raises `IngestUnavailable` after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await question
    except TimeoutError:
        raise IngestUnavailable(f"the ingest server did not answer within {seconds:.1f} s") from None

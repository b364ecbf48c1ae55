"""No ingest server: streams come from URLs in the config, and nothing can be cut."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal, NoReturn, Self

from detector.config.sections import IngestSection
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.board import PublisherBoard
from streams.job import SourceKind


class NoIngestSettings(IngestSection):
    """No ingest server: only `sources` are watched."""

    kind: Literal["none"] = "none"
    """`none` watches only `sources`."""


class NoIngest:
    """Stands where an ingest server would; `can_cut` is False and whatever needs a server says so."""

    can_cut = False

    def __init__(self, name: str = "none") -> None:
        self.name = name
        self._board = PublisherBoard()

    async def __aenter__(self) -> Self:
        """Nothing to connect to."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every `changes()`."""
        self._board.close()

    async def publishers(self) -> list[Publisher]:
        """Nobody publishes here."""
        return []

    def changes(self) -> AsyncIterator[PublisherChange]:
        """Nothing ever changes; ends when the server is left."""
        return self._board.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:  # noqa: ARG002
        """Drop nobody: the count is always 0."""
        return CutResult(count=0)

    async def revoke(self, key: StreamKey) -> None:  # noqa: ARG002
        """Raise `IngestUnavailable`: there is nobody who would deny the key."""
        _refuse("a key cannot be revoked")

    async def restore(self, key: StreamKey) -> None:  # noqa: ARG002
        """Raise `IngestUnavailable`."""
        _refuse("a key cannot be restored")

    def is_revoked(self, key: StreamKey) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def problems(self) -> list[str]:
        """There is nothing to watch."""
        return []

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:  # noqa: ARG002
        """Raise `IngestUnavailable`: such streams have a URL of their own."""
        _refuse("a stream has no reader URL but its own")


def _refuse(what: str) -> NoReturn:
    raise IngestUnavailable(f"{what} without an ingest server: name one under `ingest` in the config")

"""An ingest server that does what a test says, a clock that only sleeping moves, and what is written down of cuts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from detector.events import CutResult, CutState, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.board import PublisherBoard
from detector.store.incidents import CutProgress
from streams.job import SourceKind

KEY = StreamKey("edge", "live", "secret-key")
START = 100.0


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-3)
        await asyncio.sleep(0)


@dataclass
class Server:
    """An ingest server that does what a test says: whom it lists, what it answers, what fails or hangs."""

    clock: Time
    name: str = "edge"
    can_cut: bool = True
    drops: bool = True
    keeps_streaming: bool = False
    failures: dict[str, int] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    comes_back: int = 0
    revoked: set[StreamKey] = field(default_factory=set)
    board: PublisherBoard = field(default_factory=PublisherBoard)
    calls: list[str] = field(default_factory=list)
    gone_at: float | None = None

    def go_live(self, connection: str = "c1") -> None:
        self.gone_at = None
        self.board.add(Publisher(KEY, connection, since_at=0.0))

    def leave(self) -> None:
        for publisher in self.board.current():
            self.board.remove(publisher)

    def last_packet_at(self) -> float | None:
        return self.gone_at if self.gone_at is not None and not self.keeps_streaming else self.clock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.board.close()

    async def publishers(self) -> list[Publisher]:
        await self._answer("publishers")
        return self.board.current()

    async def changes(self) -> AsyncIterator[PublisherChange]:
        await self._answer("changes")
        async for change in self.board.changes():
            yield change

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        await self._answer("cut")
        live = [p for p in self.board.current() if p.key == key and connection in (None, p.connection)]
        if not live or not self.drops:
            return CutResult(0)
        for publisher in live:
            self.board.remove(publisher)
        self.gone_at = self.clock()
        if self.comes_back:
            self.comes_back -= 1
            self.go_live(f"again-{self.comes_back}")
        return CutResult(len(live), self.gone_at)

    async def revoke(self, key: StreamKey) -> None:
        await self._answer("revoke")
        self.revoked.add(key)

    async def restore(self, key: StreamKey) -> None:
        await self._answer("restore")
        self.revoked.discard(key)

    def is_revoked(self, key: StreamKey) -> bool:
        return key in self.revoked

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        return SourceKind.HTTP_TS, "http://127.0.0.1/"

    async def _answer(self, what: str) -> None:
        if what != "changes":
            self.calls.append(what)
        if what in self.hanging:
            await asyncio.Event().wait()
        if self.failures.get(what, 0):
            self.failures[what] -= 1
            raise IngestUnavailable(f"{what} failed")


@dataclass
class Records:
    """What was written down, in order; `is_broken` refuses as a full disk does, `is_frozen` never answers."""

    told: list[tuple[str, CutProgress]] = field(default_factory=list)
    is_broken: bool = False
    is_frozen: bool = False

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        if self.is_frozen:
            await asyncio.Event().wait()
        if self.is_broken:
            raise OSError("no space left")
        self.told.append((incident_id, progress))

    async def withdraw(self, incident_id: str, key: StreamKey) -> None:
        await self.set_cut(incident_id, CutProgress(state=CutState.FAILED, detail=f"withdrawn {key.name}"))

    def states(self) -> list[tuple[str, str]]:
        return [(incident_id, progress.state.value) for incident_id, progress in self.told]

"""New readers in turn: never all streams at one moment, and what is wanted last is what all get."""

import asyncio
import contextlib
import time
from typing import Any

from detector.renewal import Renewal


class _Session:
    """A stream whose new reader gives its first frame after a moment, or none."""

    is_dark = False

    def __init__(self, crowd: "_Crowd") -> None:
        self.settings = 0
        self.state = "live"
        self.is_left = False
        self.last_sample_at = 0.0
        self._crowd = crowd

    async def reconfigure(self, settings: int) -> None:
        self.settings = settings
        self.note_blind()

    def note_blind(self) -> None:
        self._crowd.blind += 1
        self._crowd.most_blind = max(self._crowd.most_blind, self._crowd.blind)
        asyncio.get_running_loop().call_later(0.01, self._seen)

    def _seen(self) -> None:
        self._crowd.blind -= 1
        if self.is_dark:
            return
        self.last_sample_at = time.monotonic()


class _Crowd:
    def __init__(self, count: int) -> None:
        self.wanted = 0
        self.blind = self.most_blind = 0
        self.moved: list[_Session] = []
        self.sessions = [_Session(self) for _ in range(count)]

    def renewal(self) -> Renewal:
        sessions: Any = self.sessions
        return Renewal(lambda: sessions, lambda _: self.wanted, self)  # type: ignore[arg-type,return-value]

    def is_moved(self, session: Any) -> bool:
        return session in self.moved

    def move(self, session: Any) -> Any:
        self.moved.remove(session)
        session.is_left = True
        successor = _Session(self)
        successor.state = "connecting"
        self.sessions[self.sessions.index(session)] = successor
        successor.note_blind()
        return successor

    async def all_have(self, settings: int) -> None:
        async with asyncio.timeout(10):
            while any(session.settings != settings for session in self.sessions):
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _running(renewal: Renewal) -> Any:
    task = asyncio.create_task(renewal.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_tenth_at_a_time(monkeypatch: Any) -> None:
    """Of thirty streams at most three wait for their new reader's first frame together, and all get one."""
    monkeypatch.setattr("detector.renewal._LOOK_SECONDS", 0.001)
    crowd = _Crowd(30)
    renewal = crowd.renewal()
    async with _running(renewal):
        crowd.wanted = 1
        renewal.begin()
        await crowd.all_have(1)
    assert crowd.most_blind == 3


async def test_sources_that_moved_are_opened_anew_a_tenth_at_a_time(monkeypatch: Any) -> None:
    """Whoever changes every URL at once loses sight of a tenth of the streams at a time, and all are moved."""
    monkeypatch.setattr("detector.renewal._LOOK_SECONDS", 0.001)
    crowd = _Crowd(30)
    before = list(crowd.sessions)
    crowd.moved = list(crowd.sessions)
    renewal = crowd.renewal()
    async with _running(renewal):
        renewal.begin()
        async with asyncio.timeout(10):
            while crowd.moved or crowd.blind:
                await asyncio.sleep(0.005)
    assert crowd.most_blind == 3
    assert not set(before) & set(crowd.sessions)


async def test_a_later_wish_overtakes_an_earlier_one(monkeypatch: Any) -> None:
    """What is wanted last is what all streams get, however far the earlier round came."""
    monkeypatch.setattr("detector.renewal._LOOK_SECONDS", 0.001)
    crowd = _Crowd(20)
    renewal = crowd.renewal()
    async with _running(renewal):
        crowd.wanted = 1
        renewal.begin()
        await asyncio.sleep(0.02)
        crowd.wanted = 2
        renewal.begin()
        await crowd.all_have(2)


async def test_a_stream_without_a_picture_holds_nobody_up(monkeypatch: Any) -> None:
    """Whoever was not live before is not waited for."""
    monkeypatch.setattr("detector.renewal._LONGEST_WAIT_SECONDS", 1000.0)
    crowd = _Crowd(5)
    for session in crowd.sessions:
        session.state, session.is_dark = "reconnecting", True
    renewal = crowd.renewal()
    async with _running(renewal):
        crowd.wanted = 1
        renewal.begin()
        await crowd.all_have(1)


async def test_who_has_left_keeps_the_reader_that_reads_the_rest() -> None:
    """What a publisher sent before leaving is still read: a new reader would find nothing."""
    crowd = _Crowd(3)
    crowd.sessions[1].is_left = True
    renewal = crowd.renewal()
    async with _running(renewal):
        crowd.wanted = 1
        renewal.begin()
        while crowd.sessions[2].settings != 1:
            await asyncio.sleep(0.005)
    assert [session.settings for session in crowd.sessions] == [1, 0, 1]

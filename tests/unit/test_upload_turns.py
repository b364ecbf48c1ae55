"""Turns: few at once, in order, and long clips never keep every picture waiting; frames of uploads give way."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from detector.analysis.pool import FrameDropped
from detector.uploads.turns import NoTurn, Turns, UploadShare

FRAME: Any = None
"""Nobody looks at it."""


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_turns_come_in_order_and_large_ones_leave_a_place() -> None:
    """Of three places two go to the large ones that came first; the small one behind them does not wait for those."""
    turns, order = Turns(lambda: 3), []
    release = {name: asyncio.Event() for name in ("L1", "L2", "L3", "s1", "s2")}

    async def one(name: str) -> None:
        async with turns.turn(is_large=name[0] == "L", wait_seconds=10):
            order.append(name)
            await release[name].wait()

    async with asyncio.TaskGroup() as group:
        for name in release:
            group.create_task(one(name))
        await _settle()
        assert order == ["L1", "L2", "s1"]
        assert turns.waiting == 2
        release["s1"].set()
        await _settle()
        assert order[3:] == ["s2"]
        release["L2"].set()
        await _settle()
        assert order[4:] == ["L3"]
        for event in release.values():
            event.set()
    assert turns.waiting == 0


async def test_a_single_place_takes_large_ones_too() -> None:
    """With one place nothing is left over, and nothing waits for ever."""
    async with Turns(lambda: 1).turn(is_large=True, wait_seconds=1):
        pass


async def test_who_waits_too_long_or_leaves_keeps_no_place() -> None:
    """A turn that does not come is told; one that was given up at any moment is the next one's."""
    turns, draw = Turns(lambda: 2), Random(1)
    async with turns.turn(is_large=False, wait_seconds=1), turns.turn(is_large=False, wait_seconds=1):
        with pytest.raises(NoTurn):
            async with turns.turn(is_large=False, wait_seconds=0.01):
                pass

    async def come_and_go() -> None:
        async with turns.turn(is_large=draw.random() < 0.5, wait_seconds=5):
            await asyncio.sleep(0)

    for _ in range(200):
        tasks = [asyncio.create_task(come_and_go()) for _ in range(4)]
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        for task in draw.sample(tasks, 2):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with AsyncExitStack() as both:
        for _ in range(2):
            await both.enter_async_context(turns.turn(is_large=False, wait_seconds=0.5))
    assert turns.waiting == 0


class _Pool:
    """Four processes that drop the first frames and count how many are looked at side by side."""

    workers = 4

    def __init__(self, causes: list[str]) -> None:
        self.causes = causes
        self.now = self.most = 0
        self.asked: list[dict[str, Any]] = []

    async def inspect(self, frame: Any, **asked: Any) -> str:
        self.asked.append(asked)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.causes:
            raise FrameDropped(self.causes.pop())
        return "seen"


async def test_uploads_have_half_of_the_processes_and_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind all live frames, blamed as one stream; what had to go for those is asked for again, a crash is not."""
    monkeypatch.setattr("detector.uploads.turns._PAUSE_SECONDS", 0.001)
    pool = _Pool(["overload"] * 3)
    share = UploadShare(pool)  # type: ignore[arg-type]

    await asyncio.gather(*(share.inspect(FRAME, deadline_at=9.0, look=None) for _ in range(10)))

    assert pool.most == 2
    assert len(pool.asked) == 13
    assert all(one["risk"] < 0 and one["stream"] == "uploads" for one in pool.asked)
    pool.causes = ["crash"]
    with pytest.raises(FrameDropped, match="crash"):
        await share.inspect(FRAME, deadline_at=9.0, look=None)

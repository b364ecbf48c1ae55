"""Whatever a publisher claims about times, he is sampled as packets arrive, and that his times are off is told."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from benchmarks.bitstreams import Picture
from benchmarks.transport import Track, TransportWriter
from detector.publisher_times import PublisherTimes, TimeFault
from streams.frame import Frame
from streams.keeper import Nursery
from streams.sampling import SamplingSettings
from tests.fixtures_hostile import Chunks, Seen, watch
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

PID = 0x100
RATE = 15
AS_SHIPPED = SamplingSettings(burst_share=0.05, spikes=True)
WRAP_SECONDS = 2**33 / 90_000

Claim = Callable[[int], float | None]

CLAIMS: dict[str, tuple[Claim, set[TimeFault]]] = {
    "honest": (lambda number: number / RATE, set()),
    "a tick for each frame": (lambda number: number / 90_000, {TimeFault.STANDSTILL, TimeFault.SKEW}),
    "slow": (lambda number: 0.1 * number / RATE, {TimeFault.STANDSTILL, TimeFault.SKEW}),
    "ten hours ahead": (lambda number: number / RATE + 36_000.0 * (number > 3 * RATE), {TimeFault.JUMP}),
    "back": (lambda number: 100.0 + number / RATE - 60.0 * (number > 3 * RATE), {TimeFault.JUMP}),
    "wrapped": (lambda number: WRAP_SECONDS - 3.0 + number / RATE, set()),
    "none": (lambda _: None, {TimeFault.STANDSTILL, TimeFault.SKEW}),
    "random": (lambda number: random.Random(number).uniform(0.0, 90_000.0), {TimeFault.JUMP}),
}
"""What each frame claims, and what may be told of it; of a set the first within 5 s."""


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as nursery:
        yield nursery


def claiming(claim: Claim, seconds: float) -> Chunks:
    """Steady frames, a keyframe each second, that claim any times."""
    size, writer = Picture(320, 240), TransportWriter([Track(PID)])
    chunks = []
    for number in range(round(seconds * RATE)):
        is_key, at = number % RATE == 0, claim(number)
        data = size.keyframe() if is_key else size.repeat(number % RATE)
        payload = writer.tables() if is_key else b""
        payload += writer.pes(PID, data, at or 0.0, is_keyframe=is_key and at is not None, has_time=at is not None)
        chunks.append((number / RATE, payload))
    return chunks


def told(seen: Seen) -> list[tuple[float, TimeFault]]:
    times = PublisherTimes()
    return [(at, fault) for at, beat in seen.beats if (fault := times.beat(beat)) is not None]


@pytest.mark.parametrize("seconds", [8.0, pytest.param(20.0, marks=pytest.mark.slow)])
async def test_sampling_goes_by_arrival_and_false_times_are_told(nursery: Nursery, seconds: float) -> None:
    """Slow, jumping, missing or random times: a sample nearly each second all the same, and the fault told in five."""
    async with asyncio.timeout(seconds + 60.0):
        all_seen = await asyncio.gather(
            *(watch(nursery, claiming(claim, seconds), sampling=AS_SHIPPED) for claim, _ in CLAIMS.values())
        )
    for (name, (_, faults)), seen in zip(CLAIMS.items(), all_seen, strict=True):
        assert len(seen.frames) >= 0.9 * seconds, name
        assert next(at for at, message in seen.told if isinstance(message, Frame)) <= 2.0 + SLACK_SECONDS, name
        assert {fault for _, fault in told(seen)} <= faults, name
        if faults:
            appears_at = 3.0 if TimeFault.JUMP in faults and name != "random" else 0.0
            assert min(at for at, _ in told(seen)) <= appears_at + 5.0 + SLACK_SECONDS, name

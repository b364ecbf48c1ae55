"""Closer looks that were asked for: only ever closer, for a while, and bounded."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import detector.overrides as overrides_module
from detector.config.config import Config
from detector.overrides import SamplingOverrides, TooManyOverrides, closer
from detector.settings import session_settings
from streams.job import SourceKind
from streams.sampling import SamplingMode, SamplingSettings
from tests.waiting import until

_SETTINGS = session_settings(Config(), "live/key", SourceKind.HTTP_TS, "http://127.0.0.1/live/key")


@given(st.floats(0.2, 600), st.floats(0.2, 600), st.sampled_from(SamplingMode))
def test_it_only_gets_closer(within: float, asked: float, mode: SamplingMode) -> None:
    """What the config promises still holds, and what was asked for holds as well."""
    before = SamplingSettings(detect_within_seconds=within, interval_seconds=within / 2, mode=mode)
    after = closer(before, asked)
    assert after.detect_within_seconds == min(within, asked)
    assert after.interval_seconds <= min(before.interval_seconds, after.detect_within_seconds)
    assert after.mode is (SamplingMode.AUTO if mode is SamplingMode.KEYFRAMES else mode)


async def test_it_holds_for_one_stream_and_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stream is as it was; at the end the stream is, too, and whoever looks is told of both."""
    monkeypatch.setattr(overrides_module, "_LOOK_SECONDS", 0.0)
    now, changes = [100.0], []
    overrides = SamplingOverrides(lambda: changes.append(now[0]), clock=lambda: now[0])
    overrides.put("A", 0.5, 10.0)
    assert overrides.apply("A", _SETTINGS).job.sampling.detect_within_seconds == 0.5
    assert overrides.apply("B", _SETTINGS) is _SETTINGS
    assert replace(overrides.apply("A", _SETTINGS), job=_SETTINGS.job) == _SETTINGS
    now[0] = 110.0
    assert overrides.apply("A", _SETTINGS) is _SETTINGS
    task = asyncio.create_task(overrides.run())
    await until(lambda: len(changes) == 2)
    task.cancel()
    assert changes == [100.0, 110.0]


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more stream is refused; one that is there already may be changed."""
    monkeypatch.setattr(overrides_module, "OVERRIDES_LIMIT", 2)
    overrides = SamplingOverrides(lambda: None)
    overrides.put("A", 0.5, 10.0)
    overrides.put("B", 0.5, 10.0)
    overrides.put("A", 1.0, 10.0)
    with pytest.raises(TooManyOverrides):
        overrides.put("C", 0.5, 10.0)

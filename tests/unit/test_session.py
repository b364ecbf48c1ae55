"""One stream's life, with readers and analysis played by the test."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from detector.backoff import ReconnectSettings
from detector.events import Step
from detector.judging import FRAME_QUEUE_LIMIT
from detector.policy import ClassRule, PolicySettings
from detector.session import LAST_WORDS_SECONDS
from streams.address import SourceUnreachable
from streams.frame import Frame, SampleReason
from streams.keeper import ReaderCrashed
from streams.sampling import SamplingSettings
from streams.wire import Burst, EndCode, Ended
from tests.fixtures_session import OPENED, FakeReader, Scene, frame, heartbeat
from tests.slack import SLACK_SECONDS


async def test_frames_are_judged_in_order_and_seen_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes mean something only in the order in which frames were on screen."""
    scene = Scene(monkeypatch, [OPENED, *(frame(number) for number in range(1, 6)), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: len(scene.pool.seen) == 5)
        await scene.until(lambda: session.last_sample_at is not None)

        assert scene.pool.seen == [1, 2, 3, 4, 5]
        assert session.state == "live"
        assert FakeReader.jobs[0].url == "http://127.0.0.1/live/k"
        assert session.coverage().seen_ns > 0
    assert session.state == "ended"


async def test_a_fault_over_one_frame_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with a frame is counted, and the next one is looked at all the same."""

    def answer(seen: Frame) -> float:
        if seen.sequence < 3:
            raise ValueError("nobody expected this")
        return 0.0

    scene = Scene(monkeypatch, [OPENED, frame(1), frame(2), frame(3), 60.0], answer=answer)
    async with scene.running() as session:
        await scene.until(lambda: session.last_sample_at is not None)
        assert scene.pool.seen == [1, 2, 3]
        assert session.judge.faults == 2
        assert scene.metrics.value("stopframe_dropped_frames_total", cause="worker_lost") == 2


async def test_three_votes_of_a_class_are_one_decision_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier acts on k of n frames; the first hit already asks for a closer look."""
    frames = [item for number in range(1, 5) for item in (frame(number), 0.02)]
    scene = Scene(monkeypatch, [OPENED, *frames, 60.0], answer=lambda _frame: 0.95)
    async with scene.running():
        await scene.until(lambda: bool(scene.decisions))

    assert scene.decisions[0].action is Step.CUT
    assert scene.decisions[0].votes == (3, 5)
    assert FakeReader.told == [(1, 0.3)], "one request is enough for the whole hold"


async def test_votes_and_the_closer_look_survive_a_reader_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can crash the decoder must not be able to reset the count."""
    scene = Scene(
        monkeypatch,
        [OPENED, frame(1), 0.05, frame(2), 0.05, ReaderCrashed(9)],
        [OPENED, frame(1), 60.0],
        answer=lambda _frame: 0.95,
    )
    async with scene.running() as session:
        await scene.until(lambda: bool(scene.decisions))

        assert scene.decisions[0].votes == (3, 5)
        assert session.readers == 2
    assert [number for number, _ in FakeReader.told] == [1, 2]
    assert scene.metrics.value("stopframe_crashes_total", process="reader") == 1


async def test_a_reader_that_ends_is_replaced_and_its_cpu_time_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of a stream outlives its readers."""
    scene = Scene(
        monkeypatch,
        [OPENED, heartbeat(cpu_seconds=1.5), Ended(EndCode.END_OF_STREAM, math.nan, "")],
        [OPENED, heartbeat(cpu_seconds=0.5), 60.0],
    )
    async with scene.running() as session:
        await scene.until(lambda: session.readers == 2 and session.figures.cpu_seconds > 1.9)

        assert session.figures.cpu_seconds == pytest.approx(2.0)
    assert scene.metrics.value("stopframe_reader_cpu_seconds_total") == pytest.approx(2.0)


async def test_frames_of_a_burst_are_judged_together_whatever_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing displaces a burst that waits: not the frames behind it, and a third burst is left out and counted."""
    bursts = [
        Burst(tuple(replace(frame(first + place), reason=SampleReason.SPIKE) for place in range(8)))
        for first in (2, 10, 18)
    ]
    singles = [frame(number) for number in range(30, 60)]
    scene = Scene(monkeypatch, [OPENED, frame(1), 0.05, *bursts, *singles, 60.0])
    scene.pool.gate.clear()
    async with scene.running():
        await scene.until(
            lambda: scene.metrics.value("stopframe_samples_total", reason="keyframe") == 31  # all of them came
        )
        scene.pool.gate.set()
        await scene.until(lambda: bool(scene.pool.seen) and scene.pool.seen[-1] == 59)

    assert scene.pool.seen[1:17] == list(range(2, 18))
    assert scene.pool.seen[17:] == list(range(60 - FRAME_QUEUE_LIMIT, 60))
    assert scene.metrics.value("stopframe_samples_total", reason="spike") == 24
    assert scene.metrics.value("stopframe_dropped_frames_total", cause="queue_full") == 8 + 30 - FRAME_QUEUE_LIMIT


async def test_whole_gops_are_counted_over_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts and spikes add up over heartbeats and over readers; that spikes cannot be seen ends with its reader."""
    beats = [replace(heartbeat(), bursts=1, spikes=3), replace(heartbeat(), bursts=2, spikes=3, spikes_blind=1)]
    script = [OPENED, *beats, 0.2, Ended(EndCode.END_OF_STREAM, math.nan, "")]
    scene = Scene(monkeypatch, script, [OPENED, replace(heartbeat(), bursts=5), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.figures.is_spikes_blind)
        assert scene.metrics.value("stopframe_spikes_blind_streams") == 1
        await scene.until(lambda: session.figures.bursts == 7)

        assert (session.figures.spikes, session.figures.is_spikes_blind) == (3, False)
    assert scene.metrics.value("stopframe_bursts_total") == 7
    assert scene.metrics.value("stopframe_spikes_total") == 3
    assert scene.metrics.value("stopframe_spikes_blind_streams") == 0


async def test_what_waits_too_long_makes_room_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream's backlog is bounded; the newest frames are the ones that count."""
    scene = Scene(monkeypatch, [OPENED, *(frame(number) for number in range(1, 31)), 60.0])
    scene.pool.gate.clear()
    async with scene.running():
        await scene.until(lambda: scene.metrics.value("stopframe_dropped_frames_total", cause="queue_full") > 0)
        await asyncio.sleep(0.05)
        scene.pool.gate.set()
        await scene.until(lambda: bool(scene.pool.seen) and scene.pool.seen[-1] == 30)

    assert scene.pool.seen[-FRAME_QUEUE_LIMIT:] == list(range(31 - FRAME_QUEUE_LIMIT, 31))
    assert len(scene.pool.seen) <= 1 + FRAME_QUEUE_LIMIT, "one may have been with the processes already"


@pytest.mark.parametrize(
    ("drop", "cause"), [("stale", "stale"), ("overload", "overload"), ("crash", "analysis_failed")]
)
async def test_a_frame_that_was_not_looked_at_is_not_seen_time(
    monkeypatch: pytest.MonkeyPatch, drop: str, cause: str
) -> None:
    """Dropped frames never flatter the account."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 60.0], answer=lambda _frame: drop)
    async with scene.running() as session:
        await scene.until(lambda: bool(scene.pool.seen))
        await asyncio.sleep(0.02)

    assert session.coverage().seen_ns == 0
    assert cause in {found.value for found in session.coverage().by_cause_ns}


async def test_a_black_frame_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of black is not a stream that was looked at."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 0.05, frame(2), 60.0], answer=lambda _frame: None)
    async with scene.running() as session:
        await scene.until(lambda: len(scene.pool.seen) == 2)
        await asyncio.sleep(0.02)

    assert session.last_sample_at is None
    assert "low_information" in {found.value for found in session.coverage().by_cause_ns}


async def test_what_a_playlist_wanted_elsewhere_is_counted_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees that a stream named other servers, and a flood of it floods no log."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 5.0])
    with capture_logs() as logs:
        async with scene.running() as session:
            await scene.until(lambda: session.last_sample_at is not None)
            scene.refused()
            scene.refused()
    assert session.requests_refused == scene.metrics.value("stopframe_requests_refused_total") == 2
    assert [entry["event"] for entry in logs].count("session.request_refused") == 1


async def test_other_sampling_is_told_to_the_reader_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream need not be opened anew to be looked at more closely; a reader that does not listen is replaced."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 60.0], [OPENED, 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")
        for detect_within, readers in ((1.0, 1), (2.0, 2)):
            monkeypatch.setattr(FakeReader, "is_listening", readers == 1)
            sampling = SamplingSettings(detect_within_seconds=detect_within)
            await session.reconfigure(replace(session.settings, job=replace(session.settings.job, sampling=sampling)))
            await scene.until(lambda wanted=readers: session.readers == wanted)  # type: ignore[misc]
            assert FakeReader.jobs[-1].sampling == sampling


async def test_what_came_before_the_publisher_left_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shows it last and runs is caught: frames with analysis and the reader's last ones are looked at."""
    monkeypatch.setattr("detector.session.LAST_WORDS_SECONDS", LAST_WORDS_SECONDS + SLACK_SECONDS)
    scene = Scene(
        monkeypatch,
        [OPENED, frame(1), 0.2, frame(2), frame(3), Ended(EndCode.END_OF_STREAM, math.nan, ""), 60.0],
        answer=lambda _frame: 0.95,
    )
    scene.pool.gate.clear()
    task = asyncio.create_task(scene.session.run())
    await scene.until(lambda: scene.session.state == "live")
    scene.session.leave()
    asyncio.get_running_loop().call_later(0.4, scene.pool.gate.set)
    async with asyncio.timeout(30):
        await task

    assert scene.pool.seen == [1, 2, 3]
    assert scene.decisions[-1].votes == (3, 5)
    assert scene.session.state == "ended"


@pytest.mark.parametrize("script", [[OPENED, 60.0], [60.0], [SourceUnreachable("away")]])
async def test_a_session_whose_publisher_left_ends_soon(monkeypatch: pytest.MonkeyPatch, script: list[Any]) -> None:
    """A reader that hangs on, or a source that is waited for, keeps nobody longer than its last words may take."""
    scene = Scene(monkeypatch, *([script] * 9))
    task = asyncio.create_task(scene.session.run())
    await asyncio.sleep(0.05)
    scene.session.leave()
    lived_seconds = time.monotonic() - scene.session.started_at
    scene.session.leave()
    async with asyncio.timeout(LAST_WORDS_SECONDS + 0.5 + SLACK_SECONDS):
        await task

    assert scene.session.coverage().alive_seconds < lived_seconds + 0.01, "what came after it left is not its time"


async def test_new_rules_hold_for_the_next_frame_of_a_running_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold that changes acts on streams that are live, with the same reader and the same votes."""
    frames = [item for number in range(1, 200) for item in (frame(number), 0.01)]
    scene = Scene(monkeypatch, [OPENED, *frames], answer=lambda _frame: 0.4)
    async with scene.running() as session:
        await scene.until(lambda: len(scene.pool.seen) > 5)
        assert not scene.decisions

        policy = PolicySettings(classes={"cards/bars": ClassRule(Step.CUT, 0.3, 0.9)}, votes_k=3, votes_of=5)
        await session.reconfigure(replace(session.settings, policy=policy))
        await scene.until(lambda: bool(scene.decisions))

        assert session.readers == 1
        assert scene.decisions[0].action is Step.REVIEW


@pytest.mark.parametrize("script", [[OPENED, frame(1), 60.0], [OPENED, *[ReaderCrashed(9)]]])
async def test_another_job_is_another_reader_at_once(monkeypatch: pytest.MonkeyPatch, script: list[Any]) -> None:
    """What only a new reader can do is done by one, whether the old one works or is waited for."""
    scene = Scene(monkeypatch, *([script] * 6), [OPENED, 60.0])
    scene.session._reconnect.settings = ReconnectSettings(crash_limit=1)
    async with scene.running() as session:
        await scene.until(lambda: session.readers == 1 and session.state != "connecting")
        await asyncio.sleep(0.05)

        await session.reconfigure(replace(session.settings, job=replace(session.settings.job, max_pixels=99_999)))
        await scene.until(lambda: session.readers >= 2)

        assert FakeReader.jobs[-1].max_pixels == 99_999


async def test_sampling_that_changes_while_a_reader_starts_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload between a reader's job and its first word is not lost on that reader."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 60.0])
    sampling = SamplingSettings(detect_within_seconds=1.5)
    starts = FakeReader.__aenter__

    async def slowly(reader: FakeReader) -> FakeReader:
        await scene.session.reconfigure(
            replace(scene.session.settings, job=replace(scene.session.settings.job, sampling=sampling))
        )
        return await starts(reader)

    monkeypatch.setattr(FakeReader, "__aenter__", slowly)
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")

        assert (session.readers, FakeReader.jobs[-1].sampling) == (1, sampling)


async def test_a_change_and_a_departure_while_the_reader_ends_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is being killed takes a moment: what is asked for meanwhile holds for the next one."""
    scene = Scene(monkeypatch, [OPENED, frame(1), 60.0], [OPENED, 60.0])
    is_ending, may_end = asyncio.Event(), asyncio.Event()

    async def slowly(_reader: FakeReader, *_: object) -> None:
        is_ending.set()
        await may_end.wait()

    monkeypatch.setattr(FakeReader, "__aexit__", slowly)
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")
        for max_pixels in (77_777, 99_999):
            await session.reconfigure(
                replace(session.settings, job=replace(session.settings.job, max_pixels=max_pixels))
            )
            await is_ending.wait()
        may_end.set()
        await scene.until(lambda: session.readers == 2)
        assert FakeReader.jobs[-1].max_pixels == 99_999

        is_ending.clear()
        may_end.clear()
        await session.reconfigure(replace(session.settings, job=replace(session.settings.job, max_pixels=88_888)))
        await is_ending.wait()
        session.leave()
        may_end.set()

"""What a stream's session makes of readers that fail, sources that give nothing, and pictures that do not come."""

import asyncio
import math
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from detector.blindness import BlindRule, Reaction, default_rules
from detector.coverage import Cause
from detector.events import Step
from streams.address import SourceUnreachable
from streams.job import SourceKind
from streams.keeper import ReaderCrashed, ReaderStalled
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended
from tests.fixtures_session import OPENED, FakeReader, Scene, frame, heartbeat
from tests.slack import SLACK_SECONDS


@pytest.mark.parametrize(
    ("code", "cause"),
    [(EndCode.CODEC, "codec"), (EndCode.NO_VIDEO, "no_video"), (EndCode.NOT_FOUND, "unreachable")],
)
async def test_blind_time_carries_its_cause(monkeypatch: pytest.MonkeyPatch, code: EndCode, cause: str) -> None:
    """A stream that cannot be watched says why, second by second."""
    scene = Scene(monkeypatch, *([[0.01, Ended(code, math.nan, "")]] * 20))
    async with scene.running() as session:
        await scene.until(lambda: session.readers >= 2)
        assert session.code == code.value

    assert cause in session.coverage().blind_seconds_by_cause()
    assert session.coverage().seen_ns == 0


async def test_a_source_that_cannot_be_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not up yet is no reason to give up, nor to hammer it."""
    scene = Scene(monkeypatch, [OPENED, 60.0])
    scene.unreachable = 3
    began = time.monotonic()
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")

    assert time.monotonic() - began < 3 + SLACK_SECONDS
    assert "unreachable" in session.coverage().blind_seconds_by_cause()


async def test_a_stalled_reader_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that hangs costs its stream a moment, not the evening."""
    scene = Scene(monkeypatch, [OPENED, ReaderStalled("silent")], [OPENED, 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.readers == 2)

    assert scene.metrics.value("stopframe_crashes_total", process="reader_stalled") == 1


async def test_a_stream_without_packets_is_stalled_until_they_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen publisher is blind time, and is over when it is over."""
    scene = Scene(monkeypatch, [OPENED, heartbeat(quiet_seconds=4.0), 0.2, heartbeat(), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.state == "stalled")
        await scene.until(lambda: session.state == "live")


@pytest.mark.parametrize(("errors", "cause"), [(9, Cause.DECODE_ERRORS), (0, Cause.NO_VIDEO)])
async def test_packets_that_give_no_picture_any_more_are_blindness(
    monkeypatch: pytest.MonkeyPatch, errors: int, cause: Cause
) -> None:
    """One clean keyframe buys nobody the right to go on with what cannot be decoded, or with sound alone."""
    scene = Scene(
        monkeypatch, [OPENED, frame(1), 0.1, heartbeat(errors=errors, later=7.0), 0.1, heartbeat(later=8.0), 60.0]
    )
    async with scene.running() as session:
        await scene.until(lambda: session.state == "stalled")
        assert session.blind_cause is cause
        await asyncio.sleep(0.2)

        assert session.blind_since is not None
        assert session.state == "stalled", "packets alone are no sight"


async def test_packets_that_come_again_before_any_picture_are_still_blindness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause must not make a stream that never gave a picture one that was merely not sampled."""
    scene = Scene(monkeypatch, [OPENED, heartbeat(quiet_seconds=4.0), 0.1, heartbeat(), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.state == "stalled")
        await scene.until(lambda: session.state == "live")

        assert session.blind_since is not None
        assert session.blind_cause is Cause.NO_KEYFRAME


async def test_blindness_has_a_beginning_and_ends_with_the_first_frame_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an alert about a blind stream rests on: since when, and why."""
    scene = Scene(
        monkeypatch,
        [OPENED, 0.1, frame(1), 0.1, Ended(EndCode.CODEC, math.nan, "")],
        *([[0.01, Ended(EndCode.CODEC, math.nan, "")]] * 20),
    )
    async with scene.running() as session:
        assert session.blind_since == session.started_at
        await scene.until(lambda: session.last_sample_at is not None)
        assert session.blind_since is None

        await scene.until(lambda: session.readers >= 3)
        assert session.blind_cause is Cause.CODEC
        assert session.blind_since is not None
        assert session.blind_since > (session.last_sample_at or math.inf)


async def test_a_container_without_video_is_opened_anew_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Video that begins late is seen within `detect_within`, however often there was none before."""
    session = Scene(monkeypatch).session
    pauses = [session._note_end(Ended(EndCode.NO_VIDEO, math.nan, ""), time.monotonic()) for _ in range(40)]

    assert max(pause.seconds for pause in pauses) <= SamplingSettings().detect_within_seconds


async def test_a_source_that_fails_again_and_again_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead source floods no log: only another reason, a time in which it was seen, or five minutes are news."""
    session = Scene(monkeypatch).session
    with capture_logs() as logs:
        for attempt in range(400):
            session._end_telling._told_at -= 1.0  # as if a second had passed
            session._note_end(SourceUnreachable(f"nobody listens there, tried for {attempt} s"), 0.0)
        session._note_end(SourceUnreachable("the name has no address"), 0.0)
        session._has_opened = True
        session.sight.source_opened(OPENED, time.monotonic())
        session.sight.frame_came(frame(1))
        session._note_end(SourceUnreachable("the name has no address"), 0.0)
    assert [entry["event"] for entry in logs] == ["session.reader_lost"] * 4


async def test_a_source_that_gave_pictures_is_opened_anew_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what this reader showed counts: one that cannot be opened any more is tried ever more rarely."""
    session = Scene(monkeypatch).session
    session.sight.source_opened(OPENED, time.monotonic())
    session.sight.frame_came(frame(1))
    for has_opened, longest in ((True, 1.0), (False, 10.0)):
        session._has_opened = has_opened
        ended = [Ended(EndCode.TRACKS_CHANGED, math.nan, "") for _ in range(60)]
        pauses = [session._note_end(one, time.monotonic()).seconds for one in ended]
        assert longest / 2 < max(pauses) <= longest


async def test_blindness_is_told_as_soon_as_it_is_due_and_cuts_where_the_rules_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A codec that nobody can look into is an alert within a second of being known, or a cut."""
    scene = Scene(monkeypatch, *([[OPENED, 0.05, Ended(EndCode.CODEC, math.nan, "")]] * 20))
    blind = {**default_rules(), Cause.CODEC: BlindRule(Reaction.CUT, 0.2)}
    await scene.session.reconfigure(replace(scene.session.settings, blind=blind))
    began = time.monotonic()
    async with scene.running():
        await scene.until(lambda: bool(scene.decisions))

    assert 0.1 <= time.monotonic() - began < 1.0 + SLACK_SECONDS
    told = scene.decisions[0]
    assert (told.action, told.observation, told.is_live) == (Step.CUT, None, True)
    assert (told.signals[0].kind, told.signals[0].name, told.signals[0].source) == ("blind", "codec", "blind/codec")


async def test_a_source_that_drips_is_stalled_and_its_reader_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps a connection alive: without packets it is a stall, and is opened anew."""
    beats = [item for tenth in range(30) for item in (heartbeat(quiet_seconds=tenth / 10), 0.02)]
    scene = Scene(monkeypatch, [OPENED, *beats, 60.0], [OPENED, 60.0])
    job = replace(scene.session.settings.job, read_timeout_seconds=2.5)
    scene.session.settings = replace(scene.session.settings, job=job)
    async with scene.running() as session:
        await scene.until(lambda: session.state == "stalled")
        await scene.until(lambda: session.readers == 2)

    assert scene.metrics.value("stopframe_reader_ends_total", code="timeout") == 1


async def test_a_crash_loop_is_left_alone_and_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth crash in a minute puts a stream into quarantine, with an alert of its own."""
    scene = Scene(monkeypatch, *([[OPENED, 0.02, ReaderCrashed(11)]] * 9))
    async with scene.running() as session:
        await scene.until(lambda: bool(scene.decisions))
        await asyncio.sleep(0.2)

        assert session.readers == 5
        assert (session.state, session.code) == ("quarantined", "crash_loop")
    assert [one.signals[0].name for one in scene.decisions] == ["crash_loop"]


async def test_after_repeated_failure_the_server_is_asked_where_the_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that moved a stream is followed."""
    scene = Scene(monkeypatch, *([[Ended(EndCode.NOT_FOUND, math.nan, "")]] * 4), [OPENED, 60.0])
    scene.session.locate = lambda: (SourceKind.HTTP_FLV, "http://h/live/k.flv")
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")

    kinds = [job.kind for job in FakeReader.jobs]
    assert kinds == [SourceKind.HTTP_TS] * 3 + [SourceKind.HTTP_FLV] * 2

"""What one stream's session sees, from what readers and analysis tell: played on a clock of the test's own."""

import math
from dataclasses import replace
from typing import Any

import pytest

from detector.blindness import default_rules
from detector.coverage import Cause
from detector.sight import Sight, SightSettings
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason
from streams.keeper import ReaderCrashed
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import EndCode, Ended, Heartbeat, Opened

OPENED = Opened("h264", 640, 360, 1, 7, has_seccomp=True, limits_network=True, open_seconds=0.1)


def frame(at: float, track: int = 0) -> Frame:
    plane, picture = bytes(PLANE_BYTES), bytes(PICTURE_BYTES)
    return Frame(1, at, at, None, SampleReason.KEYFRAME, False, 640, 360, plane, picture, track)


def beat(at: float, *, quiet: float = 0.0, keyframes: int = 2, errors: int = 0, **more: Any) -> Heartbeat:
    usual = Heartbeat(at, at - quiet, math.nan, 10, 1000, keyframes, 0, errors, 0, 0, 0, 0.0, 1.0)
    return replace(usual, **more)


def sight(mode: SamplingMode = SamplingMode.AUTO) -> Sight:
    made = Sight(0.0, SightSettings(SamplingSettings(mode=mode), default_rules(), 2.0))
    made.source_opened(OPENED, 0.5)
    return made


def see(seen: Sight, at: float, track: int = 0) -> None:
    seen.frame_came(frame(at, track))
    seen.looked(frame(at, track), is_low_information=False)


def alerts(seen: Sight, until: float) -> list[tuple[float, str]]:
    told = [(tenth / 10, seen.blindness.take(tenth / 10)) for tenth in range(round(until * 10) + 1)]
    return [(at, alert.cause.value) for at, alert in told if alert is not None]


def test_a_stream_that_goes_quiet_is_stalled_since_its_last_packet() -> None:
    """Three seconds after the last packet it is told, whatever the reader's own patience is."""
    seen = sight()
    see(seen, 1.0)
    for half in range(2, 9):
        seen.beat(beat(half / 2, quiet=half / 2 - 1.0))

    assert seen.state == "stalled"
    assert (seen.blindness.cause, seen.blindness.since_at) == (Cause.STALL, 1.0)
    assert alerts(seen, 5.0) == [(4.0, "stall")]

    seen.beat(beat(5.0))
    assert (seen.state, seen.blindness.since_at) == ("live", None)


@pytest.mark.parametrize(
    ("errors", "flagged", "cause"), [(1, 1, Cause.DECODE_ERRORS), (0, 1, Cause.KEYFRAME_WITHOUT_PICTURE)]
)
def test_keyframes_that_never_gave_a_picture_are_told_with_their_cause(errors: int, flagged: int, cause: Cause) -> None:
    """Random bytes in slices, and keyframes in name alone, are told apart within three seconds."""
    seen = sight()
    for half in range(2, 8):
        seen.beat(beat(half / 2, errors=errors * half, keyframes_without_picture=flagged * half))

    assert seen.blindness.cause is cause
    assert alerts(seen, 3.5) == [(3.0, cause.value)]


def test_errors_before_the_first_keyframe_are_nobodys_fault() -> None:
    """Who joins a stream between two keyframes cannot decode it, and waits for ten seconds without an alert."""
    seen = sight()
    for half in range(2, 20):
        seen.beat(beat(half / 2, keyframes=0, errors=half))
    assert alerts(seen, 9.9) == []
    see(seen, 10.0)
    assert seen.blindness.since_at is None


def test_a_picture_now_and_then_is_no_blindness() -> None:
    """A lossy line with errors in every heartbeat is seen as long as pictures come."""
    seen = sight()
    for half in range(2, 60):
        if half % 4 == 0:
            see(seen, half / 2)
        seen.beat(beat(half / 2, errors=half))
    assert seen.state == "live"
    assert alerts(seen, 30.0) == []


def test_pictures_that_stop_while_packets_come_are_missed() -> None:
    """Errors in every heartbeat show it within three seconds; sound alone after twice the promise."""
    broken, sound = sight(), sight()
    for half in range(2, 20):
        if half < 6:
            see(broken, half / 2)
            see(sound, half / 2)
        broken.beat(beat(half / 2, errors=max(0, half - 6)))
        sound.beat(beat(half / 2))
    assert (broken.blindness.cause, broken.blindness.since_at) == (Cause.DECODE_ERRORS, 3.0)
    assert alerts(broken, 6.0) == [(6.0, "decode_errors")]
    assert (sound.blindness.cause, sound.blindness.since_at) == (Cause.NO_VIDEO, 2.5), "nothing was seen since then"
    assert sound.state == "stalled"


def test_errors_now_and_then_and_no_picture_are_told_once_one_was_due() -> None:
    """Hollow keyframes two seconds apart: a packet came later than a picture was promised, and none was there."""
    seen = sight()
    see(seen, 2.0)
    for quarter in range(9, 40):
        seen.beat(beat(quarter / 4, keyframes_without_picture=(quarter - 8) // 8))
    assert (seen.blindness.cause, seen.blindness.since_at) == (Cause.KEYFRAME_WITHOUT_PICTURE, 2.0)

    slow = sight()
    see(slow, 2.0)
    slow.beat(beat(2.5, errors=1))
    slow.beat(beat(6.0, quiet=1.5, errors=1))
    assert slow.state == "live", "whoever sends a packet every few seconds had none in which a picture was due"


def test_a_look_back_at_what_came_before_is_no_picture_of_what_comes_now() -> None:
    """Three seconds of errors are told although the reader decodes the last frame before them meanwhile."""
    seen = sight()
    see(seen, 3.0)
    for half in range(7, 15):
        if half == 12:
            late = replace(frame(3.9), decoded_at=6.0)
            seen.frame_came(late)
            seen.looked(late, is_low_information=False)
        seen.beat(beat(half / 2, errors=max(0, 2 * (half - 8))))
    assert alerts(seen, 7.0) == [(7.0, "decode_errors")]


def test_a_row_of_errors_that_pauses_is_no_picture() -> None:
    """One heartbeat without an error ends no blindness, and the next one does not begin it anew."""
    seen = sight()
    see(seen, 2.0)
    for half in range(5, 16):
        seen.beat(beat(half / 2, errors=half - (half > 11)))
        if half >= 10:
            assert seen.blindness.since_at == 2.5, half


def test_one_track_that_is_seen_hides_no_other_that_is_not() -> None:
    """Of two tracks one shows nothing any more: looks at the other end nothing, however often they come."""
    seen = sight()
    for half in range(2, 40):
        see(seen, half / 2, track=0)
        if half < 8:
            see(seen, half / 2, track=1)
        seen.beat(beat(half / 2 + 0.1, tracks_heard=0b11))

    assert (seen.blindness.cause, seen.blindness.since_at) == (Cause.NO_VIDEO, 3.5)
    assert alerts(seen, 20.0)[0][1] == "no_video"


def test_a_frame_that_waited_in_line_ends_no_blindness() -> None:
    """What arrived before the last packet is judged late, and shows nothing of what came after."""
    seen = sight()
    see(seen, 1.0)
    seen.beat(beat(3.5, quiet=2.0))
    seen.beat(beat(4.0, quiet=2.5))
    seen.looked(frame(1.5), is_low_information=False)
    seen.beat(beat(4.5, quiet=3.0))
    assert (seen.blindness.cause, seen.blindness.since_at) == (Cause.STALL, 1.5)


def test_a_reader_that_gave_up_a_gop_for_cpu_time_blames_nobody() -> None:
    """After the share is there again nothing can be decoded until the next keyframe: that is overload, not no video."""
    seen = sight()
    see(seen, 1.0)
    for half in range(2, 30):
        seen.beat(beat(half / 2, throttled_seconds=min(half / 2, 2.5)))

    assert (seen.blindness.cause, seen.blindness.since_at) == (Cause.OVERLOAD, 1.0)
    assert alerts(seen, 14.0) == [(11.0, "overload")]


def test_a_reader_replaced_whenever_it_would_be_told_is_told_by_what_adds_up() -> None:
    """One picture every eleven seconds, then another track: no blindness lasts long enough, all together do."""
    seen = sight()
    told: list[tuple[float, str]] = []
    for at in range(1, 60):
        if at % 11 == 1:
            see(seen, at + 0.1)
            seen.reader_ended(Ended(EndCode.TRACKS_CHANGED, math.nan, ""), at + 0.5)
            seen.source_opened(OPENED, at + 1.0)
        alert = seen.blindness.take(at + 0.9)
        if alert is not None:
            told.append((at + 0.9, alert.cause.value))
    assert told
    assert told[0][0] < 20.0
    assert told[0][1] == "no_keyframe"


def test_keyframes_alone_that_never_come_again_are_told() -> None:
    """In mode `keyframes` one picture does not vouch for the whole stream."""
    seen = sight(SamplingMode.KEYFRAMES)
    see(seen, 1.0)
    for half in range(3, 140):
        seen.beat(beat(half / 2))
    assert alerts(seen, 70.0)[0][1] == "no_keyframe"


def test_keyframes_alone_are_waited_for_as_long_as_the_publisher_takes() -> None:
    """In mode `keyframes` the publisher sets the pace; without errors nothing is missing."""
    seen = sight(SamplingMode.KEYFRAMES)
    see(seen, 1.0)
    for half in range(3, 60):
        seen.beat(beat(half / 2))
    assert seen.state == "live"


def test_a_stream_is_seen_as_far_as_all_its_tracks_are() -> None:
    """A second track that was looked at later, or not at all, holds the account back."""
    seen = sight()
    for second in range(1, 11):
        see(seen, float(second), track=0)
        if second <= 4:
            see(seen, float(second), track=1)
        seen.beat(beat(second + 0.5, tracks_heard=0b11))

    assert seen.last_sample_at == 4.0
    account = seen.account(10.0)
    assert account.seen_seconds == 7.0
    assert seen.account(10.0).max_gap_seconds == 6.0


def test_a_track_that_never_gave_a_picture_is_blindness() -> None:
    """Whoever puts what is to be seen on the second track is not seen, and that is told."""
    seen = sight()
    for half in range(2, 40):
        see(seen, half / 2, track=0)
        seen.beat(beat(half / 2, tracks_heard=0b11))

    assert seen.blindness.cause is Cause.NO_KEYFRAME
    assert alerts(seen, 20.0)[0][1] == "no_keyframe"
    assert seen.account(20.0).seen_seconds <= 4.5


def test_a_stream_that_wants_more_than_its_share_is_told_as_overload() -> None:
    """A reader that may not look as closely as it was promised is no blindness of the publisher's."""
    seen = sight()
    see(seen, 1.0)
    for half in range(2, 20):
        seen.beat(beat(half / 2, throttled_seconds=half / 2))

    assert seen.blindness.cause is Cause.OVERLOAD
    assert seen.blindness.since_at == 1.0
    assert set(seen.account(9.5).by_cause_ns) <= {Cause.UNSAMPLED, Cause.OVERLOAD}


def test_frames_that_are_lost_on_the_way_are_overload_until_one_is_looked_at() -> None:
    """Dropped frames are skipped time, and an alert when they go on; a black picture is a look, and no sample."""
    seen = sight()
    see(seen, 1.0)
    for second in range(2, 14):
        seen.frame_came(frame(float(second)))
        seen.note(Cause.STALE, float(second))
    assert alerts(seen, 13.0) == [(12.0, "overload")]
    seen.looked(frame(14.0), is_low_information=True)
    assert seen.blindness.since_at is None
    assert seen.last_sample_at == 1.0


def test_what_a_reader_ends_with_is_its_state_and_code() -> None:
    """Operators read why in one word, and quarantine is a state of its own."""
    seen = sight()
    seen.reader_ended(Ended(EndCode.TOO_MANY_TRACKS, math.nan, ""), 1.0)
    assert (seen.state, seen.code, seen.blindness.cause) == ("reconnecting", "too_many_tracks", Cause.TOO_MANY_TRACKS)
    seen.reader_ended(ReaderCrashed(11), 2.0)
    assert (seen.code, seen.blindness.cause) == ("ReaderCrashed", Cause.READER_FAILED)
    seen.quarantined(3.0)
    assert (seen.state, seen.code) == ("quarantined", "crash_loop")
    seen.end(4.0)
    assert seen.state == "ended"
    assert seen.account(9.0).alive_seconds == 4.0


def test_another_promise_holds_at_once() -> None:
    """A shorter `detect_within` counts from the gap that is open."""
    seen = sight()
    see(seen, 1.0)
    seen.adjust(replace(seen._settings, sampling=SamplingSettings(detect_within_seconds=1.0)))
    assert seen.account(5.0).seen_seconds == 2.0


def test_what_a_slowed_stream_does_not_show_is_skipped_for_overload_to_the_second() -> None:
    """Slowed to 10 s from 20 s on: of each gap what is beyond the promise is overload, and nobody calls it blind."""
    seen = sight()
    for second in range(1, 21):
        see(seen, float(second))
    seen.slowed(10.0, 20.0)
    for half in range(41, 60):
        seen.beat(beat(half / 2))
        assert seen.state == "live"
    see(seen, 29.5)
    seen.slowed(0.0, 30.0)
    see(seen, 31.0)
    seen.end(31.0)

    account = seen.account(31.0)
    assert account.by_cause_ns.get(Cause.OVERLOAD) == pytest.approx(6.5e9)
    assert account.seen_ns + account.skipped_ns == account.alive_ns == 31_000_000_000
    assert account.max_gap_seconds == pytest.approx(9.5)
    assert not alerts(seen, 31.0)


def test_a_slowed_stream_that_gives_no_picture_at_all_is_told_later_but_is_told() -> None:
    """Patience grows with the ration, not beyond it; back at full speed it is as short as before."""
    seen = sight()
    see(seen, 1.0)
    seen.slowed(10.0, 1.0)
    for half in range(3, 28):
        seen.beat(beat(half / 2))
    assert seen.state == "live"
    for half in range(28, 34):
        seen.beat(beat(half / 2))
    assert (seen.state, seen.blindness.cause) == ("stalled", Cause.NO_VIDEO)


def test_a_stream_that_is_refused_is_blind_and_told_as_overload() -> None:
    """Nobody looked whether video came: that time is blind, and ends when the stream is let in."""
    seen = Sight(0.0, SightSettings(SamplingSettings(), default_rules(), 2.0))
    seen.refused(0.0)
    assert (seen.state, seen.code) == ("refused", "refused")
    assert alerts(seen, 20.0) == [(10.0, "overload")]
    seen.admitted(20.0)
    seen.end(21.0)
    assert (seen.account(21.0).blind_seconds_by_cause()) == {"refused": 20.0, "connecting": 1.0}

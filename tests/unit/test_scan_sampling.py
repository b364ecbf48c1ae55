"""Which frames of a file are analysed, and the clock that its presentation times make."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.frame import SampleReason
from streams.scan_sampling import MediaClock, ScanSampler


def test_scan_sampler_takes_the_first_every_change_and_one_an_interval() -> None:
    """A scan looks at the first frame, at whatever differs, and at least once an interval."""
    sampler = ScanSampler(interval_seconds=1.0)

    reasons = [sampler.reason(at / 10, 50.0 if at == 14 else 0.5) for at in range(30)]

    taken = {at: reason for at, reason in enumerate(reasons) if reason is not None}
    assert taken == {
        0: SampleReason.SCENE_CHANGE,
        10: SampleReason.INTERVAL,
        14: SampleReason.SCENE_CHANGE,
        24: SampleReason.INTERVAL,
    }


@given(
    times=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6))),
    frame_seconds=st.floats(0.0, 10.0),
    longest=st.floats(0.1, 10.0),
)
def test_media_clock_never_goes_back_nor_leaps(times: list[float | None], frame_seconds: float, longest: float) -> None:
    """Whatever a file claims, its clock starts at 0 and takes small steps forward."""
    clock = MediaClock(frame_seconds, longest)

    read = [clock.advance(time) for time in times]

    assert read[:1] in ([], [0.0])
    assert all(0.0 <= later - earlier <= max(longest, 1.0) + 1e-6 for earlier, later in pairwise(read))


def test_media_clock_counts_what_came_in_and_could_not_be_decoded() -> None:
    """A hole of ten seconds is as long as the packets that were heard in it, and else no more than a step."""
    heard, claimed = MediaClock(1 / 25, longest_step_seconds=3.0), MediaClock(1 / 25, longest_step_seconds=3.0)
    for clock in (heard, claimed):
        clock.advance(0.0)

    assert heard.advance(10.0, heard_seconds=10.0) == pytest.approx(10.0)
    assert claimed.advance(10.0) == pytest.approx(3.0)


def test_media_clock_of_an_honest_file_ends_at_its_duration() -> None:
    """Even frames from any start add up to the duration."""
    clock = MediaClock(1 / 25, longest_step_seconds=3.0)
    for number in range(250):
        clock.advance(500.0 + number / 25)

    assert clock.end(1 / 25) == pytest.approx(10.0)
    assert clock.end() == pytest.approx(10.0)

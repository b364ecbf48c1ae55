"""When the reading thread lets packets gather."""

import time
from dataclasses import replace

import pytest

from streams.gathering import GATHER_SECONDS, Gathering
from streams.job import Job, SandboxMode, SourceKind
from streams.sampling import SamplingSettings

JOB = Job(SourceKind.RTMP, "", 0, live=True, sampling=SamplingSettings(), sandbox=SandboxMode.PREFER)


def rested(gathering: Gathering, read_seconds: float) -> bool:
    begun = time.monotonic()
    gathering.rest(read_seconds)
    return time.monotonic() - begun >= GATHER_SECONDS


def wait() -> None:
    time.sleep(0.002)


def test_only_a_read_that_waited_is_followed_by_a_rest() -> None:
    """What came at once, or was long without waiting, is followed by the next read: nothing piles up behind a rest."""
    gathering = Gathering(JOB)
    wait()
    assert rested(gathering, 0.002)
    assert not rested(gathering, 0.0002)
    assert not rested(gathering, 0.002)  # others had the processor
    wait()
    assert rested(gathering, 0.002)


@pytest.mark.parametrize("kind", [SourceKind.UDP, SourceKind.FILE, SourceKind.HLS])
def test_what_may_be_lost_or_has_a_pace_of_its_own_is_read_at_once(kind: SourceKind) -> None:
    """A socket without flow control is emptied as fast as it fills."""
    gathering = Gathering(replace(JOB, kind=kind))
    wait()

    assert not rested(gathering, 0.002)

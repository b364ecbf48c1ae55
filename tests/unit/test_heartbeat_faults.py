"""What a heartbeat cannot say is not believed: others would pay for what one reader makes up."""

import math
from dataclasses import replace
from typing import Any

import pytest

from streams.heartbeat_faults import heartbeat_fault
from streams.messages import Heartbeat

FIRST = Heartbeat(100.0, 99.9, math.nan, 300, 10**6, 5, 1, 2, 3, 10**6, 1, 1.0, 2.0, 1, 0.5, 1, 1, 0, 5, 0.4, 0.3, 0.2)
LIVED = 10.0


def test_heartbeat_of_a_reader_at_work_is_believed() -> None:
    """Counters that grow or stay, and what may go up and down, are no fault."""
    later = replace(
        FIRST, sent_at=100.5, packets=315, cpu_seconds=1.1, keyframe_cpu_seconds=0.5, gop_seconds=1.0, ring_bytes=0,
        time_skew_seconds=-3.0,
    )  # fmt: skip
    assert not heartbeat_fault(None, FIRST, LIVED)
    assert not heartbeat_fault(FIRST, FIRST, LIVED)
    assert not heartbeat_fault(FIRST, later, LIVED)


@pytest.mark.parametrize(
    "lie",
    [
        {"cpu_seconds": 0.9}, {"cpu_seconds": 25.0}, {"cpu_seconds": 1e308}, {"keyframe_cpu_seconds": -0.1},
        {"through_cpu_seconds": 4.0}, {"whole_cpu_seconds": 0.1}, {"keyframes_decoded": 4}, {"spikes": 2**64 - 1},
        {"keyframes": 2**64 - 1}, {"gop_seconds": -1.0}, {"gop_seconds": 1e300}, {"throttled_seconds": 1e9},
        {"sent_at": 99.0}, {"decode_errors": 1}, {"bursts": 0}, {"received_bytes": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_fault(lie: dict[str, Any]) -> None:
    """Counters never go back, and neither time nor events are more than the reader lived to see."""
    assert heartbeat_fault(FIRST, replace(FIRST, **lie), LIVED)

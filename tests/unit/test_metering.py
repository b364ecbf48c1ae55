"""What a stream costs, piece by piece, from its readers' reports."""

import math
from dataclasses import replace

import pytest

from detector.cpu.metering import StreamMeter
from detector.cpu.rationing import Costs, Demand, Rank, Ration, predicted
from streams.frame import SampleReason
from streams.sampling import SamplingSettings
from streams.wire import Heartbeat

FULL = Ration(0.05, spikes=True)
SLOWED = Ration(0.0, spikes=False, slowed_to_seconds=10.0)
UNKNOWN = Costs()
BEAT = Heartbeat(0.0, 0.0, math.nan, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 2.0)


def costs_of(meter: StreamMeter) -> Costs:
    return meter.costs(UNKNOWN, frames_when_closer=5.0, within_seconds=3.0)


class Reader:
    """One reader that does the same in each second."""

    def __init__(self, meter: StreamMeter, beat: Heartbeat = BEAT) -> None:
        self.meter, self.at = meter, beat
        meter.beat(beat, FULL, is_close=False)

    def work(
        self,
        seconds: int,
        ration: Ration = FULL,
        *,
        reading: float = 0.01,
        keyframes: int = 1,
        through: float = 0.0,
        is_close: bool = False,
    ) -> None:
        """Keyframes cost 0.02 in the reader and 0.005 in analysis, each."""
        for _ in range(seconds):
            for _ in range(keyframes):
                self.meter.analysed(SampleReason.KEYFRAME, 0.005)
            was = self.at
            self.at = replace(
                was,
                sent_at=was.sent_at + 1.0,
                cpu_seconds=was.cpu_seconds + reading + 0.02 * keyframes + through,
                keyframes_decoded=was.keyframes_decoded + keyframes,
                keyframe_cpu_seconds=was.keyframe_cpu_seconds + 0.02 * keyframes,
                through_cpu_seconds=was.through_cpu_seconds + through,
            )
            self.meter.beat(self.at, ration, is_close=is_close)


def test_nothing_is_said_before_anything_is_measured() -> None:
    """A stream that has just begun costs what an unknown one does."""
    assert costs_of(StreamMeter()) is UNKNOWN


def test_costs_are_told_apart_by_what_they_were_for() -> None:
    """Reading, one keyframe, how many of them: each from its own figures, analysis with what it was for."""
    meter = StreamMeter()
    Reader(meter).work(30)
    costs = costs_of(meter)
    assert costs.reading == pytest.approx(0.01)
    assert costs.keyframe_seconds == pytest.approx(0.025)
    assert costs.keyframes_per_second == pytest.approx(1.0)
    assert costs.through == 0.0
    assert meter.reader_cores == pytest.approx(0.03)
    assert meter.analysis_cores == pytest.approx(0.005)


def test_what_a_stream_costs_at_full_speed_is_remembered_while_it_is_slowed() -> None:
    """Only then can anybody say what giving it back would take."""
    meter = StreamMeter()
    reader = Reader(meter)
    reader.work(30, through=0.2)
    reader.work(120, SLOWED, keyframes=0)
    costs = costs_of(meter)
    assert costs.through == pytest.approx(0.2)
    assert costs.keyframes_per_second == pytest.approx(1.0)
    assert costs.keyframe_seconds == pytest.approx(0.025)
    assert meter.cores == pytest.approx(0.01, rel=0.01)


def test_a_closer_look_is_no_part_of_what_is_usual() -> None:
    """What a weak hit or a hint costs counts as that, and is over with it."""
    meter = StreamMeter()
    reader = Reader(meter)
    reader.work(20)
    reader.work(20, keyframes=0, through=0.3, is_close=True)
    costs = costs_of(meter)
    assert costs.through == 0.0
    assert costs.closer == pytest.approx(0.3, rel=0.05)


def test_a_reader_that_takes_over_counts_from_nothing() -> None:
    """Neither what its start took nor the step back of its counters is taken for work."""
    meter = StreamMeter()
    Reader(meter).work(20)
    meter.ended()
    Reader(meter, replace(BEAT, sent_at=40.0, cpu_seconds=5.0)).work(20)
    assert meter.cores == pytest.approx(0.035)


def test_a_stream_never_seen_at_full_speed_is_guessed_from_its_gops() -> None:
    """Whoever was slowed from the start and has long GOPs will be decoded through when he is let go."""
    meter = StreamMeter()
    Reader(meter, replace(BEAT, gop_seconds=8.0)).work(20, SLOWED)
    assert costs_of(meter).through == pytest.approx(6.0 * 0.025)
    short = StreamMeter()
    Reader(short).work(20, SLOWED)
    assert costs_of(short).through == 0.0


@pytest.mark.parametrize("through_before", [0.0, 0.2])
def test_whoever_sends_no_more_keyframes_while_he_is_slowed_is_not_thought_cheap(through_before: float) -> None:
    """He has to be decoded through all the same: the floor costs what it costs, and letting him go no less."""
    meter = StreamMeter()
    reader = Reader(meter)
    reader.work(30, through=through_before)
    reader.work(30, SLOWED, keyframes=0, through=0.2)
    costs = costs_of(meter)
    slowed = predicted(Demand("a", SamplingSettings(), Rank(), costs), SLOWED)
    assert slowed == pytest.approx(0.2, rel=0.2)
    assert predicted(Demand("a", SamplingSettings(), Rank(), costs), FULL) >= slowed
    reader.work(60)
    assert costs_of(meter).through == pytest.approx(0.0, abs=0.01)
    assert costs_of(meter).slowed_through == pytest.approx(0.0, abs=0.01)


def test_a_reader_that_claims_the_impossible_is_counted_for_two_cores() -> None:
    """Whoever took over a reader by what he sent takes no more from the others than a reader could use."""
    meter = StreamMeter()
    Reader(meter).work(20, reading=1e6, through=1e6)
    costs = costs_of(meter)
    assert meter.reader_cores <= 2.0
    assert max(costs.reading, costs.through, costs.whole, costs.closer) < 2.5

"""What one stream costs, piece by piece, from its readers' reports and its frames' analysis: pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from detector.cpu.rationing import Costs, Ration, keyframes_suffice
from streams.frame import OF_BURSTS, SampleReason
from streams.wire import Heartbeat

_MEMORY_SECONDS = 10.0
"""What was measured counts half as much after some 7 seconds."""

_ENOUGH_EVENTS = 0.2
"""So few keyframes or GOPs, within memory, say nothing new about what one costs."""

_ENOUGH_SECONDS = 1.5
"""What was watched for less, within memory, says nothing about what it costs a second."""

_WHOLE_PER_KEYFRAME = 6.0
"""A keyframe each two seconds costs about a twelfth of decoding everything: so many keyframes' cost a second."""

_MOST_CORES = 2.0
"""More CPU seconds a second no reader uses: what one says beyond that it has saved up, or made up."""


class _Rate:
    """What adds up, within memory, over the seconds or events that it goes with; the last good ratio is remembered."""

    def __init__(self, enough: float) -> None:
        self._enough = enough
        self._amount = self._over = 0.0
        self.value: float | None = None

    def note(self, amount: float, over: float, decay: float) -> None:
        self._amount = self._amount * decay + amount
        self._over = self._over * decay + over
        if self._over >= self._enough:
            self.value = self._amount / self._over

    def lower_to(self, value: float | None) -> None:
        """Remember no more than this."""
        if value is not None and self.value is not None and value < self.value:
            self._amount, self.value = value * self._over, value


@dataclass(slots=True)
class _Analysis:
    """CPU seconds of frames analysed since the last report."""

    keyframes: float = 0.0
    through: float = 0.0
    whole: float = 0.0
    frames: int = 0


class StreamMeter:
    """Measures one stream over all its readers. `cores` and `analysis_cores` are what it costs now, a second."""

    def __init__(self) -> None:
        self.heard_at = -math.inf
        """When a reader last reported."""
        self.expected: float | None = None
        """What it should cost a second by the ration that it has; None before anybody worked that out."""
        self._expected = _Rate(_ENOUGH_SECONDS)
        self._before: Heartbeat | None = None
        self._analysis = _Analysis()
        self._analysed = _Rate(_ENOUGH_EVENTS)
        self._all, self._reader = _Rate(_ENOUGH_SECONDS), _Rate(_ENOUGH_SECONDS)
        self._reading, self._through = _Rate(_ENOUGH_SECONDS), _Rate(_ENOUGH_SECONDS)
        self._slowed_through = _Rate(_ENOUGH_SECONDS)
        self._closer = _Rate(_ENOUGH_SECONDS)
        self._keyframe, self._keyframes = _Rate(_ENOUGH_EVENTS), _Rate(_ENOUGH_SECONDS)
        self._whole, self._spikes = _Rate(_ENOUGH_EVENTS), _Rate(_ENOUGH_SECONDS)
        self._gop_seconds = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether it was watched for long enough to say what it costs."""
        return self._all.value is not None

    @property
    def reader_cores(self) -> float:
        """CPU seconds a second of its reader, of late."""
        return self._reader.value or 0.0

    @property
    def gop_seconds(self) -> float:
        """The longest of its last GOPs; 0 before it is known."""
        return self._gop_seconds

    @property
    def cores(self) -> float:
        """CPU seconds a second of its reader and of the analysis of its frames, of late."""
        return self._all.value or 0.0

    @property
    def expected_cores(self) -> float:
        """What `expected` was of late, by the same memory as `cores`."""
        return self._expected.value or 0.0

    @property
    def analysis_cores(self) -> float:
        """CPU seconds a second of the analysis of its frames, of late."""
        return max(0.0, self.cores - self.reader_cores)

    def analysed(self, reason: SampleReason, cpu_seconds: float) -> None:
        """A frame was analysed; it belongs to what it was taken for."""
        if reason is SampleReason.KEYFRAME:
            self._analysis.keyframes += cpu_seconds
        elif reason in OF_BURSTS:
            self._analysis.whole += cpu_seconds
        else:
            self._analysis.through += cpu_seconds
        self._analysis.frames += 1

    def beat(self, beat: Heartbeat, ration: Ration, *, is_close: bool) -> None:
        """A reader's report. `ration` was in force, and `is_close` says that the stream was decoded through for more.

        What a reader spent on its start counts as nobody's.
        """
        before, self._before, self.heard_at = self._before, beat, beat.sent_at
        if before is None or beat.sent_at <= before.sent_at or beat.cpu_seconds < before.cpu_seconds:
            return
        seconds = beat.sent_at - before.sent_at
        decay = math.exp(-seconds / _MEMORY_SECONDS)
        analysis, self._analysis = self._analysis, _Analysis()
        most = _MOST_CORES * seconds
        keyframes = min(most, beat.keyframe_cpu_seconds - before.keyframe_cpu_seconds) + analysis.keyframes
        through = min(most, beat.through_cpu_seconds - before.through_cpu_seconds) + analysis.through
        whole = min(most, beat.whole_cpu_seconds - before.whole_cpu_seconds) + analysis.whole
        in_reader = min(most, beat.cpu_seconds - before.cpu_seconds)
        in_analysis = analysis.keyframes + analysis.through + analysis.whole
        reading = in_reader + in_analysis - keyframes - through - whole
        self._gop_seconds = beat.gop_seconds or self._gop_seconds
        self._reader.note(in_reader, seconds, decay)
        self._all.note(in_reader + in_analysis, seconds, decay)
        expected = (in_reader + in_analysis) / seconds if self.expected is None else self.expected
        self._expected.note(expected * seconds, seconds, decay)
        self._reading.note(max(0.0, reading), seconds, decay)
        if analysis.frames:
            self._analysed.note(in_analysis, analysis.frames, decay)
        decoded = beat.keyframes_decoded - before.keyframes_decoded
        self._keyframe.note(keyframes, decoded, decay)
        spikes = max(0, beat.spikes - before.spikes)
        self._whole.note(whole, (spikes + max(0, beat.bursts - before.bursts)) * self._gop_seconds, decay)
        if is_close:
            self._closer.note(keyframes + through + whole, seconds, decay)
        elif ration.slowed_to_seconds:
            if not self._through.value or keyframes_suffice(self._gop_seconds, ration.slowed_to_seconds):
                self._slowed_through.note(through, seconds, decay)
        else:
            self._through.note(through, seconds, decay)
            # Who is slowed is never decoded through for more than who is not: what was so before this is over.
            self._slowed_through.lower_to(self._through.value)
            self._keyframes.note(decoded, seconds, decay)
            if ration.spikes:
                self._spikes.note(spikes * self._gop_seconds, seconds, decay)

    def ended(self) -> None:
        """The reader that reported is gone; the next one counts from nothing."""
        self._before = None
        self._analysis = _Analysis()

    def costs(self, unknown: Costs, *, frames_when_closer: float, within_seconds: float) -> Costs:
        """The costs as far as they were measured; the rest by what is known of the stream, else as in `unknown`.

        `frames_when_closer` is how many frames a second a closer look analyses, `within_seconds` what is promised.
        """
        if not self.is_measured:
            return unknown
        keyframe = _or(self._keyframe.value, unknown.keyframe_seconds)
        through, slowed_through = self._through.value, _or(self._slowed_through.value, 0.0)
        whole = _first(self._whole.value, through or None, _WHOLE_PER_KEYFRAME * keyframe)
        if through is None:  # never seen unslowed: whoever has long GOPs will be decoded through
            through = whole if self._gop_seconds > 1.2 * within_seconds else 0.0
        analysed = _or(self._analysed.value, 0.0)
        closer = _first(self._closer.value, max(whole, through) + frames_when_closer * analysed)
        return Costs(
            reading=_or(self._reading.value, unknown.reading),
            keyframe_seconds=keyframe,
            keyframes_per_second=_or(self._keyframes.value, self._keyframes_expected()),
            through=max(through, slowed_through),  # his GOPs may have become long while he was slowed
            slowed_through=slowed_through,
            whole=whole,
            spike_share=min(1.0, _or(self._spikes.value, 0.0)),
            closer=closer,
            gop_seconds=self._gop_seconds,
        )

    def _keyframes_expected(self) -> float:
        return 1.0 / self._gop_seconds if self._gop_seconds > 0.5 else 2.0


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _first(*values: float | None) -> float:
    return next(each for each in values if each is not None)


def total_cores(meters: Iterable[StreamMeter]) -> tuple[float, float]:
    """CPU seconds a second of all readers, and of the analysis of their frames."""
    rows = [(each.reader_cores, each.analysis_cores) for each in meters]
    return sum(row[0] for row in rows), sum(row[1] for row in rows)

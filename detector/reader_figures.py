"""What the readers of one stream used and did, over all of them: their heartbeats as sums, and as metrics."""

from detector.metric_words import DropCause
from detector.metrics import Metrics
from streams.wire import Heartbeat


class ReaderFigures:
    """Sums of one session. A reader counts from its start: `ended` must be told before the beats of the next."""

    def __init__(self, metrics: Metrics) -> None:
        self.last: Heartbeat | None = None
        """The latest of the reader that works now."""
        self.bursts = 0
        self.spikes = 0
        self.is_spikes_blind = False
        """Whether packet sizes of one of its tracks could not show a scene change now."""
        self._metrics = metrics
        self._cpu_seconds_before = 0.0

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all readers."""
        return self._cpu_seconds_before + (self.last.cpu_seconds if self.last else 0.0)

    def beat(self, beat: Heartbeat) -> None:
        """Add what a reader did since its beat before."""
        before, self.last = self.last, beat
        metrics = self._metrics
        metrics.keyframes_without_picture(
            beat.keyframes_without_picture - (before.keyframes_without_picture if before else 0)
        )
        metrics.decode_errors(beat.decode_errors - (before.decode_errors if before else 0))
        metrics.reader_cpu(beat.cpu_seconds - (before.cpu_seconds if before else 0.0))
        bursts = max(0, beat.bursts - (before.bursts if before else 0))
        spikes = max(0, beat.spikes - (before.spikes if before else 0))
        metrics.decoded_whole(bursts, spikes)
        self.bursts += bursts
        self.spikes += spikes
        self._note_spikes_blind(is_blind=beat.spikes_blind > 0)
        metrics.dropped(DropCause.REPLACED, beat.replaced_samples - (before.replaced_samples if before else 0))

    def ended(self) -> None:
        """The reader that worked is gone."""
        self._note_spikes_blind(is_blind=False)
        self._cpu_seconds_before = self.cpu_seconds
        self.last = None

    def _note_spikes_blind(self, *, is_blind: bool) -> None:
        self._metrics.spikes_blind(is_blind - self.is_spikes_blind)
        self.is_spikes_blind = is_blind

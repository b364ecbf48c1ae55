"""What the service counts: one `Metrics` object around a registry of its own, and one method per event.

Callers name facts (`metrics.sample(reason)`) and never see a metrics library. Label values are words from small
sets: never a stream, a session, an address or a key, so the number of series does not grow with the streams.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum, unique
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from detector.events import CutState, Step
from detector.ingest.hooks import HookOutcome
from detector.log_output import LogOutput
from models.evidence import Inspection
from streams.frame import SampleReason
from streams.wire import EndCode

LABEL_LIMIT = 64
"""Most distinct words that one label takes; what comes after is counted under `OTHER`."""

OTHER = "other"

_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WAY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@unique
class DropCause(StrEnum):
    """Why a sampled frame was never analysed."""

    REPLACED = "replaced"
    STALE = "stale"
    QUEUE_FULL = "queue_full"
    WORKER_LOST = "worker_lost"


@unique
class CrashKind(StrEnum):
    """Which process ended without being told to."""

    READER = "reader"
    READER_STALLED = "reader_stalled"
    READER_MISBEHAVED = "reader_misbehaved"
    FORKSERVER = "forkserver"
    ANALYSIS_WORKER = "analysis_worker"


@unique
class AlertState(StrEnum):
    """How far an alert got."""

    QUEUED = "queued"
    NOT_DURABLE = "not_durable"
    RETRIED = "retried"
    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"


@unique
class Refusal(StrEnum):
    """Why a request to the control API over TCP was refused."""

    NONE_GIVEN = "none_given"
    WRONG = "wrong"
    TOO_MANY = "too_many"


@unique
class RowsLost(StrEnum):
    """What waited for the disk until memory had no more room for it."""

    ACCOUNTS = "accounts"
    INCIDENTS = "incidents"


CoverageKind = Literal["seen", "skipped", "blind"]


class _Words:
    """Keeps the values of one label few: the first `LABEL_LIMIT` pass, the rest become `OTHER`."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = set(known)

    def __call__(self, word: str) -> str:
        if word in self._known:
            return word
        if len(self._known) >= LABEL_LIMIT:
            return OTHER
        self._known.add(word)
        return word


class _WithoutCreationTimes(Collector):
    """The registry's metrics without the `_created` series, which double the text and help nobody here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            if metric.samples:
                yield metric


class Metrics:
    """All counters, gauges and histograms of one running service. Several may live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        self._make_histograms()
        self._make_counters()
        self._make_gauges()
        self._log_lines_counted = 0
        self._stages, self._models, self._causes = _Words(), _Words(), _Words(DropCause)
        self._signal_kinds, self._blind_causes = _Words(("hash", "class", "blind")), _Words()

    def expose(self) -> tuple[bytes, str]:
        """Return the Prometheus text and its content type."""
        self._log_lines_lost.inc(LogOutput.lines_lost_total - self._log_lines_counted)
        self._log_lines_counted = LogOutput.lines_lost_total
        return generate_latest(_WithoutCreationTimes(self._registry)), CONTENT_TYPE_LATEST

    def value(self, name: str, **labels: str) -> float:
        """Return one sample by its exposed name, 0.0 where it was never set: for `top`, benchmarks and tests."""
        return self._registry.get_sample_value(name, labels) or 0.0

    # Times

    def stage(self, stage: str, seconds: float) -> None:
        """One frame spent `seconds` in `stage`: wait, decode, queue, views, hash, match, decide, store, publish."""
        self._stage_seconds.labels(self._stages(stage)).observe(max(0.0, seconds))

    def inspection(self, inspection: Inspection) -> None:
        """One frame was analysed: its stage times, its low information, the models that failed on it."""
        for stage, seconds in inspection.stage_seconds.items():
            self.stage(stage, seconds)
        if inspection.is_low_information:
            self._low_information.inc()
        for model in inspection.failed_models:
            self.model_failure(model)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time the block as `stage`, whether it succeeds or raises."""
        started_at = time.perf_counter()
        try:
            yield
        finally:
            self.stage(stage, time.perf_counter() - started_at)

    def frame_to_decision(self, seconds: float) -> None:
        """From a frame's arrival to the decision about it."""
        self._frame_to_decision.observe(max(0.0, seconds))

    def frame_to_ack(self, seconds: float) -> None:
        """From a frame's arrival to the acknowledgement of its alert."""
        self._frame_to_ack.observe(max(0.0, seconds))

    def cut_done(self, seconds: float) -> None:
        """From a frame's arrival to the last media byte that the ingest server accepted."""
        self._cut_seconds.observe(max(0.0, seconds))

    # What was looked at

    def sample(self, reason: SampleReason) -> None:
        """One sampled frame reached the service."""
        self._samples.labels(reason.value).inc()

    def dropped(self, cause: DropCause | str, count: int = 1) -> None:
        """`count` sampled frames were given up before analysis."""
        if count > 0:
            self._drops.labels(self._causes(str(cause))).inc(count)

    def low_information_frame(self) -> None:
        """One frame held too little to be shown to a model. `inspection` counts this itself."""
        self._low_information.inc()

    def model_failure(self, model: str) -> None:
        """One model gave no valid answer. `inspection` counts this itself."""
        self._model_failures.labels(self._models(model)).inc()

    def coverage(self, kind: CoverageKind, seconds: float, cause: str = "") -> None:
        """`seconds` of one stream's time alive were seen, skipped or blind, and why."""
        if seconds > 0:
            self._coverage.labels(kind, self._blind_causes(cause)).inc(seconds)

    # Readers and workers

    def reader_ended(self, code: EndCode) -> None:
        """One reader said its last word."""
        self._reader_ends.labels(code.value).inc()

    def reader_restarted(self) -> None:
        """One stream got a new reader."""
        self._reader_restarts.inc()

    def crashed(self, kind: CrashKind) -> None:
        """One process ended or was ended without having been told to stop."""
        self._crashes.labels(kind.value).inc()

    def keyframes_without_picture(self, count: int) -> None:
        """`count` more packets were flagged as keyframes and gave no picture."""
        if count > 0:
            self._keyframes_without_picture.inc(count)

    def decoded_whole(self, bursts: int, spikes: int) -> None:
        """So many more GOPs were decoded whole, by chance and because of packet sizes."""
        self._bursts.inc(bursts)
        self._spikes.inc(spikes)

    def spikes_blind(self, change: int) -> None:
        """By so many there are more live streams now whose packet sizes could not show a scene change."""
        self._spikes_blind.inc(change)

    def decode_errors(self, count: int) -> None:
        """`count` more decode errors in readers."""
        if count > 0:
            self._decode_errors.inc(count)

    def request_refused(self) -> None:
        """A reader asked for something at another server than its source's own, and got nothing."""
        self._requests_refused.inc()

    def reader_cpu(self, seconds: float) -> None:
        """Readers used `seconds` more of CPU time."""
        if seconds > 0:
            self._reader_cpu.inc(seconds)

    # What was decided and done

    def signal(self, kind: str, step: Step) -> None:
        """One signal reached `step` of its ladder. `kind`: hash, class or blind."""
        self._signals.labels(self._signal_kinds(kind), step.word).inc()

    def decision(self, action: Step) -> None:
        """The policy decided about one frame."""
        self._decisions.labels(action.word).inc()

    def hook(self, outcome: HookOutcome, seconds: float) -> None:
        """An ingest server asked and was answered after `seconds`."""
        self._hooks.labels(outcome.value).observe(seconds)

    def breaker_refused(self) -> None:
        """The breaker made a review out of a cut."""
        self._breaker_refusals.inc()

    def alert(self, state: AlertState) -> None:
        """One alert reached `state`."""
        self._alerts.labels(state.value).inc()

    def cut(self, state: CutState) -> None:
        """One cut reached `state`."""
        self._cuts.labels(state.value).inc()

    # The self-test

    def selftest(self, *, ok: bool, at_seconds: float) -> None:
        """A self-test began at `at_seconds` (Unix time) and succeeded or not."""
        self._selftests.labels("ok" if ok else "failed").inc()
        if ok:
            self._selftest_success.set(at_seconds)

    def selftest_unsent(self) -> None:
        """The broker did not take the result of a self-test."""
        self._selftests.labels("unsent").inc()

    def rows_lost(self, what: RowsLost, count: int) -> None:
        """So many more than before were lost, because neither disk nor memory had room."""
        self._rows_lost.labels(what.value).inc(count)

    def http_refused(self, reason: Refusal) -> None:
        """A request to the control API over TCP had no right token."""
        self._http_refusals.labels(reason.value).inc()

    # How much there is now

    def set_live_streams(self, count: int) -> None:
        """How many publishers are live now."""
        self._live_streams.set(count)

    def set_analysis_workers(self, count: int) -> None:
        """How many analysis workers are ready now."""
        self._analysis_workers.set(count)

    def set_queue_depth(self, count: int) -> None:
        """How many frames wait for analysis now."""
        self._queue_depth.set(count)

    def set_config_taken(self, *, is_taken: bool) -> None:
        """Whether the config file, as it is on disk, could be taken up."""
        self._config_taken.set(is_taken)

    def set_health_problems(self, count: int) -> None:
        """How many problems health names now."""
        self._health_problems.set(count)

    def set_outbox_pending(self, count: int) -> None:
        """How many alerts are on disk and not delivered now."""
        self._outbox_pending.set(count)

    # Construction

    def _make_histograms(self) -> None:
        self._stage_seconds = Histogram(
            "stopframe_stage_seconds",
            "Time one frame or alert spent in one stage.",
            ["stage"],
            registry=self._registry,
            buckets=_STAGE_BUCKETS,
        )
        self._frame_to_decision = self._way("frame_to_decision", "From a frame's arrival to the decision about it.")
        self._frame_to_ack = self._way("frame_to_ack", "From a frame's arrival to its alert's acknowledgement.")
        self._cut_seconds = self._way("cut", "From a frame's arrival to the last media byte the server accepted.")
        self._hooks = Histogram(
            "stopframe_hook_seconds",
            "From an ingest server's question to its answer, by what became of it.",
            ("outcome",),
            registry=self._registry,
            buckets=_STAGE_BUCKETS,
        )

    def _make_counters(self) -> None:
        self._samples = self._counter("samples", "Sampled frames received.", "reason", SampleReason)
        self._drops = self._counter("dropped_frames", "Sampled frames never analysed.", "cause", DropCause)
        self._low_information = self._counter("low_information_frames", "Frames not shown to any model.")
        self._model_failures = self._counter("model_failures", "Answers that a model failed to give.", "model")
        self._coverage = Counter(
            "stopframe_coverage_seconds",
            "Stream time by what became of it.",
            ["kind", "cause"],
            registry=self._registry,
        )
        self._reader_ends = self._counter("reader_ends", "Readers that ended, by their last word.", "code", EndCode)
        self._reader_restarts = self._counter("reader_restarts", "Readers started again for a live stream.")
        self._crashes = self._counter("crashes", "Processes that ended unbidden.", "process", CrashKind)
        self._keyframes_without_picture = self._counter(
            "keyframes_without_picture", "Packets flagged as keyframes that gave no picture."
        )
        self._bursts = self._counter("bursts", "GOPs decoded whole at random.")
        self._spikes = self._counter("spikes", "GOPs decoded because packet sizes showed a scene change.")
        self._decode_errors = self._counter("decode_errors", "Decode errors in readers.")
        self._requests_refused = self._counter(
            "requests_refused", "Requests of readers to other servers than their source's own: none was made."
        )
        self._reader_cpu = self._counter("reader_cpu_seconds", "CPU time used by readers.")
        self._signals = Counter(
            "stopframe_signals",
            "Signals by kind and ladder step.",
            ["kind", "step"],
            registry=self._registry,
        )
        steps = [step.word for step in Step]
        self._decisions = self._counter("decisions", "Decisions by action.", "action", steps)
        self._log_lines_lost = self._counter("log_lines_lost", "Log lines that stderr did not take.")
        self._rows_lost = self._counter(
            "rows_lost", "What the disk never took: accounts of sessions, incidents and ends of cuts.", "kind", RowsLost
        )
        self._breaker_refusals = self._counter("breaker_refusals", "Cuts that the breaker made reviews of.")
        self._alerts = self._counter("alerts", "Alerts by state reached.", "state", AlertState)
        self._cuts = self._counter("cuts", "Cuts by state reached.", "state", CutState)
        self._http_refusals = self._counter(
            "http_refusals", "Control requests over TCP without the right token.", "reason", Refusal
        )
        self._selftests = self._counter(
            "selftests", "Self-tests by what became of them.", "state", ("ok", "failed", "unsent")
        )

    def _make_gauges(self) -> None:
        self._live_streams = self._gauge("live_streams", "Publishers live now.")
        self._spikes_blind = self._gauge(
            "spikes_blind_streams", "Live streams whose packet sizes could not show a scene change now."
        )
        self._analysis_workers = self._gauge("analysis_workers", "Analysis workers ready now.")
        self._queue_depth = self._gauge("queue_depth", "Frames waiting for analysis now.")
        self._config_taken = self._gauge(
            "config_last_reload_successful", "1 while the config file as it is on disk could be taken up, else 0."
        )
        self._health_problems = self._gauge("health_problems", "Problems that health names now; 0 is healthy.")
        self._outbox_pending = self._gauge("outbox_pending", "Alerts on disk and not delivered now.")

        self._selftest_success = self._gauge(
            "selftest_last_success_seconds", "When the last self-test succeeded, Unix time; 0 if none did."
        )

    def _way(self, name: str, text: str) -> Histogram:
        return Histogram(f"stopframe_{name}_seconds", text, registry=self._registry, buckets=_WAY_BUCKETS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"stopframe_{name}", text, registry=self._registry)

    def _counter(self, name: str, text: str, label: str | None = None, words: Iterable[str] = ()) -> Counter:
        """Make a counter whose known `words` stand at 0 from the start, so that a first event shows as a rise."""
        counter = Counter(f"stopframe_{name}", text, [label] if label else [], registry=self._registry)
        for word in words:
            counter.labels(str(word))
        return counter

"""What the service counts: one `Metrics` object around a registry of its own, and one method per event.

Callers name facts (`metrics.sample(reason)`) and never see a metrics library. Label values are words from small
sets: never a stream, a session, an address or a key, so the number of series does not grow with the streams.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Histogram, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from detector.events import CutState, Step
from detector.ingest.hooks import HookOutcome
from detector.log_output import LogOutput
from detector.metric_series import VIEW_TIERS, MetricSeries
from detector.metric_words import (
    AlertState,
    CoverageKind,
    CrashKind,
    CutterWord,
    DropCause,
    FeedbackEnd,
    IdentityRefusal,
    KeptFrame,
    PostOutcome,
    Refusal,
    RemoteWord,
    RowsLost,
    SecondOpinionEnd,
    UploadEnd,
)
from detector.publisher_times import TimeFault
from detector.trust.messages import Result
from detector.trust.signing import Purpose, Reason
from models.evidence import Inspection, ModelUse
from streams.frame import SampleReason
from streams.wire import EndCode

LABEL_LIMIT = 64
"""Most distinct words that one label takes; what comes after is counted under `OTHER`."""

OTHER = "other"


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
        self._series = MetricSeries(self._registry)
        self._log_lines_counted = 0
        self._stages, self._models, self._causes = _Words(), _Words(), _Words(DropCause)
        # What each frame moves, looked up once: the library takes as long to find a series as to add to it.
        self._of_stage: dict[str, Histogram] = {}
        self._of_tier = [self._series.view_cpu.labels(tier) for tier in VIEW_TIERS]
        self._of_reason = {reason: self._series.samples.labels(reason.value) for reason in SampleReason}
        self._lists = _Words()
        self._signal_kinds, self._blind_causes = _Words(("hash", "sequence", "class", "blind")), _Words()

    def expose(self) -> tuple[bytes, str]:
        """Return the Prometheus text and its content type."""
        self._series.log_lines_lost.inc(LogOutput.lines_lost_total - self._log_lines_counted)
        self._log_lines_counted = LogOutput.lines_lost_total
        return generate_latest(_WithoutCreationTimes(self._registry)), CONTENT_TYPE_LATEST

    def value(self, name: str, **labels: str) -> float:
        """Return one sample by its exposed name, 0.0 where it was never set: for `top`, benchmarks and tests."""
        return self._registry.get_sample_value(name, labels) or 0.0

    # Times

    def stage(self, stage: str, seconds: float) -> None:
        """One frame spent `seconds` in `stage`: wait, decode, queue, views, hash, match, decide, store, publish."""
        word = self._stages(stage)
        series = self._of_stage.get(word)
        if series is None:
            series = self._of_stage[word] = self._series.stage_seconds.labels(word)
        series.observe(max(0.0, seconds))

    def inspection(self, inspection: Inspection) -> None:
        """One frame was analysed: its times, its views, its low information, the models that failed on it."""
        self._series.analysis_cpu.inc(inspection.cpu_seconds)
        for stage, seconds in inspection.stage_seconds.items():
            self.stage(stage, seconds)
        self._series.views.inc(inspection.views_run)
        self._series.views_left_out.inc(inspection.views_left_out)
        for tier, seconds in inspection.tier_seconds.items():
            self._of_tier[tier].inc(seconds)
        for match in inspection.matches:
            self._series.matches.labels(match.strength).inc()
        self._series.suppressed.inc(inspection.suppressed_matches)
        if not inspection.is_inspectable:
            self._series.not_inspectable.inc()
        if inspection.is_low_information:
            self._series.low_information.inc()
        for use in inspection.model_uses:
            self._model_use(use, is_failed=use.model in inspection.failed_models)
        for model in inspection.failed_models:
            self.model_failure(model)

    def _model_use(self, use: ModelUse, *, is_failed: bool) -> None:
        model = self._models(use.model)
        asked = "failed" if is_failed else "asked"
        how = "reused" if use.is_reused else "spared" if use.is_spared else asked
        self._series.model_frames.labels(model, how).inc()
        if use.looks:
            self._series.model_looks.labels(model).inc(use.looks)
        if use.left_out:
            self._series.model_looks_left_out.labels(model).inc(use.left_out)

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
        self._series.frame_to_decision.observe(max(0.0, seconds))

    def frame_to_ack(self, seconds: float) -> None:
        """From a frame's arrival to the acknowledgement of its alert."""
        self._series.frame_to_ack.observe(max(0.0, seconds))

    def cut_done(self, seconds: float) -> None:
        """From a frame's arrival to the last media byte that the ingest server accepted."""
        self._series.cut_seconds.observe(max(0.0, seconds))

    # What was looked at

    def sample(self, reason: SampleReason) -> None:
        """One sampled frame reached the service."""
        self._of_reason[reason].inc()

    def dropped(self, cause: DropCause | str, count: int = 1) -> None:
        """`count` sampled frames were given up before analysis."""
        if count > 0:
            self._series.drops.labels(self._causes(str(cause))).inc(count)

    def model_failure(self, model: str) -> None:
        """One model gave no valid answer. `inspection` counts this itself."""
        self._series.model_failures.labels(self._models(model)).inc()

    def coverage(self, kind: CoverageKind, seconds: float, cause: str = "") -> None:
        """`seconds` of one stream's time alive were seen, skipped or blind, and why."""
        if seconds > 0:
            self._series.coverage.labels(kind, self._blind_causes(cause)).inc(seconds)

    # Readers and workers

    def reader_ended(self, code: EndCode) -> None:
        """One reader said its last word."""
        self._series.reader_ends.labels(code.value).inc()

    def reader_restarted(self) -> None:
        """One stream got a new reader."""
        self._series.reader_restarts.inc()

    def crashed(self, kind: CrashKind) -> None:
        """One process ended or was ended without having been told to stop."""
        self._series.crashes.labels(kind.value).inc()

    def keyframes_without_picture(self, count: int) -> None:
        """`count` more packets were flagged as keyframes and gave no picture."""
        if count > 0:
            self._series.keyframes_without_picture.inc(count)

    def decoded_whole(self, bursts: int, spikes: int) -> None:
        """So many more GOPs were decoded whole, by chance and because of packet sizes."""
        if bursts or spikes:  # nearly no heartbeat tells of any
            self._series.bursts.inc(bursts)
            self._series.spikes.inc(spikes)

    def spikes_blind(self, change: int) -> None:
        """By so many there are more live streams now whose packet sizes could not show a scene change."""
        if change:
            self._series.spikes_blind.inc(change)

    def time_fault(self, fault: TimeFault) -> None:
        """A publisher's times are off, and that was told."""
        self._series.time_faults.labels(fault).inc()

    def rendition_switched(self) -> None:
        """Another variant of a playlist is looked at."""
        self._series.rendition_switches.inc()

    def decode_errors(self, count: int) -> None:
        """`count` more decode errors in readers."""
        if count > 0:
            self._series.decode_errors.inc(count)

    def request_refused(self) -> None:
        """A reader asked for something at another server than its source's own, and got nothing."""
        self._series.requests_refused.inc()

    def reader_cpu(self, seconds: float) -> None:
        """Readers used `seconds` more of CPU time."""
        if seconds > 0:
            self._series.reader_cpu.inc(seconds)

    # What was decided and done

    def signal(self, kind: str, step: Step) -> None:
        """One signal reached `step` of its ladder. `kind`: hash, sequence, class or blind."""
        self._series.signals.labels(self._signal_kinds(kind), step.word).inc()

    def decision(self, action: Step) -> None:
        """The policy decided about one frame."""
        self._series.decisions.labels(action.word).inc()

    def hook(self, outcome: HookOutcome, seconds: float) -> None:
        """An ingest server asked and was answered after `seconds`."""
        self._series.hooks.labels(outcome.value).observe(seconds)

    def quarantined(self) -> None:
        """An entry matched many streams at once and may only ask for reviews now."""
        self._series.quarantined_entries.inc()

    def breaker_refused(self) -> None:
        """The breaker made a review out of a cut."""
        self._series.breaker_refusals.inc()

    def incident_frames(self, state: KeptFrame, count: int) -> None:
        """`count` frames of a stream that was cut met that fate."""
        self._series.incident_frames.labels(state.value).inc(count)

    def set_incidents_known(self, count: int) -> None:
        """Frames of so many incidents are in the incident bank."""
        self._series.incidents_known.set(count)

    def alert(self, state: AlertState) -> None:
        """One alert reached `state`."""
        self._series.alerts.labels(state.value).inc()

    def cut(self, state: CutState) -> None:
        """One cut reached `state`."""
        self._series.cuts.labels(state.value).inc()

    # The self-test

    def selftest(self, *, ok: bool, at_seconds: float) -> None:
        """A self-test began at `at_seconds` (Unix time) and succeeded or not."""
        self._series.selftests.labels("ok" if ok else "failed").inc()
        if ok:
            self._series.selftest_success.set(at_seconds)

    def selftest_unsent(self) -> None:
        """The broker did not take the result of a self-test."""
        self._series.selftests.labels("unsent").inc()

    def rows_lost(self, what: RowsLost, count: int) -> None:
        """So many more than before were lost, because neither disk nor memory had room."""
        self._series.rows_lost.labels(what.value).inc(count)

    def http_refused(self, reason: Refusal) -> None:
        """A request to the control API over TCP had no right token."""
        self._series.http_refusals.labels(reason.value).inc()

    def hma_answered(self, status: int) -> None:
        """A client that speaks to an HMA was answered with an HTTP status."""
        self._series.hma_answers.labels(str(status)).inc()

    def second_opinion(self, end: SecondOpinionEnd, count: int = 1) -> None:
        """So many samples that another server was to be asked about came to this."""
        self._series.second_opinions.labels(end.value).inc(count)

    def feedback(self, end: FeedbackEnd) -> None:
        """One try to tell an exchange something came to this."""
        self._series.feedback.labels(end.value).inc()

    def set_feedback_pending(self, count: int) -> None:
        """So many words wait to be sent, or are kept because the config sends none."""
        self._series.feedback_pending.set(count)

    def untrusted(self, purpose: Purpose, reason: Reason) -> None:
        """A message was not believed."""
        self._series.untrusted.labels(purpose.value, reason.value).inc()

    def unknown_ack(self) -> None:
        """A believed acknowledgement ended nothing: nobody waits for it."""
        self._series.unknown_acks.inc()

    def remote_cut(self, word: RemoteWord) -> None:
        """A remote cutter said something of a cut, or its word came to that."""
        self._series.remote_cuts.labels(word.value).inc()

    def cutter_alert(self, word: CutterWord) -> None:
        """A cutter did this with an alert."""
        self._series.cutter_alerts.labels(word.value).inc()

    def cutter_post(self, outcome: PostOutcome) -> None:
        """A request to a cutter's webhook came to this."""
        self._series.cutter_posts.labels(outcome.value).inc()

    def identity_refused(self, reason: IdentityRefusal) -> None:
        """A publisher was turned away at the hook for its account."""
        self._series.identity_refusals.labels(reason.value).inc()

    def command(self, result: Result) -> None:
        """A believed command came to this."""
        self._series.commands.labels(result.value).inc()

    def upload(self, end: UploadEnd) -> None:
        """A file that was sent to be looked at came to this."""
        self._series.uploads.labels(end.value).inc()

    def upload_received(self, count: int, seconds: float) -> None:
        """A file of `count` bytes came whole."""
        self._series.upload_bytes.inc(count)
        self._series.upload_seconds.labels("receive").observe(seconds)

    def upload_looked_at(self, waited_seconds: float, seconds: float, cpu_seconds: float) -> None:
        """A file waited for its turn and was looked at."""
        self._series.upload_seconds.labels("wait").observe(waited_seconds)
        self._series.upload_seconds.labels("look").observe(seconds)
        self._series.upload_cpu.inc(cpu_seconds)

    # Lists from elsewhere

    def list_synced(self, name: str, outcome: str) -> None:
        """A list was fetched, or was not to be had. `outcome`: synced, failed or refused."""
        self._series.list_syncs.labels(self._lists(name), outcome).inc()

    def list_hashes(self, name: str, what: str, count: int) -> None:
        """So many hashes of a list were added, changed, withdrawn, bad or put into quarantine."""
        if count > 0:
            self._series.list_hashes.labels(self._lists(name), what).inc(count)

    def set_list(self, name: str, *, rows: int, age_seconds: float) -> None:
        """How many hashes a list has now, and how long ago it was had."""
        word = self._lists(name)
        self._series.list_rows.labels(word).set(rows)
        self._series.list_age.labels(word).set(age_seconds)

    def list_gone(self, name: str) -> None:
        """A list is in the config no more."""
        for series in (self._series.list_rows, self._series.list_age):
            series.remove(self._lists(name))

    # How much there is now

    def set_uploads(self, present: int, held_bytes: int) -> None:
        """How many files are here now, and how much of the disk they have."""
        self._series.uploads_present.set(present)
        self._series.uploads_held.set(held_bytes)

    def set_live_streams(self, count: int) -> None:
        """How many publishers are live now."""
        self._series.live_streams.set(count)

    def set_analysis_workers(self, count: int) -> None:
        """How many analysis workers are ready now."""
        self._series.analysis_workers.set(count)

    def set_cpu(self, *, readers: float, analysis: float, service: float, budget: float) -> None:
        """CPU seconds a second of each part, and what they may take together."""
        for part, cores in (("readers", readers), ("analysis", analysis), ("service", service)):
            self._series.cpu_cores.labels(part).set(cores)
        self._series.cpu_budget.set(budget)

    def set_rations(self, *, slowed: int, refused: int, hints: int) -> None:
        """How many streams are slowed beyond their promise or not watched now, and how many hints hold."""
        self._series.slowed_streams.set(slowed)
        self._series.refused_streams.set(refused)
        self._series.hints_in_force.set(hints)

    def hint(self, *, is_taken: bool) -> None:
        """A risk hint was given."""
        self._series.hints.labels("taken" if is_taken else "refused").inc()

    def streams_refused(self, count: int) -> None:
        """So many more streams were refused for want of CPU time."""
        self._series.streams_refused.inc(count)

    def set_queue_depth(self, count: int) -> None:
        """How many frames wait for analysis now."""
        self._series.queue_depth.set(count)

    def set_config_taken(self, *, is_taken: bool) -> None:
        """Whether the config file, as it is on disk, could be taken up."""
        self._series.config_taken.set(is_taken)

    def set_health_problems(self, count: int) -> None:
        """How many problems health names now."""
        self._series.health_problems.set(count)

    def set_outbox_pending(self, count: int) -> None:
        """How many alerts are on disk and not delivered now."""
        self._series.outbox_pending.set(count)

"""Every counter, gauge and histogram that the service exposes, by name; `detector.metrics` says when each moves."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detector.events import CutState, Step
from detector.metric_words import (
    AlertState,
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
from models.evidence import Strength
from models.hashing.view_table import Tier
from streams.frame import SampleReason
from streams.wire import EndCode

VIEW_TIERS = tuple(tier.name.lower() for tier in Tier)

_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WAY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_UPLOAD_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class MetricSeries:
    """The series of one registry, an attribute each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._make_histograms()
        self._make_looks()
        self._make_reading()
        self._make_decisions()
        self._make_trust()
        self._make_gauges()
        self._make_lists()
        self._make_uploads()
        self._make_others()

    def _make_histograms(self) -> None:
        self.stage_seconds = Histogram(
            "stopframe_stage_seconds",
            "Time one frame or alert spent in one stage.",
            ["stage"],
            registry=self._registry,
            buckets=_STAGE_BUCKETS,
        )
        self.frame_to_decision = self._way("frame_to_decision", "From a frame's arrival to the decision about it.")
        self.frame_to_ack = self._way("frame_to_ack", "From a frame's arrival to its alert's acknowledgement.")
        self.cut_seconds = self._way("cut", "From a frame's arrival to the last media byte the server accepted.")
        self.hooks = Histogram(
            "stopframe_hook_seconds",
            "From an ingest server's question to its answer, by what became of it.",
            ("outcome",),
            registry=self._registry,
            buckets=_STAGE_BUCKETS,
        )

    def _make_uploads(self) -> None:
        self.uploads = self._counter("uploads", "Files sent to be looked at, by what became of them.", "end", UploadEnd)
        self.upload_bytes = self._counter("upload_bytes", "Bytes of files that came whole.")
        self.upload_cpu = self._counter("upload_cpu_seconds", "CPU seconds of reading and analysing files.")
        self.uploads_present = self._gauge("uploads_present", "Files on their way, waiting or looked at now.")
        self.uploads_held = self._gauge("uploads_held_bytes", "Bytes of them on disk now, or announced.")
        self.upload_seconds = Histogram(
            "stopframe_upload_seconds",
            "Time one file took to come, to wait for its turn and to be looked at.",
            ["part"],
            registry=self._registry,
            buckets=_UPLOAD_BUCKETS,
        )
        for part in ("receive", "wait", "look"):
            self.upload_seconds.labels(part)

    def _make_others(self) -> None:
        statuses = ("200", "400", "403", "404", "405", "413", "422", "500", "503")
        self.hma_answers = self._counter(
            "hma_answers", "Answers to clients that speak to an HMA, by HTTP status.", "status", statuses
        )
        self.second_opinions = self._counter(
            "second_opinions", "Samples to ask another server about, by what became of them.", "end", SecondOpinionEnd
        )
        self.feedback = self._counter(
            "feedback",
            "Tries to tell an exchange what was said of its entries, by what came of them.",
            "end",
            FeedbackEnd,
        )
        self.feedback_pending = self._gauge("feedback_pending", "Words on entries that no exchange was told yet.")

    def _make_looks(self) -> None:
        self.samples = self._counter("samples", "Sampled frames received.", "reason", SampleReason)
        self.drops = self._counter("dropped_frames", "Sampled frames never analysed.", "cause", DropCause)
        self.not_inspectable = self._counter(
            "not_inspectable_frames", "Frames of which no view's hash was good enough to act on."
        )
        self.matches = self._counter(
            "matches", "Known entries near a frame, by what one may ask for.", "strength", Strength
        )
        self.suppressed = self._counter("suppressed_matches", "Matches taken back by negative entries as near.")
        self.views = self._counter("views", "Views of frames looked up in the banks.")
        self.views_left_out = self._counter("views_left_out", "Views that were due and had no room in the CPU budget.")
        self.view_cpu = self._counter(
            "view_cpu_seconds", "CPU time for making, hashing and looking up views.", "tier", VIEW_TIERS
        )
        self.low_information = self._counter("low_information_frames", "Frames not shown to any model.")
        self.model_frames = Counter(
            "stopframe_model_frames",
            "Frames by what each model was asked about them.",
            ["model", "how"],
            registry=self._registry,
        )
        self.model_looks = self._counter("model_looks", "Pictures shown to a model: frames and parts of them.", "model")
        self.model_looks_left_out = self._counter(
            "model_looks_left_out", "Parts of frames that a model was not shown for want of room.", "model"
        )
        self.model_failures = self._counter("model_failures", "Answers that a model failed to give.", "model")

    def _make_reading(self) -> None:
        self.coverage = Counter(
            "stopframe_coverage_seconds",
            "Stream time by what became of it.",
            ["kind", "cause"],
            registry=self._registry,
        )
        self.reader_ends = self._counter("reader_ends", "Readers that ended, by their last word.", "code", EndCode)
        self.reader_restarts = self._counter("reader_restarts", "Readers started again for a live stream.")
        self.crashes = self._counter("crashes", "Processes that ended unbidden.", "process", CrashKind)
        self.keyframes_without_picture = self._counter(
            "keyframes_without_picture", "Packets flagged as keyframes that gave no picture."
        )
        self.bursts = self._counter("bursts", "GOPs decoded whole at random.")
        self.spikes = self._counter("spikes", "GOPs decoded because packet sizes showed a scene change.")
        self.time_faults = self._counter(
            "time_faults",
            "Times told that a publisher's times are off, by what is wrong with them.",
            "kind",
            TimeFault,
        )
        self.rendition_switches = self._counter(
            "rendition_switches", "Changes to another variant of an HLS playlist, as the one before gave nothing."
        )
        self.decode_errors = self._counter("decode_errors", "Decode errors in readers.")
        self.requests_refused = self._counter(
            "requests_refused", "Requests of readers to other servers than their source's own: none was made."
        )
        self.reader_cpu = self._counter("reader_cpu_seconds", "CPU time used by readers.")
        self.analysis_cpu = self._counter("analysis_cpu_seconds", "CPU time used by analysis processes for frames.")
        self.hints = self._counter("hints", "Risk hints given, by what became of them.", "state", ("taken", "refused"))
        self.streams_refused = self._counter("streams_refused", "Times that a stream was refused for want of CPU time.")

    def _make_decisions(self) -> None:
        self.signals = Counter(
            "stopframe_signals",
            "Signals by kind and ladder step.",
            ["kind", "step"],
            registry=self._registry,
        )
        steps = [step.word for step in Step]
        self.decisions = self._counter("decisions", "Decisions by action.", "action", steps)
        self.log_lines_lost = self._counter("log_lines_lost", "Log lines that stderr did not take.")
        self.rows_lost = self._counter(
            "rows_lost", "What the disk never took: accounts of sessions, incidents and ends of cuts.", "kind", RowsLost
        )
        self.breaker_refusals = self._counter("breaker_refusals", "Cuts that the breaker made reviews of.")
        self.quarantined_entries = self._counter(
            "quarantined_entries", "Entries put into quarantine since they matched many streams at once."
        )
        self.incident_frames = self._counter(
            "incident_frames",
            "Frames that hit in streams that were cut, by whether the incident bank took them.",
            "state",
            KeptFrame,
        )
        self.alerts = self._counter("alerts", "Alerts by state reached.", "state", AlertState)
        self.cuts = self._counter("cuts", "Cuts by state reached.", "state", CutState)

    def _make_trust(self) -> None:
        self.http_refusals = self._counter(
            "http_refusals", "Control requests over TCP without the right token.", "reason", Refusal
        )
        self.commands = self._counter("commands", "Signed commands by what became of them.", "state", Result)
        self.unknown_acks = self._counter(
            "unknown_acks", "Believed acknowledgements of alerts that wait for none: repeated, or over."
        )
        self.remote_cuts = self._counter(
            "remote_cuts", "What a remote cutter said of cuts, and what became of that.", "state", RemoteWord
        )
        self.cutter_alerts = self._counter(
            "cutter_alerts", "Alerts by what a cutter did with them.", "state", CutterWord
        )
        self.cutter_posts = self._counter(
            "cutter_posts", "Requests to a cutter's webhook by what became of them.", "state", PostOutcome
        )
        self.identity_refusals = self._counter(
            "identity_refusals", "Publishers turned away at the hook for their account.", "reason", IdentityRefusal
        )
        self.untrusted = Counter(
            "stopframe_untrusted",
            "Messages that were not believed, by what they claimed to be.",
            ["purpose", "reason"],
            registry=self._registry,
        )
        for reason in Reason:
            for purpose in (Purpose.ACK, Purpose.COMMAND):  # what a service hears
                self.untrusted.labels(purpose.value, reason.value)
        self.selftests = self._counter(
            "selftests", "Self-tests by what became of them.", "state", ("ok", "failed", "unsent")
        )

    def _make_gauges(self) -> None:
        self.live_streams = self._gauge("live_streams", "Publishers live now.")
        self.spikes_blind = self._gauge(
            "spikes_blind_streams", "Live streams whose packet sizes could not show a scene change now."
        )
        self.cpu_cores = Gauge(
            "stopframe_cpu_cores",
            "CPU seconds used a second, of late, by part.",
            ["part"],
            registry=self._registry,
        )
        for part in ("readers", "analysis", "service"):
            self.cpu_cores.labels(part)
        self.cpu_budget = self._gauge("cpu_budget_cores", "CPU seconds a second that sampling.max_cpu allows.")
        self.slowed_streams = self._gauge(
            "slowed_streams", "Live streams looked at later than detect_within for want of CPU time now."
        )
        self.refused_streams = self._gauge("refused_streams", "Live streams not watched for want of CPU time now.")
        self.hints_in_force = self._gauge("hints_in_force", "Risk hints that hold now.")
        self.analysis_workers = self._gauge("analysis_workers", "Analysis workers ready now.")
        self.queue_depth = self._gauge("queue_depth", "Frames waiting for analysis now.")
        self.config_taken = self._gauge(
            "config_last_reload_successful", "1 while the config file as it is on disk could be taken up, else 0."
        )
        self.health_problems = self._gauge("health_problems", "Problems that health names now; 0 is healthy.")
        self.incidents_known = self._gauge(
            "incidents_known", "Incidents whose re-streams are known by their frames now."
        )
        self.outbox_pending = self._gauge("outbox_pending", "Alerts on disk and not delivered now.")

        self.selftest_success = self._gauge(
            "selftest_last_success_seconds", "When the last self-test succeeded, Unix time; 0 if none did."
        )

    def _way(self, name: str, text: str) -> Histogram:
        return Histogram(f"stopframe_{name}_seconds", text, registry=self._registry, buckets=_WAY_BUCKETS)

    def _make_lists(self) -> None:
        """Of lists from elsewhere, by the name that they have in the config."""
        registry = self._registry
        self.list_syncs = Counter(
            "stopframe_list_syncs", "Tries to have a list, by what came of it.", ["list", "outcome"], registry=registry
        )
        self.list_hashes = Counter(
            "stopframe_list_hashes", "Hashes of a list by what became of them.", ["list", "state"], registry=registry
        )
        self.list_rows = Gauge("stopframe_list_rows", "Hashes of a list in force.", ["list"], registry=registry)
        self.list_age = Gauge("stopframe_list_age_seconds", "Since a list was last had.", ["list"], registry=registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"stopframe_{name}", text, registry=self._registry)

    def _counter(self, name: str, text: str, label: str | None = None, words: Iterable[str] = ()) -> Counter:
        """Make a counter whose known `words` stand at 0 from the start, so that a first event shows as a rise."""
        counter = Counter(f"stopframe_{name}", text, [label] if label else [], registry=self._registry)
        for word in words:
            counter.labels(str(word))
        return counter

"""Metrics count what happened, name no stream, and stay few."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from detector.events import CutState, Step
from detector.metric_words import AlertState, CrashKind, DropCause
from detector.metrics import LABEL_LIMIT, Metrics
from models.evidence import HashMatch, Inspection, ModelUse, Opinion, Strength
from streams.frame import SampleReason
from streams.wire import EndCode


def _inspection(**changes: object) -> Inspection:
    facts: dict[str, object] = {"quality": 90, "is_stable": True, "is_low_information": False, "fingerprint": bytes(32)}
    return Inspection(**(facts | changes))  # type: ignore[arg-type]


def test_two_metrics_objects_share_nothing() -> None:
    """Two services in one process count apart."""
    first, second = Metrics(), Metrics()
    first.sample(SampleReason.KEYFRAME)

    assert first.value("stopframe_samples_total", reason="keyframe") == 1
    assert second.value("stopframe_samples_total", reason="keyframe") == 0


def test_each_event_moves_its_own_series() -> None:
    """Every method counts under the name and the words that dashboards rely on."""
    metrics = Metrics()
    metrics.dropped(DropCause.STALE, 3)
    metrics.reader_ended(EndCode.TIMEOUT)
    metrics.reader_restarted()
    metrics.crashed(CrashKind.READER)
    metrics.keyframes_without_picture(2)
    metrics.decode_errors(4)
    metrics.reader_cpu(1.5)
    metrics.signal("hash", Step.CUT)
    metrics.decision(Step.REVIEW)
    metrics.breaker_refused()
    metrics.alert(AlertState.DELIVERED)
    metrics.cut(CutState.CONFIRMED)
    metrics.model_failure("nsfw")
    metrics.coverage("blind", 2.5, "no_packets")
    metrics.coverage("seen", 10)

    assert metrics.value("stopframe_dropped_frames_total", cause="stale") == 3
    assert metrics.value("stopframe_reader_ends_total", code="timeout") == 1
    assert metrics.value("stopframe_reader_restarts_total") == 1
    assert metrics.value("stopframe_crashes_total", process="reader") == 1
    assert metrics.value("stopframe_keyframes_without_picture_total") == 2
    assert metrics.value("stopframe_decode_errors_total") == 4
    assert metrics.value("stopframe_reader_cpu_seconds_total") == 1.5
    assert metrics.value("stopframe_signals_total", kind="hash", step="cut") == 1
    assert metrics.value("stopframe_decisions_total", action="review") == 1
    assert metrics.value("stopframe_breaker_refusals_total") == 1
    assert metrics.value("stopframe_alerts_total", state="delivered") == 1
    assert metrics.value("stopframe_cuts_total", state="confirmed") == 1
    assert metrics.value("stopframe_model_failures_total", model="nsfw") == 1
    assert metrics.value("stopframe_coverage_seconds_total", kind="blind", cause="no_packets") == 2.5
    assert metrics.value("stopframe_coverage_seconds_total", kind="seen", cause="") == 10


def test_gauges_hold_the_last_word() -> None:
    """A gauge says how much there is now, not how much there was."""
    metrics = Metrics()
    metrics.set_live_streams(7)
    metrics.set_live_streams(5)
    metrics.set_analysis_workers(2)
    metrics.set_queue_depth(9)
    metrics.set_outbox_pending(1)

    names = ("live_streams", "analysis_workers", "queue_depth", "outbox_pending")
    assert [metrics.value(f"stopframe_{name}") for name in names] == [5, 2, 9, 1]


def test_an_inspection_brings_its_stages_and_failures() -> None:
    """One call counts an analysed frame: stage times, views, low information, failed models."""
    metrics = Metrics()
    metrics.inspection(_inspection(stage_seconds={"hash": 0.001, "match": 0.002}, failed_models=("a", "b")))
    metrics.inspection(_inspection(is_low_information=True, is_inspectable=False))
    metrics.inspection(_inspection(views_run=17, views_left_out=7, tier_seconds={0: 0.5, 2: 0.25}))

    near = HashMatch(
        "CARDS", "one", "pdq", 256, 60, 72, "mirror", 90, Opinion.POSITIVE, "gen-1", strength=Strength.VOTE
    )
    metrics.inspection(_inspection(matches=(near, near), suppressed_matches=3))

    assert metrics.value("stopframe_matches_total", strength="vote") == 2
    assert metrics.value("stopframe_matches_total", strength="cut") == 0
    assert metrics.value("stopframe_suppressed_matches_total") == 3
    assert metrics.value("stopframe_stage_seconds_count", stage="hash") == 1
    assert metrics.value("stopframe_stage_seconds_sum", stage="match") == pytest.approx(0.002)
    assert metrics.value("stopframe_model_failures_total", model="b") == 1
    assert metrics.value("stopframe_low_information_frames_total") == 1
    assert metrics.value("stopframe_not_inspectable_frames_total") == 1
    assert metrics.value("stopframe_views_total") == 17
    assert metrics.value("stopframe_views_left_out_total") == 7
    assert metrics.value("stopframe_view_cpu_seconds_total", tier="every_sample") == 0.5
    assert metrics.value("stopframe_view_cpu_seconds_total", tier="in_turn") == 0.25


def test_the_three_ways_are_histograms_of_seconds() -> None:
    """End-to-end times land in the bucket that holds them."""
    metrics = Metrics()
    metrics.frame_to_decision(0.02)
    metrics.frame_to_ack(0.3)
    metrics.cut_done(1.2)

    assert metrics.value("stopframe_frame_to_decision_seconds_bucket", le="0.025") == 1
    assert metrics.value("stopframe_frame_to_ack_seconds_bucket", le="0.25") == 0
    assert metrics.value("stopframe_frame_to_ack_seconds_bucket", le="0.5") == 1
    assert metrics.value("stopframe_cut_seconds_bucket", le="1.5") == 1


def test_a_timed_block_is_counted_even_when_it_raises() -> None:
    """A stage that fails has still taken its time."""
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.timed("store"):
        1 / 0  # noqa: B018

    assert metrics.value("stopframe_stage_seconds_count", stage="store") == 1


def test_a_time_before_its_start_counts_as_zero() -> None:
    """Two clocks that disagree by a hair never make a histogram go backwards."""
    metrics = Metrics()
    metrics.frame_to_decision(-0.001)

    assert metrics.value("stopframe_frame_to_decision_seconds_sum") == 0
    assert metrics.value("stopframe_frame_to_decision_seconds_count") == 1


def test_words_beyond_the_limit_are_counted_together() -> None:
    """A label cannot be made to grow without end: what comes after the limit is `other`."""
    metrics = Metrics()
    for number in range(LABEL_LIMIT + 10):
        metrics.model_failure(f"model-{number}")
    metrics.model_failure("model-0")

    assert metrics.value("stopframe_model_failures_total", model="other") == 10
    assert metrics.value("stopframe_model_failures_total", model="model-0") == 2


def test_known_words_stand_at_zero_from_the_start() -> None:
    """A first cut shows as a rise from 0, not as a series out of nothing."""
    text = Metrics().expose()[0].decode()

    assert 'stopframe_cuts_total{state="uncuttable"} 0.0' in text
    assert 'stopframe_samples_total{reason="keyframe"} 0.0' in text


def test_the_text_is_prometheus_and_names_no_stream() -> None:
    """The exposition parses, without creation times, and no label is made for identifiers."""
    metrics = Metrics()
    metrics.coverage("seen", 1)
    metrics.stage("hash", 0.001)
    body, content_type = metrics.expose()
    families = list(text_string_to_metric_families(body.decode()))
    labels = {label for family in families for sample in family.samples for label in sample.labels}

    assert content_type.startswith("text/plain")
    assert {"stopframe_samples", "stopframe_stage_seconds", "process_cpu_seconds"} <= {one.name for one in families}
    assert not re.search(r"_created\b", body.decode())
    words = {
        "reason",
        "cause",
        "code",
        "process",
        "kind",
        "step",
        "action",
        "state",
        "strength",
        "model",
        "stage",
        "part",
        "purpose",
        "tier",
        "le",
        "status",
        "end",
    }
    assert labels <= words


def test_what_was_asked_of_each_model_is_counted() -> None:
    """A frame counts once for a model, by what became of it; its looks and the parts that had no room beside that."""
    metrics = Metrics()
    uses = (ModelUse("cheap", looks=5, left_out=2), ModelUse("dear", is_spared=True), ModelUse("still", is_reused=True))
    metrics.inspection(Inspection(90, True, False, bytes(32), model_uses=uses))
    metrics.inspection(
        Inspection(90, True, False, bytes(32), model_uses=(ModelUse("cheap", looks=1),), failed_models=("cheap",))
    )

    frames = {("cheap", "asked"): 1, ("cheap", "failed"): 1, ("dear", "spared"): 1, ("still", "reused"): 1}
    for (model, how), count in frames.items():
        assert metrics.value("stopframe_model_frames_total", model=model, how=how) == count
    assert metrics.value("stopframe_model_looks_total", model="cheap") == 6
    assert metrics.value("stopframe_model_looks_left_out_total", model="cheap") == 2
    assert metrics.value("stopframe_model_looks_total", model="dear") == 0

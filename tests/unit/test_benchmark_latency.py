"""The latency benchmark's own sums: where trials turn bad, how stages add up, and what is checked."""

from typing import Any

import pytest

from benchmarks.brokers import Arrival
from benchmarks.latency import _bframes_checks
from benchmarks.latency_trials import Cell, Clocks, FirstSample, Measured, Trial
from benchmarks.rtmp_publisher import Account
from detector.events import CutState, Step, StreamKey
from detector.instants import rfc3339
from detector.store.incidents import IncidentRecord

CLOCKS = Clocks(ahead_seconds=1_000.0)


def trial(gop_seconds: float = 1.0, phase: float = 0.5, *, attached: bool = True) -> Trial:
    return Trial(Cell(gop_seconds, 0, attached), "name", phase, "card:11")


def alert(reason: str) -> Arrival:
    """Of a frame that arrived at 10.5 monotonic, which is 1010.5 on the wall clock."""
    at_ms = {"arrived": 10_500, "decoded": 10_502, "scored": 10_507, "queued": 10_508}
    times = {name: rfc3339(1_000_000 + ms) for name, ms in at_ms.items()}
    return Arrival("id", 10.51, {"times": times, "provenance": {"sampling_reason": reason}})


def incident() -> IncidentRecord:
    return IncidentRecord(
        incident_id="i",
        stream_id="s",
        session="1",
        key=StreamKey("nginx-rtmp", "live", "name"),
        opened_at_ms=0,
        action=Step.CUT,
        is_live=True,
        signals="",
        cut_state=CutState.CONFIRMED,
        confirmed_at_ms=1_011_520,
    )


@pytest.mark.parametrize("gop_seconds", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("attached", [True, False])
def test_a_trial_turns_bad_at_its_phase(gop_seconds: float, *, attached: bool) -> None:
    """The lead is whole GOPs, long enough for its cell; the phase says where in the next one the card changes."""
    wanted = trial(gop_seconds, 0.25, attached=attached)
    publication = wanted.publication(1935)
    frames = round(publication.fps * gop_seconds)
    assert publication.clean_frames % frames == int(0.25 * frames)
    assert publication.clean_frames >= wanted.cell.lead_seconds * publication.fps
    assert publication.url == "rtmp://127.0.0.1:1935/live/name"


def test_stages_are_spans_between_what_three_witnesses_saw() -> None:
    """Publisher, subscriber and the service's record: together they give every stage, and the parts the whole."""
    account = Account(
        asked_at=1.0, accepted_at=1.4, bad_left_at=10.0, bad_keyframes_left_at=[10.49, 11.49], closed_at=10.52
    )
    measured = Measured(trial(), account, alert("keyframe"), incident(), FirstSample(1.6, 1001.2))
    stages = measured.stages(CLOCKS)
    expected = {
        "keyframe_wait_s": 0.49,
        "transport_s": 0.01,
        "arrived_s": 0.5,
        "decode_s": 0.002,
        "score_s": 0.005,
        "queue_s": 0.001,
        "deliver_s": 0.002,
        "alert_to_cut_s": 0.012,
        "total_s": 0.52,
        "proof_s": 1.0,
        "connect_s": 0.4,
        "first_sample_s": 1.4 - 1.0,
        "connect_to_sample_s": 0.6,
    }
    assert stages == pytest.approx(expected, abs=1e-6)
    parts = ("arrived_s", "decode_s", "score_s", "queue_s", "alert_to_cut_s")
    assert sum(stages[part] for part in parts) == pytest.approx(stages["total_s"])


def test_a_frame_that_was_decoded_through_waited_for_no_keyframe() -> None:
    """Only what a keyframe gave is split into the wait for it and its way."""
    account = Account(bad_left_at=10.0, bad_keyframes_left_at=[10.1], closed_at=10.52)
    stages = Measured(trial(), account, alert("decode_through")).stages(CLOCKS)
    assert {"keyframe_wait_s", "transport_s", "proof_s"}.isdisjoint(stages)
    assert stages["total_s"] == pytest.approx(0.52)


def test_a_publisher_who_was_not_cut_gives_no_total() -> None:
    """What did not happen is left out, not taken for nought."""
    account = Account(asked_at=1.0, accepted_at=1.4, bad_left_at=10.0)
    assert set(Measured(trial(), account, alert("keyframe")).stages(CLOCKS)) == {"connect_s"}


def test_long_gops_are_held_to_detect_within() -> None:
    """The limit follows the GOP while keyframes suffice, and the operator's promise beyond."""
    limits = [Cell(gop, 0, is_attached_in_hook=True).limit_seconds for gop in (1.0, 2.0, 4.0)]
    assert limits == pytest.approx([1.3, 2.3, 3.5])


def test_b_frames_are_compared_within_their_gop() -> None:
    """Both attaches count together; a GOP without trials is said to be unmeasured."""
    rows: list[dict[str, Any]] = [
        {"gop_seconds": 1.0, "bframes": 0, "totals_s": [0.5, 0.6]},
        {"gop_seconds": 1.0, "bframes": 2, "totals_s": [0.5, 0.9]},
        {"gop_seconds": 4.0, "bframes": 0, "totals_s": [0.4, 1.6]},
        {"gop_seconds": 4.0, "bframes": 2, "totals_s": [0.9, 1.2]},
    ]
    one, two, four = _bframes_checks(rows)
    assert (one.value, one.ok) == (pytest.approx(0.3), False)
    assert (two.value, two.ok) == (None, False)
    assert (four.value, four.ok) == (pytest.approx(0.05), True)

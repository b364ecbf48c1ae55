"""A live encoder, nginx-rtmp, the service and mosquitto: one trial of each kind goes all the way."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crowd import BANKED
from benchmarks.latency_picture import draw_picture
from benchmarks.latency_trials import STAGES, Cell, Clocks, Plan, Trial, run_trials
from detector.events import CutState
from tests.slack import SLACK_SECONDS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs_nginx_rtmp,
    pytest.mark.needs_mosquitto,
    pytest.mark.needs_cage,
]


async def test_every_stage_from_encoder_to_cut_is_measured(tmp_path: Path) -> None:
    """With B-frames and without sound; the publisher itself sees its connection end, and the proof follows."""
    draw = random.Random(7)
    trials = [
        Trial(Cell(1.0, 2, is_attached_in_hook=True), "b-frames", draw.random(), BANKED[0]),
        Trial(Cell(1.0, 0, is_attached_in_hook=True), "none", draw.random(), BANKED[1]),
        Trial(Cell(1.0, 0, is_attached_in_hook=True, has_audio=False), "silent", 0.0, None),
    ]
    clocks, loads = Clocks.now(), list[dict[str, Any]]()
    plan = Plan(trials=1, publishers=2, attaches=(True,), silent_trials=1)
    measured = {one.trial.name: one for one in await run_trials(trials, plan, tmp_path, loads, is_attached=True)}

    for name in ("b-frames", "none"):
        one = measured[name]
        stages = one.stages(clocks)
        of_keyframes = {"keyframe_wait_s", "transport_s"}  # a spike may have found it before any keyframe came
        assert set(stages) | of_keyframes == set(STAGES)
        assert one.incident is not None
        assert one.incident.cut_state is CutState.CONFIRMED
        assert -0.002 < stages.get("transport_s", 0.0) < 0.5 + SLACK_SECONDS
        assert 0 < stages["alert_to_cut_s"] < stages["total_s"] < 3 + SLACK_SECONDS
        assert 0.9 < stages["proof_s"] < 3 + SLACK_SECONDS
        assert one.account.fault == ""
    silent = measured["silent"]
    assert silent.account.closed_at is None
    assert silent.alert is None
    assert 0 < silent.stages(clocks)["first_sample_s"] < 4 + SLACK_SECONDS
    assert loads[0]["service"] > 0
    assert loads[0]["publishers"] > 0


def test_without_matplotlib_the_picture_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, and the sentence names the remedy."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "make references" in draw_picture([], tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []

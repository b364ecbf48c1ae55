"""The benchmark of views runs what a sample runs, and checks what was promised."""

import json
from pathlib import Path

from benchmarks.__main__ import main


def test_every_plan_is_measured_on_frames_of_every_kind(tmp_path: Path) -> None:
    """Each plan runs more views than the one before; a list of another length than was promised has no check."""
    assert main(["views", "--trials", "5", "--rows", "3000", "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())

    scaling, *plans, feed = report["results"]
    assert scaling["cpu_ms"] > 0
    assert [plan["part"] for plan in plans][0::3] == ["identity, mirror", "new scene"]
    views = [plan["views"] for plan in plans]
    assert views == sorted(views)
    assert views[0] == 2
    assert views[-1] > 35
    assert all(plan["cpu_ms"] > plan["match_ms"] > 0 for plan in plans)
    assert report["checks"] == []
    assert feed["part"] == "feed, 3 of 10 new"
    assert plans[1]["views"] < feed["views"] < plans[-1]["views"]

"""The benchmark of inference runs every way in a process of its own, and checks what was promised."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inference, inference_eight_bits
from benchmarks.__main__ import main
from benchmarks.inference import Costs, WayCost
from benchmarks.inference_parity import Parity
from benchmarks.inference_streams import StreamCost
from benchmarks.inference_ways import BARE, PLAIN, WayMissing, WayProcess
from models.manifest import load_manifest


def test_each_way_is_timed_beside_the_runtime_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model: its frames by us, by the bare session and with defaults, in turns; memory and idle time beside."""
    monkeypatch.setattr(inference, "_models", lambda: ({"standin-cards": load_manifest("standin-cards")}, {}))
    out = tmp_path / "out.json"
    words = ["inference", "--quick", "--trials", "2", "--parity", "0", "--streams", "0", "--json", str(out)]
    assert main(words) == 0
    report = json.loads(out.read_text())

    rows = {row["way"]: row for row in report["results"]}
    assert {"cpu", BARE, PLAIN} <= rows.keys()
    assert rows["cpu"]["times_bare"] > 1
    assert all(row["cpu_ms"] > 0 and row["pss_mb"] > 10 for row in rows.values())
    assert [check["what"] for check in report["checks"]] == [
        "CPU burned in a second of waiting between samples, worst of 1 models and providers"
    ]
    assert {"parity", "streams"} <= set(report["left_out"])


def test_a_model_that_cannot_be_run_is_said() -> None:
    """The process that cannot load answers with the sentence of the product."""
    with WayProcess("standin-cards", "tensorrt") as process, pytest.raises(WayMissing, match="tensorrt"):
        process.wait_ready()


def test_ratios_and_drift_are_taken_turn_by_turn() -> None:
    """A turn in which the machine did something else weighs on both sides; drift is the largest of any label."""
    ours, bare = WayCost([11.0, 44.0, 10.0]), WayCost([10.0, 40.0, 10.0])
    ours.scores, bare.scores = [[0.1, 0.9], [0.4, 0.6]], [[0.1, 0.9], [0.3, 0.65]]
    costs: Costs = {("m", "cpu"): bare, ("m", "openvino"): ours, ("m", BARE): bare}
    rows = {row["way"]: row for row in inference._way_results(costs)}

    assert rows["openvino"]["times_bare"] == pytest.approx(1.1)
    assert rows["openvino"]["drift"] == pytest.approx(0.1)
    assert "drift" not in rows["cpu"]


def test_parity_names_the_worst_picture() -> None:
    """Pictures without scores are not counted as equal."""
    row = Parity("m", "r", True, {"a": 0.01, "b": 0.0}, {"a": 0.06}, 0.2, {"a": 0.04}, {"a": 0.07}).row()

    assert (row["identical_worst"], row["identical_pictures"], row["live_pictures"]) == ("a", 2, 1)
    assert (row["live_beyond"], row["decoded_beyond"], row["encoding_beyond"]) == (1, 0, 1)


def test_streams_per_core_are_of_all_parts() -> None:
    """Reader, service and analysis together; the median of trials."""
    cost = StreamCost([{"readers": 10.0, "service": 1.0, "analysis": 9.0}] * 3, [0.5], 0, [90_000_000, 100_000_000])
    row = cost.row("cpu", "keyframes")

    assert row["streams_per_core"] == 50.0
    assert row["analysis_pss_mb"] == 100.0


def test_what_sets_ranges_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of one picture all lie in one half: those at even places."""
    drawn = {str(grey): np.full((90, 120, 3), grey, np.uint8) for grey in range(6)}
    monkeypatch.setattr(inference_eight_bits, "pictures", lambda: drawn)
    greys = [int(one[0, 0, 0]) for one in inference_eight_bits.calibrating()]

    assert len(greys) == 30
    assert set(greys[::2]) == {0, 2, 4}
    assert set(greys[1::2]) == {1, 3, 5}

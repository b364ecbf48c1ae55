"""The benchmark's frame: settings first, one report format, missing references said."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from benchmarks import lookup
from benchmarks.__main__ import main
from benchmarks.lookup_acting import METHOD


@pytest.fixture(autouse=True)
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists long enough for tables, short enough for a test."""
    monkeypatch.setattr(lookup, "_FULL_ROWS", (500, 21_000))
    monkeypatch.setattr(lookup, "_QUICK_ROWS", (500, 21_000))


def test_report_has_the_promised_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings are printed first, and the JSON holds results and one check per promised figure."""
    assert main(["lookup", "--trials", "6", "--seed", "3", "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())

    assert capsys.readouterr().out.startswith("lookup: bits=256, radius=31")
    assert list(report) == ["name", "settings", "results", "checks", "left_out"]
    assert (report["settings"]["seed"], report["settings"]["queries"]) == (3, 6)
    assert all({"what", "value", "unit", "limit", "ok"} <= check.keys() for check in report["checks"])
    assert {result["exact_ratio"] for result in report["results"] if "exact_ratio" in result} == {1.0}
    assert (tmp_path / "out.png").is_file() == (importlib.util.find_spec("matplotlib") is not None)


def test_a_hash_that_acts_late_fails_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon an added picture acts is measured once, and held to a second."""
    slow = {"method": METHOD, "rows": 500, "written_to_incident_p95_s": 1.2}
    monkeypatch.setattr(lookup, "_ACTING_ROWS", 500)
    monkeypatch.setattr(lookup, "acting_results", lambda rows, _: slow | {"rows": len(rows)})
    assert main(["lookup", "--trials", "2", "--json", str(tmp_path / "out.json")]) == 0
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]

    acting = [check for check in checks if "pointer written" in check["what"]]
    assert [(check["value"], check["limit"], check["ok"]) for check in acting] == [(1.2, 1.0, False)]


def test_a_missing_reference_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without faiss the benchmark runs, and says which comparison it could not make and how to get it."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["lookup", "--trials", "2", "--json", str(tmp_path / "out.json")]) == 0
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]

    missing = [check for check in checks if "faiss" in check["what"]]
    assert [(check["ok"], check["value"]) for check in missing] == [(False, None)] * 2
    assert all("make references" in check["reason"] for check in missing)


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["lookup", "--trials", "0"], ["lookup", "--json", "/none/out.json"]]
)
def test_a_wrong_command_line_says_what_is_right(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown names, numbers and folders end with 2 and the remedy, before anything is measured."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert any(remedy in error for remedy in ("choose one of: ", "at least 1", "create it"))

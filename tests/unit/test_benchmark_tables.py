"""The tables of the docs say what the report says, and nothing is made of half a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy_tables import BEGIN, END, main, put_into, tables

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("pictures 500", "pictures 5,000", "pictures 1M", "hashes 500", "hashes 5,000", "hashes 1M")


def _report(**changes: Any) -> dict[str, Any]:
    recall = [
        {"part": "recall", "edit": "mirror", "goal": 0.97, "plain": 0.0, **{f"{name} cut": 0.9499 for name in LISTS}},
        {"part": "recall", "edit": "aside", "goal": None, "plain": 1.0, **{f"{name} cut": 1.0 for name in LISTS}},
    ]
    shown = [
        {"part": "sequences", "edit": edit, "real": [hits, 15], "made": [20, 20], "dark": 3}
        for edit, hits in (("mirror", 15), ("border", 15), ("filmed", 14))
    ]
    false = {"part": "false", "edited_frames": 28_000, "pairs": 1.7e12, "asks": {"review": 323}}
    settings = {"benign_frames": {"film": 600, "stills": 1_400}}
    return {
        "name": "accuracy",
        "left_out": [],
        "settings": settings,
        "results": [*recall, *shown, false],
    } | changes


def test_tables_say_what_was_found() -> None:
    """Shares are rounded down, edits without a goal have none, and videos are told where one was missed."""
    made = tables(_report())
    assert "| mirror | 97 | 0 | 94 | 94 | 94 | 94 | 94 | 94 |" in made
    assert "| aside |  | 100 | 100 | 100 | 100 | 100 | 100 | 100 |" in made
    assert "| filmed | 34 | 35 | 3 |" in made
    assert "| each of 2 other edits | all | 35 | 3 |" in made
    assert "2,000 benign frames, each in 14 edits" in made
    assert "0 edited frames could cut" in made.replace("\n", " ")


@pytest.mark.parametrize("change", [{"left_out": ["CPU time"]}, {"name": "views"}])
def test_half_a_run_makes_no_tables(change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run, or another benchmark's, is refused in a sentence."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps(_report(**change)))
    assert main([str(report)]) == 1
    assert "full run" in capsys.readouterr().err


def test_a_page_keeps_what_is_around(tmp_path: Path) -> None:
    """What stands between the marks is replaced, also the second time; a page without them is left as it is."""
    page, report = tmp_path / "page.md", tmp_path / "report.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    report.write_text(json.dumps(_report()))
    for _ in range(2):
        assert main([str(report), "--into", str(page)]) == 0
        assert page.read_text() == f"before\n{BEGIN}\n\n{tables(_report())}\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="lacks"):
        put_into("no marks", "table")


def test_the_docs_have_the_tables_of_the_report_that_is_kept() -> None:
    """Nobody has to believe that somebody copied the figures right."""
    kept = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text())
    assert tables(kept) in (ROOT / "docs" / "hashing.md").read_text()

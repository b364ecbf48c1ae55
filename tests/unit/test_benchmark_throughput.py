"""The figures of throughput and scale: what is divided by what, what is missing, and how results are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import history, scale, throughput
from benchmarks.camera_clips import OBS_LIKE, CameraClip
from benchmarks.decode_references import FLOOR, GRAB, READ
from benchmarks.processes import CpuSeconds
from benchmarks.report import Report, at_least, at_most, not_measured
from benchmarks.scale import Outcome, Shortage, Step
from benchmarks.sight_account import SightAccount
from benchmarks.throughput import KEYFRAMES, SHIPPED, Measured, Plan
from benchmarks.throughput_live import LiveCost
from benchmarks.throughput_picture import bars
from benchmarks.watched_files import Account
from detector.api.view import StreamRow

PLAN = Plan([OBS_LIKE], 1, [KEYFRAMES, SHIPPED], [FLOOR, GRAB, READ], 10, 1, None)
ROW = StreamRow("s", "live/a", "live", "", "h264", 1280, 720, "auto", 0.0, 0.0, 0.0, 0.0, 0.0, None)
SHORT = Shortage(60, 1.0, 0.5, 9.0, 0.1, 0.2, {"slowed": 60}, 5.0)


def test_start_is_in_no_figure() -> None:
    """What the start alone costs is taken out of every part, and the samples of the short run with it."""
    cost = throughput.Cost()
    long, start = Account(service=0.3, readers=1.1, analysis=0.2, judged=40), Account(service=0.1, readers=0.1)
    throughput._note(cost, long, start, 80.0)

    assert cost.total == pytest.approx([17.5])
    assert cost.parts["readers"] == pytest.approx([12.5])
    assert cost.samples_per_second == [0.5]


def test_checks_divide_by_the_references_of_the_same_trial() -> None:
    """Ours over the floor, OpenCV's over ours; a reference that is not there fails its checks and says why."""
    found = Measured(intra_keyframes=1.4, missing={READ.name: "OpenCV is not installed"})
    for way, cost in ((KEYFRAMES, 9.0), (SHIPPED, 20.0), (FLOOR, 8.0), (GRAB, 90.0)):
        found.costs[OBS_LIKE, way.name].total.append(cost)
    checks = {check.what: check for check in throughput._checks(PLAN, found)}
    by_words = {
        words: next(one for what, one in checks.items() if words in what)
        for words in ("floor's, worst", "keyframes, in those of OpenCV grab", "OpenCV read", "as shipped", "all-intra")
    }

    assert by_words["floor's, worst"].value == pytest.approx(1.125)
    assert by_words["keyframes, in those of OpenCV grab"].value == pytest.approx(10.0)
    assert by_words["as shipped"].value == pytest.approx(4.5)
    assert not by_words["as shipped"].ok
    assert (by_words["OpenCV read"].value, by_words["OpenCV read"].reason) == (None, "OpenCV is not installed")
    assert by_words["all-intra"].ok


def test_live_cost_counts_every_part_of_the_service() -> None:
    """Readers, service and analysis together stand over the floor of the same window."""
    cost = LiveCost(4, 10.0, CpuSeconds(service=0.1, readers=0.4, analysis=0.1), 0.5, 0.01, 20)

    assert cost.times_floor == pytest.approx(1.2)
    assert cost.stream_seconds == 40.0


def test_scale_compares_the_last_step_with_the_first() -> None:
    """A stream that costs a fifth more among many fails; a step that was not reached says why."""
    few = Step(5, 10.0, CpuSeconds(0.1, 0.3, 0.1), 25, [20_000_000], 0.0)
    many = replace(few, streams=60, cpu=CpuSeconds(1.2, 4.8, 1.2))
    plan = scale.Plan((5, 60), 10.0, 1.0, 1, 10.0)
    found = scale.checks(plan, Outcome([few, many], [34_000_000], SHORT))

    assert found[0].value == pytest.approx(20.0)
    assert [check.ok for check in found] == [False, True, True, True, True, True]
    gone = scale.checks(
        plan, Outcome([few], [], replace(SHORT, returned_seconds=None), fault="15 of 60 streams are live")
    )
    assert [check.ok for check in gone] == [False, False, True, True, True, False]
    assert gone[0].reason == "15 of 60 streams are live"


def test_account_from_outside_says_what_the_service_must_say() -> None:
    """Samples 2 s and then 5 s apart: 3 s of the longer gap are seen, and an account that says else differs by that."""
    account = SightAccount(3.0)
    for second, judged, age, seen in ((0, 1, 0.0, 0.0), (2, 2, 0.0, 2.0), (7, 3, 0.0, 5.0)):
        row = replace(ROW, judged=judged, last_sample_age_seconds=age, seen_seconds=seen, skipped_seconds=second - seen)
        account.look({"live/a": row}, 100.0 + second, 100.0 + second)

    assert account.gap_seconds == pytest.approx(5.0)
    assert account.alive_error_percent() == pytest.approx(0.0)
    assert account.seen_error_percent() == pytest.approx(0.0)
    account.look({"live/a": replace(row, seen_seconds=7.0, judged=4)}, 108.0, 108.0)
    assert account.seen_error_percent() == pytest.approx(100 * 1.0 / 8.0)


def test_history_keeps_one_row_for_each_commit_benchmark_and_machine(tmp_path: Path) -> None:
    """Adding the same run again replaces its row; a newer commit stands on top; what failed is named first."""
    checks = [
        at_most("cheap", 1.0, "times", 2.0),
        at_least("dear", 1.0, "times", 2.0),
        not_measured("gone", "s", 1, ""),
    ]
    report, path, table = (
        Report("throughput", {"machine": {"cpu": "a|b", "cores": 2}}, [], checks),
        tmp_path / "r.json",
        tmp_path / "t.md",
    )
    report.write(path)
    for commit, date in (("aaa", "2026-01-01"), ("bbb", "2026-01-02"), ("aaa", "2026-01-03")):
        history.add(path, table, commit=commit, date=date)
    rows = list(history.parse(table.read_text()))

    assert [(row.commit, row.date) for row in rows] == [("aaa", "2026-01-03"), ("bbb", "2026-01-02")]
    assert rows[0].checks == "1 of 3"
    assert rows[0].figures.startswith("**dear: 1 times (limit 2)**; **gone: not measured")
    assert rows[0].machine == "a/b, 2 cores"


def test_file_that_is_no_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another kind ends with exit code 2 and a sentence."""
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"name": "x"}))
    with pytest.raises(SystemExit) as ended:
        history.main(["add", str(path), "--table", str(tmp_path / "t.md")])

    assert ended.value.code == 2
    assert "write one with --json" in capsys.readouterr().err


def test_picture_has_a_bar_for_each_cost() -> None:
    """Rows without a cost, such as what came of a shortage, are no bars."""
    rows = [{"clip": "c", "way": "w", "cpu_ms_per_s": 1.0}, {"streams": 5, "cpu_ms_per_s": 2.0}, {"streams": 5}]

    assert [bar["label"] for bar in bars({"results": rows})] == ["c: w", "5 streams"]


def test_files_are_named_after_what_is_in_them() -> None:
    """Another rate is another file, and the same clip the same one."""
    assert OBS_LIKE.file_name != replace(OBS_LIKE, kilobits=4501).file_name
    assert OBS_LIKE.file_name == CameraClip(1080, 4500, is_cbr=True, bframes=2, has_audio=True).file_name

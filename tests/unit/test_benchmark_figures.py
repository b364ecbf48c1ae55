"""The figures of the benchmarks: what is lost, what grew, which options there are."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import neighbours, outage, soak
from benchmarks.__main__ import main
from benchmarks.brokers import Arrival
from benchmarks.fuzz import Findings
from benchmarks.fuzz import checks as fuzz_checks
from benchmarks.fuzzing import Outcome
from benchmarks.neighbourhood import Blow, Window
from benchmarks.outage import Away, Written
from benchmarks.soaking import Holdings

HELD = Holdings(200, 20_000, 60.0, {"service": 100 << 20, "analysis 0": 60 << 20}, {"service": 40}, {"service": 8}, 5)
QUIET = Outcome(7, "scan", "libx264/flv", "end_of_stream", "none", 0.1, frames=6)


def test_loss_is_told_against_the_rate_before() -> None:
    """A window of another length loses what its rate is lower, of all and of the worst; a higher rate loses nothing."""
    baseline = Window(4.0, {"a": 20, "b": 20})
    attacked = Window(8.0, {"a": 40, "b": 20})

    assert attacked.loss_percent(baseline) == pytest.approx(25.0)
    assert attacked.worst_loss_percent(baseline) == pytest.approx(50.0)
    assert baseline.loss_percent(attacked) == 0.0
    assert Window(8.0, {"a": 40}).worst_loss_percent(baseline) == 100.0
    assert attacked.loss_percent(Window(4.0)) == 100.0


def test_attack_without_its_blind_alert_is_a_failed_check() -> None:
    """A bomb that nobody was told of fails its check and says why; memory and crashes have checks of their own."""
    quiet = Window(4.0, {"a": 20})
    blow = Blow("bomb", quiet, quiet, peak_bytes=151 << 20, crashes={"reader": 1})
    found = {check.what: check for check in neighbours.checks([blow], ["bomb"])}

    assert found["bomb: samples the others lose"].ok
    assert not found["bomb: memory of its reader, peak"].ok
    assert not found["bomb: crashes"].ok
    assert found["bomb: told as blind after"].reason
    blow.blind_seconds = 1.0
    assert all(check.ok for check in neighbours.checks([blow], ["bomb"]) if "blind" in check.what)


@pytest.mark.parametrize(
    ("later", "failing"),
    [
        ({}, set()),
        ({"resident": {"service": (103 << 20) + 1, "analysis 0": 60 << 20}}, {"service: memory at the end"}),
        ({"descriptors": {"service": 41}}, {"descriptors more"}),
        ({"threads": {"service": 9}}, {"threads more"}),
        ({"tasks": {"session": 1}}, {"tasks more"}),
        ({"processes": 6}, {"processes more"}),
    ],
)
def test_growth_fails_its_own_check(later: dict, failing: set[str]) -> None:
    """Each kind of thing that is held more of at the end fails one check, and no other."""
    last = replace(HELD, sessions=2000, samples=200_000, **later)
    failed = {check.what for check in soak.checks([HELD, last], 2000) if not check.ok}

    assert len(failed) == len(failing)
    assert all(any(what.startswith(start) for what in failed) for start in failing)


def away(*came: tuple[int, float], growth: int = 0) -> Away:
    """Four alerts of two streams; the third, a cut's, and the others came as told: number and seconds after return."""
    written = [
        Written(f"a{seq}", seq, "s" if seq < 3 else "t", 3 if seq == 3 else 1, "acked", is_of_outage=True)
        for seq in range(1, 5)
    ]
    arrivals = [Arrival(f"a{seq}", 100.0 + at, {}) for seq, at in came]
    resident = [100 << 20] * 90 + [(100 << 20) + growth] * 10
    return Away(1.0, 100.0, written, arrivals, harmful=1, dropped=1, resident=resident, usual_growth_bytes=1 << 20)


@pytest.mark.parametrize(
    ("found", "failing"),
    [
        (away((3, 0.5), (4, 0.6), (1, 0.7), (2, 0.8), (2, 0.9)), set()),
        (away((3, 0.5), (4, 0.6), (1, 0.7)), {"broker away: alerts lost"}),
        (away((3, 0.5), (4, 0.6), (2, 0.7), (1, 0.8)), {"broker away: alerts out of their stream's order"}),
        (away((1, 0.5), (2, 0.6), (3, 5.1), (4, 5.2)), {"broker back: last cut told after"}),
        (
            away((3, 0.5), (4, 0.6), (1, 0.7), (2, 0.8), growth=5 << 20),
            {"broker away: memory grew by more than where it stayed"},
        ),
    ],
)
def test_what_an_outage_costs_fails_its_own_check(found: Away, failing: set[str]) -> None:
    """An alert that never came, one that came too early, a cut that came late, memory that grew: one check each."""
    failed = {check.what for check in outage.checks(found, 1.0) if not check.ok}
    assert failed == failing
    assert outage.row(found)["others_before_the_last_cut"] == (2 if "last cut" in str(failing) else 0)


def test_findings_of_the_fuzzing_are_told_by_their_number() -> None:
    """What hung, what nobody expected and what hurt the service is counted, named, and fails its check."""
    findings = Findings()
    for outcome in (
        QUIET,
        replace(QUIET, number=8, late_seconds=5.1),
        replace(QUIET, number=9, fault="KeyError"),
        replace(QUIET, number=10, fault="OSError", is_ours=True),
        replace(QUIET, number=11, end="ReaderCrashed: SIGSEGV", cause="reader_failed"),
    ):
        findings.note(outcome)

    assert ([one.number for one in findings.hangs], [one.number for one in findings.faults]) == ([8], [9])
    assert findings.service_faults == ["OSError by input 10"]
    assert [one.number for one in findings.crashes] == [11]
    assert [check.ok for check in fuzz_checks(findings, 5)] == [False] * 4
    calm = Findings()
    calm.note(QUIET)
    assert all(check.ok for check in fuzz_checks(calm, 1))


def test_option_of_one_benchmark_is_none_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--replay` belongs to the fuzzing; another benchmark refuses it and runs nothing."""
    with pytest.raises(SystemExit) as ended:
        main(["lookup", "--replay", "5", "--json", str(tmp_path / "out.json")])

    assert ended.value.code == 2
    assert "--replay" in capsys.readouterr().err


def test_help_of_one_benchmark_names_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README says it takes; nothing is run."""
    for words, is_told in ((["fuzz", "--help"], True), (["--help"], False)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert (ended.value.code, "--replay" in capsys.readouterr().out) == (0, is_told)


def test_a_wrong_value_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A minute's figures are not thrown away because nobody can write them down."""
    for words, sentence in (
        (["fuzz", "--inputs", "-1"], "at least 0"),
        (["fuzz", "--json", str(tmp_path)], "a folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err

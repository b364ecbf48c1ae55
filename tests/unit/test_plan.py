"""What `stopframe plan` answers, from given costs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.config.config import Config
from detector.config.units import Share
from detector.cpu.costs import CostsUnreadable, CostTable, VideoCosts, load, save
from detector.cpu.plan import DEFAULTS, Question, plan
from detector.cpu.planning import StreamShape
from streams.sampling import SamplingSettings

TABLE = CostTable(4.0, 0.002, (VideoCosts("1080p", "h264", 30.0, 0.02, 0.01, 0.15, 0.18, 5.0),))


def question(streams: int, gop: float = 2.0, **matching: int) -> Question:
    """So many streams of 1080p30."""
    return Question(streams, "1080p", StreamShape(gop), matching)


def test_costs_outlive_a_file(tmp_path: Path) -> None:
    """What was saved is read back the same."""
    save(TABLE, tmp_path / "costs.json")

    assert load(tmp_path / "costs.json") == TABLE


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"cores": 1, "analysis_seconds": 0, "videos": []}'])
def test_broken_costs_are_one_sentence(tmp_path: Path, content: str) -> None:
    """Nothing but a table of costs is taken for one."""
    (tmp_path / "costs.json").write_text(content)

    with pytest.raises(CostsUnreadable, match="--save-costs"):
        load(tmp_path / "costs.json")


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("reading", -0.5),
        ("frames_per_gop", float("nan")),
        ("whole", float("inf")),
        ("through", 0.0),
        ("fps", 1e-4),
        ("fps", 1e5),
    ],
)
def test_costs_that_cannot_be_are_one_sentence(tmp_path: Path, figure: str, value: float) -> None:
    """No figure that no machine can have becomes an answer, such as fewer cores than none."""
    wrong: dict[str, Any] = {figure: value}
    save(replace(TABLE, videos=(replace(TABLE.videos[0], **wrong),)), tmp_path / "costs.json")

    with pytest.raises(CostsUnreadable, match="no machine has"):
        load(tmp_path / "costs.json")


def test_stream_costs_follow_from_its_parts() -> None:
    """Keyframes cost by the GOP, decoding through by the frame rate."""
    every_two = TABLE.stream("1080p", SamplingSettings(), StreamShape(2.0))
    through = TABLE.stream("1080p", SamplingSettings(), StreamShape(8.0, fps=60.0))

    assert (every_two.keyframes_per_second, every_two.through) == (0.5, 0.0)
    assert every_two.whole == pytest.approx(0.18 + 5 * 0.002 / 2)
    assert through.through == pytest.approx(0.302)
    assert through.reading == pytest.approx(0.02)


@pytest.mark.parametrize("streams", [1, 30, 100, 300, 5000])
def test_verdict_agrees_with_the_limits(streams: int) -> None:
    """A number of streams from which something shrinks is the first at which it does."""
    report = plan(Config(), TABLE, question(streams))
    limits = (report.bursts_shrink_from, report.slowed_from, report.refused_from)

    assert limits == tuple(sorted(limits))
    assert report.verdict == ["fits", "bursts_shrink", "slowed", "refused"][sum(streams >= limit for limit in limits)]
    assert plan(Config(), TABLE, question(report.bursts_shrink_from - 1)).verdict == "fits"
    assert plan(Config(), TABLE, question(report.refused_from)).verdict == "refused"


def test_entries_have_rows_of_their_own() -> None:
    """A tier that promises more costs more, and is seen earlier."""
    config = Config.model_validate(
        {"streams": [{"match": "new/*", "risk": "high", "sampling": {"detect_within": "1s", "bursts": "20%"}}]}
    )
    report = plan(config, TABLE, Question(10, "1080p", StreamShape(2.0), {"new/*": 3}))

    assert [(tier.name, tier.streams, tier.risk) for tier in report.tiers] == [
        ("new/*", 3, "high"),
        (DEFAULTS, 7, "normal"),
    ]
    close, usual = report.tiers
    assert close.cores > usual.cores
    assert close.seen_within_s < usual.seen_within_s < usual.hash_within_s < usual.class_within_s


def test_more_cpu_may_be_allowed() -> None:
    """Half the share of the cores holds half the streams."""
    config = Config()
    half = config.model_copy(update={"sampling": config.sampling.model_copy(update={"max_cpu": Share.parse("40%")})})

    whole = plan(config, TABLE, question(10))
    assert plan(half, TABLE, question(10)).bursts_shrink_from == pytest.approx(whole.bursts_shrink_from / 2, abs=1)


def test_long_gops_cost_more() -> None:
    """The table of keyframe intervals says what decoding through costs."""
    rows = {row.gop_s: row for row in plan(Config(), TABLE, question(10)).gops}

    assert rows[2.0].factor == 1.0
    assert rows[8.0].factor > 4
    assert [row.look for row in rows.values()] == ["keyframes", "keyframes", "through", "through", "through"]

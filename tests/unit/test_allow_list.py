"""Allow-lists: nobody is cut who is on one, nobody stays on one by mistake, and none of it is secret to an operator."""

from pathlib import Path

import pytest

from detector.allow_list import REFUSED_BY, AllowList
from detector.config.config import Config
from detector.config.loading import check_files, load_config
from detector.config.sections import EnforcementSection
from detector.events import Decision, Signal, Step
from detector.reload import LIVE, difference

UNTIL = 1_796_083_200  # 2026-12-01T00:00:00Z
SECTION = EnforcementSection.model_validate(
    {
        "allow": [
            {"match": "live/channel-*", "until": "2026-12-01T00:00Z", "reason": "announced test"},
            {"match": "*/studio", "until": "2027-01-01", "reason": "our own"},
        ]
    }
)


def decision(action: Step) -> Decision:
    return Decision("s", "x", None, action, True, (Signal("hash", "pdq", "B/e", action, 31),), (1, 1))


@pytest.mark.parametrize(
    ("path", "at", "covers"),
    [
        ("live/channel-1", UNTIL - 1, True),
        ("live/channel-1", UNTIL, False),
        ("live/Channel-1", UNTIL - 1, False),
        ("live/other", UNTIL - 1, False),
        ("any/studio", UNTIL + 1, True),
    ],
)
def test_who_is_covered_until_when(path: str, at: int, *, covers: bool) -> None:
    """Case counts, the first second after the time counts, and one entry is enough."""
    allow = AllowList(lambda: SECTION.allow, wall_clock=lambda: at)
    assert allow.covers(path) is covers
    softened = allow.soften(decision(Step.CUT), path)
    assert softened.action is (Step.REVIEW if covers else Step.CUT)
    assert softened.refused_by == (REFUSED_BY if covers else None)
    assert softened.signals == decision(Step.CUT).signals, "what was seen is told as it was"
    for weaker in (Step.REVIEW, Step.SHADOW):
        assert allow.soften(decision(weaker), path) == decision(weaker)


def test_every_entry_is_listed_and_those_that_ran_out_by_name() -> None:
    """Health says what each entry is for, how many live streams it covers and when it ends; it shows no pattern."""
    now = float(UNTIL - 1)
    allow = AllowList(lambda: SECTION.allow, wall_clock=lambda: now)
    told = allow.notes(["live/channel-1", "live/channel-2", "live/x"])
    assert told == [
        "enforcement.allow[0] (announced test) keeps 2 live streams from being cut until 2026-12-01T00:00:00Z",
        "enforcement.allow[1] (our own) keeps 0 live streams from being cut until 2027-01-01T00:00:00Z",
    ]
    now = float(UNTIL)
    assert allow.notes([])[0].endswith("ran out at 2026-12-01T00:00:00Z and holds no more: take it out")
    assert AllowList(tuple).notes(["live/channel-1"]) == []


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ("{match: 'x', until: 2026-12-01}", "reason"),
        ("{match: 'x', reason: y}", "until"),
        ("{match: 'x', until: tomorrow, reason: y}", "until"),
        ('{match: "x\\u0007", until: 2026-12-01, reason: y}', "match"),
    ],
)
def test_an_entry_without_an_end_or_a_reason_is_refused(entry: str, key: str, tmp_path: Path) -> None:
    """Nobody is let go for ever, or for nothing."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(f"enforcement: {{allow: [{entry}]}}\n")
    assert [fault.key for fault in check_files([path])] == [f"enforcement.allow[0].{key}"]


def test_a_running_service_takes_an_entry_up(tmp_path: Path) -> None:
    """No restart is needed to let a stream go, or to take that back."""
    path = tmp_path / "stopframe.yaml"
    path.write_text('enforcement: {allow: [{match: "live/*", until: 2026-12-01T18:00:00Z, reason: test}]}\n')
    changes = difference(Config(), load_config(path))
    assert changes.waiting == ()
    assert changes.in_force.enforcement.allow[0].match == "live/*"
    assert {f"enforcement.allow.*.{key}" for key in ("match", "until", "reason")} <= LIVE

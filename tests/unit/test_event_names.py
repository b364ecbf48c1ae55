"""The log's events: dotted facts, each with one meaning, all of them in docs/events.md and nothing else there."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from detector.events import CutState

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}
ROW = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \|(.*?)\| (.*?) \|$", re.MULTILINE)


@cache
def _events() -> dict[str, set[str]]:
    """Every event that the code logs, with its levels."""
    found = defaultdict(set, {"child.fault": {"error"}})  # written by a child that has no logger
    for path in (file for folder in ("detector", "streams", "models") for file in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level), args=[first, *_]) if (
                    level in LEVELS
                ):
                    levels = {"error" if level == "exception" else level}
                case ast.Call(func=ast.Name("say"), args=[first, *_]) if "say = log." in text:
                    levels = {"info", "warning"}
                case _:
                    continue
            for name in _names(first):
                found[name] |= levels
    return found


def _names(first: ast.expr) -> set[str]:
    """The names that the first argument of a log call may be; a made-up one is of the cut's states alone."""
    match first:
        case ast.Constant(str(name)):
            return {name}
        case ast.IfExp(body=ast.Constant(str(one)), orelse=ast.Constant(str(other))):
            return {one, other}
        case ast.JoinedStr([ast.Constant("cut."), _]):
            return {f"cut.{state.value}" for state in (CutState.CONFIRMED, CutState.FAILED, CutState.UNCUTTABLE)}
    raise AssertionError(f"{ast.unparse(first)}: an event's name is a literal")


def test_an_event_is_a_dotted_fact() -> None:
    """`subject.fact`: an operator can alert on a name that never holds a value."""
    names = _events()

    assert len(names) > 30
    assert [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []


def test_every_event_is_described_once_and_no_other() -> None:
    """docs/events.md says of each event its level, its keys and its meaning; each meaning is its own."""
    rows = ROW.findall((ROOT / "docs/events.md").read_text())
    described = {name: level for name, level, _, _ in rows}

    assert sorted(described) == sorted(_events())
    assert len(described) == len(rows)
    assert {name: described[name] for name, levels in _events().items() if described[name] not in levels} == {}
    assert len({meaning for *_, meaning in rows}) == len(rows)

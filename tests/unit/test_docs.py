"""The documents: what they link to, name and show exists, and their configs are valid."""

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest
import typer.main
import yaml

from detector.cli.main import app
from detector.config.config import Config
from detector.config.loading import check_files
from detector.events import Step
from detector.ingest.hooks import HookOutcome
from detector.metrics import Metrics
from models.evidence import Inspection, ModelUse

ROOT = Path(__file__).parents[2]
_HIDDEN = re.compile(r"^(\.|dist$|build$|state$)")
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not any(_HIDDEN.match(part) for part in path.relative_to(ROOT).parts)
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"(tests/[\w/]+\.py)?::(test_\w+)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=_name)


def _prose(text: str) -> str:
    return _FENCE.sub("", text)


def _spoken(text: str) -> list[str]:
    """What readers are told to type: code spans and the lines of code blocks. A span may go on in the next line."""
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(text))]
    lines = [line.strip() for _, _, block in _FENCE.findall(text) for line in block.splitlines()]
    return [re.sub(r"^\$ ", "", one) for one in [*spans, *lines]]


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@cache
def _tests_in(path: Path) -> frozenset[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_"))


def _named_tests(text: str) -> list[tuple[str, str]]:
    """(file, test) pairs; `::test` alone stands for a test of the file that was named last."""
    found, file = [], ""
    for match in _TEST.finditer(text):
        file = match[1] or file
        found.append((file, match[2]))
    return found


@cache
def _make_words() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _is_config(text: str) -> bool:
    values = yaml.safe_load(text)
    return isinstance(values, dict) and set(values) <= set(Config.model_fields)


@cache
def _metric_names() -> frozenset[str]:
    """The names that `/metrics` shows once everything with a label has happened; a histogram counts by its stem."""
    metrics = Metrics()
    metrics.stage("hash", 0.0)
    metrics.coverage("seen", 1.0)
    metrics.signal("hash", Step.REVIEW)
    metrics.model_failure("model")
    metrics.inspection(Inspection(0, False, False, b"", model_uses=(ModelUse("model", looks=2, left_out=1),)))
    metrics.hook(HookOutcome.LET_IN, 0.0)
    metrics.list_synced("list", "synced")
    metrics.list_hashes("list", "added", 1)
    metrics.set_list("list", rows=1, age_seconds=0.0)
    samples = re.findall(r"^(stopframe_\w+)", metrics.expose()[0].decode(), re.MULTILINE)
    return frozenset(samples) | {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples}


def _configs() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        blocks = [textwrap.dedent(block) for _, kind, block in _FENCE.findall(text) if kind == "yaml"]
        found += [(f"{_name(document)}[{number}]", block) for number, block in enumerate(blocks) if _is_config(block)]
    return found


CONFIGS = _configs()


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    """Relative links name files of the repository, and headings that those files have."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in _anchors(file), target


@every_document
def test_every_make_word_exists(document: Path) -> None:
    """`make WORD` in a document is a word of the Makefile."""
    for spoken in _spoken(document.read_text(encoding="utf-8")):
        match = re.match(r"(?:STOPFRAME_NO_SKIP=1 )?make ([a-z-]+)", spoken)
        assert match is None or match[1] in _make_words(), spoken


@every_document
def test_every_command_exists(document: Path) -> None:
    """`stopframe WORD` in a document is a command; so is the word behind `hashes`, `models` and `incidents`."""
    commands = typer.main.get_command(app)
    for spoken in _spoken(document.read_text(encoding="utf-8")):
        match = re.match(r"(?:\w+=\S+ )?(?:\S*/)?stopframe ([a-z]+)(?: ([a-z]+))?", spoken)
        if match is None:
            continue
        known = commands.commands  # type: ignore[attr-defined]
        assert match[1] in known, spoken
        below = getattr(known[match[1]], "commands", {})
        assert match[2] is None or not below or match[2] in below, spoken


@every_document
def test_every_metric_exists(document: Path) -> None:
    """A `stopframe_...` in a document is a metric that the service shows: an alarm on another would never ring."""
    for spoken in re.findall(r"`(stopframe_\w+)", document.read_text(encoding="utf-8")):
        assert spoken in _metric_names(), spoken


@every_document
def test_every_named_test_exists(document: Path) -> None:
    """Whoever doubts a promise finds the test that the document names."""
    for file, name in _named_tests(document.read_text(encoding="utf-8")):
        assert name in _tests_in(ROOT / file), f"{file}::{name}"


def test_each_promise_of_the_readme_names_a_test() -> None:
    """No row of the promises stands there without proof."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What it promises")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ") and not row.startswith("| promise")]
    assert len(rows) > 10
    assert all(_named_tests(row.split("|")[2]) for row in rows)


@every_document
def test_every_file_in_backticks_exists(document: Path) -> None:
    """A path into one of our folders is a path that is there."""
    folders = "benchmarks|configs|detector|models|requirements|scripts|streams|tests"
    for spoken in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", document.read_text(encoding="utf-8")):
        is_example = spoken == "models/hashing/average.py"  # the file that the first change makes
        assert is_example or (ROOT / spoken).exists(), spoken


@pytest.mark.parametrize("config", [text for _, text in CONFIGS], ids=[where for where, _ in CONFIGS])
def test_every_config_is_valid(config: str, tmp_path: Path) -> None:
    """What a reader copies out of a document passes `stopframe check`."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(config, encoding="utf-8")
    assert check_files([path]) == []


def test_the_configs_of_the_readme_are_found() -> None:
    """The tests above look at something."""
    assert sum(where.startswith("README.md") for where, _ in CONFIGS) >= 2

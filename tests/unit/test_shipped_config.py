"""The shipped config file: every option, at its default, explained; its examples valid; its schema current."""

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from detector.config.config import Config
from detector.config.faults import section_at
from detector.config.loading import check_files, load_config
from detector.config.sampling import SamplingOverride
from detector.config.schema import config_schema, schema_text
from detector.config.units import Between
from detector.ingest.registry import INGEST_SERVERS

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = CONFIGS / "stopframe.yaml"
# One space after the # makes a remark; none or more an example.
_EXAMPLE = re.compile(r"^#(?! \S|$)", re.MULTILINE)
# A section that stands in place of the one above it.
_INSTEAD = re.compile(r"^#ingest:\n(?:#.*\n)+", re.MULTILINE)
# Their defaults depend on the machine, so the file cannot hold them.
_LEFT_OUT = {"state_dir", "node"}


def _text() -> str:
    """The file without what stands in place of something else."""
    return _INSTEAD.sub("", SHIPPED.read_text(encoding="utf-8"))


def _uncommented() -> str:
    return _EXAMPLE.sub("", _text())


def _options(values: dict[str, Any], section: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a file's values by dotted path, down through sections, lists and names."""
    for key, value in values.items():
        path = f"{above}{key}"
        below = section_at(section, (key,))
        inner = section_at(section, (key, 0))
        if below is not None and isinstance(value, dict):
            yield from _options(value, below, f"{path}.")
        elif inner is not None and value:
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, dict):  # else a word that stands for a section
                    yield from _options(item, inner, f"{path}[].")
        else:
            yield path, value


def _typed_options(section: type[BaseModel], above: str = "") -> Iterator[str]:
    for key in section.model_fields:
        path = f"{above}{key}"
        below, inner = section_at(section, (key,)), section_at(section, (key, 0))
        if below is SamplingOverride:
            yield f"{path}.detect_within"  # one stands for all: they are those of `sampling`
        elif below is not None:
            yield from _typed_options(below, f"{path}.")
        elif inner is not None:
            yield from _typed_options(inner, f"{path}[].")
        else:
            yield path


def test_the_shipped_file_is_the_defaults() -> None:
    """Loading it changes nothing, value by value."""
    assert load_config(SHIPPED) == load_config(None)


def test_the_shipped_file_names_no_place_of_its_own() -> None:
    """Without a state folder in it, it works from wherever it is copied to."""
    assert not _LEFT_OUT & set(yaml.safe_load(SHIPPED.read_text(encoding="utf-8")))


def test_the_shipped_file_holds_every_option_and_nothing_else() -> None:
    """File and types list the same options, the examples included."""
    options = [path for path, _ in _options(yaml.safe_load(_uncommented()), Config)]
    assert sorted(options) == sorted(_typed_options(Config))


def test_the_shipped_file_follows_the_order_of_the_types() -> None:
    """Sections stand in the order in which a frame meets them, in the file and in the code."""
    assert list(yaml.safe_load(_uncommented())) == list(Config.model_fields)


def test_the_examples_are_valid_as_soon_as_they_are_uncommented(tmp_path: Path) -> None:
    """Removing every # of an example gives a file without faults, with all of them in force."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(_uncommented(), encoding="utf-8")
    assert check_files([path]) == []
    config = load_config(path)
    assert config.sources
    assert config.streams
    assert config.classes
    assert config.banks
    assert config.sampling_for("live/new-1").detect_within_seconds == 1.0


def test_each_example_is_valid_alone(tmp_path: Path) -> None:
    """Uncommenting one block needs no second one."""
    path = tmp_path / "stopframe.yaml"
    text = _text()
    blocks = re.findall(r"(?:^#(?! \S|$).*\n)+", text, re.MULTILINE)
    assert len(blocks) == 10
    for block in blocks:
        path.write_text(text.replace(block, _EXAMPLE.sub("", block)), encoding="utf-8")
        assert check_files([path]) == []
        assert load_config(path) != load_config(None)


def test_every_kind_of_ingest_server_has_its_block(tmp_path: Path) -> None:
    """Each server's keys stand there at their defaults, explained with their bounds, ready to replace the section."""
    path = tmp_path / "stopframe.yaml"
    kinds = {"embedded", "none"}
    for block in _INSTEAD.findall(SHIPPED.read_text(encoding="utf-8")):
        section = _EXAMPLE.sub("", block)
        path.write_text(re.sub(r"^ingest:\n(?: .*\n)+", lambda _, s=section: s, _text(), flags=re.MULTILINE))
        assert check_files([path]) == []
        ingest = load_config(path).ingest
        assert ingest == type(ingest).model_validate({"kind": ingest.kind})
        assert list(yaml.safe_load(section)["ingest"]) == list(type(ingest).model_fields)
        for key, between in _bounds(type(ingest)):
            assert re.search(rf"{between.least} to {between.most}\.\n  {key}:", section), key
        assert len(re.findall(r"^  # .*\n  [a-z_]+:", section, re.MULTILINE)) == len(type(ingest).model_fields)
        kinds.add(ingest.kind)
    assert kinds == set(INGEST_SERVERS)


def test_the_examples_of_banks_and_classes_are_their_defaults() -> None:
    """What an example shows is what a line without a value means."""
    values = yaml.safe_load(_uncommented())
    assert Config.model_validate({"banks": values["banks"]}).banks == {"MY_BANK": Config().bank("MY_BANK")}
    name = "standin-cards/smptebars"
    example = Config.model_validate({"classes": values["classes"]})
    assert example.classes == Config.model_validate({"classes": {name: {}}}).classes


def test_every_option_is_explained_above_it() -> None:
    """Each option has a remark on the line before it, or stands in a block that has one."""
    lines = _uncommented().splitlines()
    for number, line in enumerate(lines):
        key = re.match(r"\s*(?:- )?([a-z_]+):(?: \S|$)", line)
        if key and f"{key[1]}" not in {
            "log",
            "ingest",
            "reader",
            "sampling",
            "analysis",
            "enforcement",
            "alerts",
            "mqtt",
            "http",
            "blind",
        }:
            assert re.match(r"\s*#", lines[number - 1]), f"line {number + 1}: {line}"


def _bounds(section: type[BaseModel]) -> Iterator[tuple[str, Between]]:
    for key, hint in typing.get_type_hints(section, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Between):
                yield key, extra


@pytest.mark.parametrize(
    "place", [("reader",), ("sampling",), ("analysis",), ("enforcement",), ("enforcement", "breaker"), ("alerts",)]
)
def test_every_bound_is_told(place: tuple[str, ...]) -> None:
    """The remark of an option with a range names both its ends as the type has them."""
    text = SHIPPED.read_text(encoding="utf-8")
    text = re.split(r"^(?=[a-z])", text[text.index(f"\n{place[0]}:\n") + 1 :], maxsplit=2, flags=re.MULTILINE)[1]
    section = section_at(Config, place)
    assert section is not None
    bounds = list(_bounds(section))
    assert bounds
    for key, between in bounds:
        remark = re.search(rf"((?:^ +#.*\n)+) +{key}:", text, re.MULTILINE)
        assert remark is not None, key
        assert f"{between.least} to {between.most}" in remark[1], key


def test_the_committed_schema_is_current() -> None:
    """`python -m detector.config.schema > configs/stopframe.schema.json` was run after the last change."""
    assert (CONFIGS / "stopframe.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_agrees_with_the_loader() -> None:
    """Editors accept what the loader accepts, and refuse a typo as it does."""
    validator = jsonschema.Draft202012Validator(config_schema())
    jsonschema.Draft202012Validator.check_schema(config_schema())
    validator.validate(yaml.safe_load(SHIPPED.read_text(encoding="utf-8")))
    validator.validate(yaml.safe_load(_uncommented()))
    typos: list[dict[str, object]] = [
        {"smapling": {}},
        {"votes": {"k": 0}},
        {"sampling": {"interval": "5 s"}},
        {"alerts": {"mqtt": {"password": "x"}}},
    ]
    for wrong in typos:
        assert not validator.is_valid(wrong), wrong


def test_the_schema_describes_every_option() -> None:
    """Whoever hovers over a key in an editor reads what it does."""
    schema = config_schema()
    for name, definition in [*schema["$defs"].items(), ("Config", schema)]:
        for key, option in definition.get("properties", {}).items():
            assert option.get("description"), f"{name}.{key}"


def test_the_schema_names_no_machine() -> None:
    """Defaults that depend on where it was generated stay out."""
    assert str(Path.home()) not in json.dumps(config_schema())

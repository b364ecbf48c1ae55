"""Faults as operators read them: file, line, key, what is wrong and what would be right."""

import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from detector.config.config import Config
from detector.config.crosscheck import CONFLICT, Conflict, Location
from detector.config.ingest import known_sections, section_for
from detector.config.sections import IngestSection
from detector.config.wording import listed, nearest, shown

_SECRET_KEYS = frozenset({"password", "url"})


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with a config file. `key` is `path.to.key`, or `(file)` where it is the file itself."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.message}"


class ConfigError(Exception):
    """A config file has faults, all of which are in `faults`. Raised by the loader; nothing was changed or started."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault before it has a file and a line. `concerns` are the other keys it rests on."""

    location: Location
    message: str
    concerns: tuple[Location, ...] = ()


def key_text(location: Location) -> str:
    """`path.to[0].key`, with anything unprintable escaped."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if part.isprintable() and part else json.dumps(part)
            text += ("." if text else "") + plain[:100]
    return text or "(file)"


def findings(error: ValidationError, values: object, root: type[BaseModel] = Config) -> Iterator[Finding]:
    """What the failed validation of a file's `values` as a `root` found, in words."""
    every = error.errors(include_url=False)
    lists = {details["loc"][:-1] for details in every}
    for details in every:
        if details["type"] == "too_short" and details["loc"] in lists:
            continue  # a list whose only entry has a fault counts as empty
        location = _key_location(details, root)
        if details["type"] == CONFLICT:
            for conflict in details["ctx"]["conflicts"]:
                yield _placed(conflict, location)
        else:
            # What may stand under `ingest` rests on its kind: with a kind that does not exist all of it is open.
            concerns: tuple[Location, ...] = (("ingest", "kind"),) if location[:1] == ("ingest",) else ()
            yield Finding(location, _message(details, location, values, root), concerns)


def _key_location(details: ErrorDetails, root: type[BaseModel]) -> Location:
    """Where the fault is. Of a bad name in a group of free names pydantic says `(group, name, "[key]")`."""
    location = details["loc"]
    is_name = location[-1:] == ("[key]",) and details["type"] != "extra_forbidden"
    return location[:-1] if is_name and section_at(root, location[:-1]) else location


def _placed(conflict: Conflict, section: Location) -> Finding:
    concerns = tuple((*section, *concern) for concern in conflict.concerns)
    return Finding((*section, *conflict.at), conflict.message, concerns)


def _message(details: ErrorDetails, location: Location, values: object, root: type[BaseModel]) -> str:
    """One sentence for one of pydantic's errors."""
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return _unknown_key(location, values, root)
    if kind == "value_error":
        return str(details["ctx"]["error"])
    is_secret = bool(location) and location[-1] in _SECRET_KEYS
    value = "the given value" if is_secret else shown(given)
    if kind == "missing":
        return "is missing; write it"
    wanted = _wanted(kind, details.get("ctx", {}), given)
    entry = section_at(root, (*location, 0)) if kind == "tuple_type" else None
    if entry is not None:
        first = next(iter(entry.model_fields))
        wanted = f"a list: each entry below it begins with a dash, as in '- {first}: ...'"
    if given is None:
        return f"has no value; write {wanted}, or leave the key out"
    return f"{value} does not fit; write {wanted}"


_WANTED = {
    "bool_type": "true or false",
    "model_type": "keys and values below it",
    "model_attributes_type": "keys and values below it",
    "dict_type": "keys and values below it",
    "tuple_type": "a list, such as [a, b]",
    "too_short": "a list of at least one value",
    "string_type": "text (in quotes where it looks like a number)",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _wanted(kind: str, context: dict[str, Any], given: object) -> str:
    """What would be right for one of pydantic's error types."""
    if kind in ("enum", "literal_error"):
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        near = nearest(given, words) if isinstance(given, str) else None
        meant = f" (did you mean {near}?)" if near else ""
        return f"{listed(words)}{meant}"
    return _WANTED.get(kind, "another value").format(**context)


_REPLACED = {
    "alerts.blind_after": "no such key any more: each cause has a time of its own; write blind.stall.after and so on",
}


def _unknown_key(location: Location, values: object, root: type[BaseModel]) -> str:
    """A key that no section has: the name probably meant, and all the names there are."""
    if key_text(location) in _REPLACED:
        return _REPLACED[key_text(location)]
    section = section_at(root, location[:-1], values)
    names = sorted(section.model_fields) if section else []
    name = str(location[-1])
    near = nearest(name, names)
    if near:
        return f"no such key; did you mean {near}? (here: {listed(names)})"
    elsewhere = next((path for path in _paths(root) if path.endswith(f".{name}")), None)
    if elsewhere == key_text(location):
        return f"no such key of this kind; write another kind, or one of its own keys ({listed(names)})"
    if elsewhere:
        return f"no such key here; write {elsewhere} (here: {listed(names)})"
    return f"no such key; write {listed(names)}"


def section_at(root: type[BaseModel], location: Location, values: object = None) -> type[BaseModel] | None:
    """The section type that stands at a place in the config, or None; that of `ingest` rests on the file's values."""
    annotation: Any = root
    for part in location:
        values = values.get(part) if isinstance(values, dict) else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:  # an item of a list, a value by name
            arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
            annotation = arguments[-1] if arguments else None
        annotation = _bare(annotation)
        if annotation is IngestSection:
            annotation = section_for(values)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """An annotation without `Annotated` and `| None`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _bare(typing.get_args(annotation)[0])
    return annotation


def _paths(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted path of every option below a section; lists and names are left out."""
    for name, field in section.model_fields.items():
        annotation = _bare(field.annotation)
        if annotation is IngestSection:
            for kind in known_sections():
                yield from _paths(kind, f"{above}{name}.")
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _paths(annotation, f"{above}{name}.")
        else:
            yield f"{above}{name}"

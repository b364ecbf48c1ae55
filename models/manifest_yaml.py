"""YAML for manifests, strictly: no aliases, no duplicate keys, no unknown keys, and every fault with its line."""

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

MAX_MANIFEST_BYTES: Final = 1024**2
_MAX_DEPTH: Final = 8
_LARGEST: Final = sys.float_info.max
_MAX_WORD: Final = 400
"""Characters of a number or date: whole numbers in hexadecimal and in sixties get longer than Python prints."""

_MISSING: Final[Any] = object()
_TEXT: Final = "tag:yaml.org,2002:str"
_KIND_NAMES: Final = {str: "text", int: "a whole number", bool: "true or false", float: "a number"}


class ManifestError(ValueError):
    """A manifest or the model file it names cannot be used. The text is one sentence for the operator."""

    def __init__(self, path: Path, line: int | None, message: str) -> None:
        place = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {message}")
        self.path = path
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that some file beside the manifest states.

    `origin` is what people are shown (`config.json:12`); `path`, `line` and `key` are where a fault in it is mended.
    """

    value: Any
    origin: str
    path: Path
    line: int | None
    key: str

    def fault(self, message: str) -> ManifestError:
        """The error to raise for this value."""
        return ManifestError(self.path, self.line, f"{self.key}: {message}")


class Facts(Protocol):
    """What is known where the manifest itself is silent. Keys are those of a manifest (`model_info.labels`)."""

    def fact(self, key: str) -> Fact | None:
        """The value of `key`, or None where nothing states it.

        Raises:
            ManifestError: Something states it in a way that cannot be honoured.
        """

    def forbids_default(self, key: str) -> bool:
        """Whether `key` must be stated by somebody, because guessing it would make the scores wrong."""

    def remedy(self, key: str) -> str:
        """What to write, and where, so that `key` is no longer missing."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases (a few lines of them unfold to gigabytes) and with a depth limit."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        if self.depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class Section:
    """One mapping of a manifest, read key by key; `finish` refuses the keys that nobody asked for.

    Where the manifest is silent, `beneath` is asked: what the files beside it say.
    """

    def __init__(
        self,
        path: Path,
        prefix: str,
        line: int | None,
        entries: dict[str, tuple[int, Any]],
        *,
        provenance: dict[str, str],
        beneath: Facts | None = None,
    ) -> None:
        self.path = path
        self.provenance = provenance
        self.beneath = beneath
        self._prefix = prefix
        self._line = line
        self._entries = entries
        self._asked: set[str] = set()

    def fault(self, key: str, message: str) -> ManifestError:
        """The error to raise for what `key` holds."""
        fact = self._fact(key)
        if fact is not None:
            return fact.fault(message)
        line = self._entries[key][0] if key in self._entries else self._line
        return ManifestError(self.path, line, f"{self._prefix}{key}: {message}")

    def has(self, key: str) -> bool:
        """Whether the manifest, or what lies beneath it, says anything about `key`."""
        return key in self._entries or self._fact(key) is not None

    def keys_of(self, key: str) -> tuple[str, ...]:
        """What the section `key` states in the manifest itself; none where there is no such section."""
        value = self._entries[key][1] if key in self._entries else None
        return tuple(value) if isinstance(value, dict) else ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the file's order."""
        return tuple(self._entries)

    def take(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        """The value of `key`, of exactly this type; `default` where the key is absent."""
        value = self._value(key, default)
        if value is default and not self.has(key):
            return value
        if type(value) is not kind:
            raise self.fault(key, f"must be {_KIND_NAMES[kind]}, not {_show(value)}{_quote_hint(kind, value)}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = _MISSING) -> str:
        """The text of `key`, one of `allowed`."""
        value = self.take(key, str, default)
        if value not in allowed:
            raise self.fault(key, f"{value!r} is not known; use {' or '.join(allowed)}")
        return str(value)

    def whole(self, key: str, lowest: int, highest: int, default: Any = _MISSING) -> int:
        """The whole number of `key`, within bounds."""
        value = self.take(key, int, default)
        if not lowest <= value <= highest:
            raise self.fault(key, f"must lie in {lowest}..{highest}, not {value}")
        return int(value)

    def number(self, key: str, lowest: float, highest: float, default: Any = _MISSING) -> float:
        """The number of `key`, whole or not, within bounds."""
        value = self._as_number(key, self._value(key, default))
        if not lowest <= value <= highest:
            raise self.fault(key, f"must lie in {lowest:g}..{highest:g}, not {value:g}")
        return value

    def three_numbers(self, key: str, default: float) -> tuple[float, float, float]:
        """Three finite numbers, one per channel."""
        value = self._value(key, [default] * 3)
        if type(value) is not list or len(value) != 3:
            raise self.fault(key, f"must be a list of three numbers, one per channel, not {_show(value)}")
        first, second, third = (self._as_number(key, entry) for entry in value)
        return first, second, third

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of non-empty texts."""
        value = self._value(key, _MISSING)
        if type(value) is not list:
            raise self.fault(key, f"must be a list of texts, not {_show(value)}")
        for entry in value:
            if type(entry) is not str or not entry.strip():
                raise self.fault(key, f"{_show(entry)} is no text; put it in quotes")
        return tuple(value)

    def section(self, key: str) -> "Section":
        """The mapping under `key`."""
        prefix, line = f"{self._prefix}{key}.", self._line
        if key not in self._entries and self.beneath is not None:
            self._asked.add(key)
            value: Any = {}
        else:
            value = self._value(key, _MISSING)
            line = self._entries[key][0]
            self.provenance.pop(f"{self._prefix}{key}", None)
        if type(value) is not dict:
            raise self.fault(key, f"must be a section with keys of its own, not {_show(value)}")
        return Section(self.path, prefix, line, value, provenance=self.provenance, beneath=self.beneath)

    def finish(self) -> None:
        """Refuse keys that no reader asked for."""
        for key in self._entries:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(self._asked))}"
                raise self.fault(key, f"is not known; {remedy}")

    def _value(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        if key in self._entries:
            line, value = self._entries[key]
            self.provenance[f"{self._prefix}{key}"] = f"{self.path.name}:{line}"
            return value
        name = f"{self._prefix}{key}"
        fact = self._fact(key)
        if fact is not None:
            self.provenance[name] = fact.origin
            return fact.value
        if default is _MISSING or (self.beneath is not None and self.beneath.forbids_default(name)):
            remedy = "add it" if self.beneath is None else self.beneath.remedy(name)
            raise self.fault(key, f"is missing; {remedy}")
        self.provenance[name] = "default"
        return default

    def _fact(self, key: str) -> Fact | None:
        if key in self._entries or self.beneath is None:
            return None
        return self.beneath.fact(f"{self._prefix}{key}")

    def _as_number(self, key: str, value: Any) -> float:
        if type(value) not in {int, float} or not -_LARGEST <= value <= _LARGEST:
            raise self.fault(key, f"must hold finite numbers, not {_show(value)}")
        return float(value)


def read_sections(path: Path) -> Section:
    """The top level of the manifest at `path`.

    Raises:
        ManifestError: The file cannot be read, is no YAML mapping, or uses aliases or duplicate keys.
    """
    if not path.is_file():
        raise ManifestError(path, None, "is no plain file; put a model.yaml there")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ManifestError(path, None, f"cannot be read ({error.strerror}); put a model.yaml there") from None
    except UnicodeDecodeError:
        raise ManifestError(path, None, "is not UTF-8 text; save it as UTF-8") from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestError(path, None, f"is larger than {MAX_MANIFEST_BYTES} bytes; a manifest names the model file")
    try:
        loader = _StrictLoader(text)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                raise ManifestError(path, 1, "is no mapping; write `schema: 1` and the other keys of a manifest")
            return Section(path, "", 1, _plain_mapping(path, loader, root), provenance={})
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it holds a character that YAML does not allow"
        line = None if mark is None else mark.line + 1
        raise ManifestError(path, line, f"is no valid YAML: {problem}; mend that line") from None


def _plain_mapping(path: Path, loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, tuple[int, Any]]:
    entries: dict[str, tuple[int, Any]] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag != _TEXT:
            raise ManifestError(path, line, f"{key_node.value!r} is no key; keys are plain words (quote it)")
        key = str(key_node.value)
        if key in entries:
            raise ManifestError(path, line, f"{key} stands twice (first in line {entries[key][0]}); keep one")
        entries[key] = (line, _plain(path, loader, value_node))
    return entries


def _plain(path: Path, loader: _StrictLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(path, loader, node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, loader, entry) for entry in node.value]
    if node.tag != _TEXT and len(node.value) > _MAX_WORD:
        shown = _show(node.value)
        raise ManifestError(path, node.start_mark.line + 1, f"{shown} is too long for a number; quote it if it is text")
    try:
        return loader.construct_object(node)
    except (ValueError, OverflowError):
        # PyYAML's own constructors for ints, floats and dates let Python's errors through.
        raise ManifestError(path, node.start_mark.line + 1, f"{_show(node.value)} cannot be read; quote it") from None


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _quote_hint(kind: type, value: Any) -> str:
    return " (put it in quotes)" if kind is str and isinstance(value, int | float) else ""

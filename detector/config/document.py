"""YAML text to plain values that remember their lines.

Read from PyYAML's event stream, so that nothing is built before it is known to be harmless: no anchors or aliases (and
so no bombs), no tags, one document, bounded depth and size. Plain scalars follow the core schema of YAML 1.2: only
`true` and `false` are booleans, so that the words `off`, `on`, `yes` and `no` stay words, and `1:30` is no number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from detector.config.crosscheck import Location
from detector.config.wording import shown

MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 16
_MAX_NODES = 20_000

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
# Longer numbers stay text and are refused as such: Python reads no thousands of digits, and says so by an exception.
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{0,18})?)(?:[eE][-+]?[0-9]{1,3})?")


class DocumentError(ValueError):
    """The text cannot be read as one harmless YAML document. Raised by `read_document` alone."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class Document:
    """A file's values, the line of each key, and the keys that stand twice (the first counts)."""

    values: dict[str, object] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    repeated: list[tuple[Location, int]] = field(default_factory=list)

    def line_of(self, location: Location) -> int:
        """The line of a key, or of the nearest key above it; 1 where there is none."""
        while location:
            if location in self.lines:
                return self.lines[location]
            location = location[:-1]
        return 1


def read_document(content: bytes) -> Document:
    """Read a file's bytes. Raises DocumentError with the line and a sentence."""
    if len(content) > MAX_BYTES:
        raise DocumentError(1, "the file is larger than 1 MiB; is it a config?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(line, "the file is not UTF-8 text; save it as UTF-8") from None
    if "\t" in text:
        line = text.count("\n", 0, text.index("\t")) + 1
        raise DocumentError(line, "a tab stands here; write spaces, YAML takes no tabs for indentation")
    try:
        return _Builder(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "something is out of place"
        raise DocumentError(mark.line + 1 if mark else 1, f"this is no YAML ({what}); correct the line") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, "a character stands here that YAML does not allow; remove it") from None
    except (OverflowError, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        # PyYAML's own escapes: "\UFFFFFFFF" and overlong version numbers end in Python's errors, without a line.
        raise DocumentError(1, "an escape or a number in the file is out of range; write it otherwise") from None


class _Builder:
    """Builds the values from parser events."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._result = Document()
        self._nodes = 0

    def document(self) -> Document:
        """Read all events. Raises DocumentError, and whatever PyYAML raises."""
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return self._result
        event = next(self._events)
        values = self._node(event, (), 0)
        next(self._events)  # the end of the document
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise DocumentError(_line(following), "a second document starts here; a config is one document, remove ---")
        if values is not None and not isinstance(values, dict):
            raise DocumentError(
                _line(event), f"the file holds {shown(values)}; write keys and values, such as log: {{}}"
            )
        self._result.values = values or {}
        return self._result

    def _node(self, event: yaml.Event, location: Location, depth: int) -> object:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise DocumentError(_line(event), "the file is too deep or too long for a config; make it smaller")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise DocumentError(
                _line(event), "anchors (&) and aliases (*) are not used here; quote the text or repeat it"
            )
        if getattr(event, "tag", None) is not None:
            raise DocumentError(_line(event), "tags (!) are not used here; quote the text or leave the tag out")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(location, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(location, depth)
        assert isinstance(event, yaml.ScalarEvent)
        return _scalar(event)

    def _mapping(self, location: Location, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._node(event, location, depth + 1) if isinstance(event, yaml.AliasEvent) else None
            if not isinstance(event, yaml.ScalarEvent):
                raise DocumentError(
                    _line(event), "a list or a group stands where a key belongs; write a name and a colon"
                )
            _scalar(event)
            key = event.value
            inner = (*location, key)
            is_repeated = key in values
            if not is_repeated:
                self._result.lines[inner] = _line(event)
            else:
                self._result.repeated.append((inner, _line(event)))
            # A repeated key's value is read past, under a place of its own, so that the first keeps its lines.
            value = self._node(next(self._events), (*inner, -1) if is_repeated else inner, depth + 1)
            values.setdefault(key, value)
        return values

    def _sequence(self, location: Location, depth: int) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            inner = (*location, len(values))
            self._result.lines[inner] = _line(event)
            values.append(self._node(event, inner, depth + 1))
        return values


def _line(event: yaml.Event) -> int:
    return (event.start_mark.line if event.start_mark else 0) + 1


def _scalar(event: yaml.ScalarEvent) -> object:
    """The value of a scalar by YAML 1.2's core schema; quoted ones are text."""
    text = event.value
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DocumentError(_line(event), "half of a surrogate pair stands here; write the character itself")
    if event.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text

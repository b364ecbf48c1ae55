"""Records of lists in JSON, one by one: a long file is never held as a whole, and a broken record costs itself.

A file may be one page (`{..., "results": [...]}`), a list, or either of them line after line. After something that is
no JSON the next record that is whole is looked for; how long is bounded, so that a hostile file costs no more than a
long one.
"""

import codecs
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from models.lists.contents import DEFAULT_SIGNAL, ListContents, ListPage, PageUnreadable
from models.lists.gathering import BadRow, FileList, Gathering

LONGEST_RECORD: Final = 1 << 16
"""Characters of a record. A longer one is bad."""

MOST_PAGE_BYTES: Final = 64 << 20

_CHUNK: Final = 1 << 16
_LOOK_COSTS: Final = 128
_TOO_DEEP_COSTS: Final = 1 << 16
_FREE_LOOKING: Final = 4 << 20
_LOOKING_SHARE: Final = 8
"""Looking for the next whole record may read each character so often again, and `_FREE_LOOKING` in any case."""

_MOST_FACTS: Final = 64
_LONGEST_FACT: Final = 1 << 14
_DEEPEST_FACT: Final = 3

_GAP: Final = re.compile(r"[\s,]*")
_GAP_OUTSIDE: Final = re.compile(r"[\s,\]}]*")
_SPACE: Final = re.compile(r"\s*")

Facts = dict[str, str | int | float | bool | None]


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_refused, parse_float=_finite)


def page_of(body: bytes, list_key: str) -> tuple[list[Any], Facts]:
    """The records of one whole page and the single values beside them; those of inner objects have dotted names.

    Raises:
        PageUnreadable: It is no page.
    """
    if len(body) > MOST_PAGE_BYTES:
        raise PageUnreadable(f"the reply is longer than {MOST_PAGE_BYTES} bytes")
    try:
        raw = _DECODER.decode(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise PageUnreadable("the reply is no JSON, or nested without end") from None
    if not isinstance(raw, dict) or not isinstance(raw.get(list_key), list):
        raise PageUnreadable(f"the reply has no list of {list_key!r}")
    facts: Facts = {}
    _note(facts, "", {key: value for key, value in raw.items() if key != list_key})
    return raw[list_key], facts


def _note(facts: Facts, prefix: str, raw: dict[str, Any], depth: int = 1) -> None:
    for key, value in raw.items():
        name = prefix + key
        if len(facts) >= _MOST_FACTS or len(name) > _LONGEST_FACT:
            return
        if isinstance(value, dict) and depth < _DEEPEST_FACT:
            _note(facts, f"{name}.", value, depth + 1)
        elif isinstance(value, str | int | float | None) and not (
            isinstance(value, str) and len(value) > _LONGEST_FACT
        ):
            facts[name] = value


class JsonList(FileList):
    """A list format whose pages are JSON objects with a list of records under `list_key`."""

    list_key: ClassVar[str]

    @abstractmethod
    def is_record(self, raw: dict[str, Any]) -> bool:
        """Tell a record from what else may stand in a damaged file."""

    @abstractmethod
    def take(self, raw: dict[str, Any], line: int, gathering: Gathering) -> None:
        """Take one record. Raises `BadRow`."""

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a file of pages or records; every record says its type, so `signal` is not needed."""
        del signal
        return self._gathered(JsonRecords(file, self.list_key, self.is_record), Gathering(path, self.most_rows))

    def parse(self, body: bytes) -> ListPage:
        """Read one page; its facts are what it says beside its records.

        Raises:
            PageUnreadable: The body is none.
        """
        records, facts = page_of(body, self.list_key)
        return ListPage(self._gathered(((1, record) for record in records), Gathering(None, self.most_rows)), facts)

    def _gathered(self, records: Iterable[tuple[int, Any]], gathering: Gathering) -> ListContents:
        for number, (line, record) in enumerate(records, 1):
            try:
                if isinstance(record, BadRow):
                    raise record
                if not isinstance(record, dict):
                    raise BadRow("it is no object")
                self.take(record, line, gathering)
            except BadRow as error:
                gathering.bad(line, f"record {number}: {error}")
        return gathering.contents(is_whole=True)


class JsonWriter:
    """Writes a page, a record a line."""

    def __init__(self, file: BinaryIO, list_key: str) -> None:
        self._file = file
        self._count = 0
        file.write(b'{"%s": [' % list_key.encode())

    def put(self, record: dict[str, Any]) -> None:
        """Write a record."""
        self._file.write((b",\n" if self._count else b"\n") + json.dumps(record).encode())
        self._count += 1

    def close(self, tail: dict[str, Any]) -> None:
        """Write the end, with what a page says beside its records."""
        rest = json.dumps(tail).encode()[1:] if tail else b"}"
        self._file.write(b"\n]" + (b", " if tail else b"") + rest + b"\n")


class JsonRecords:
    """The records of a file. `is_record` tells them from what else a list may hold; `list_key` names a page's list."""

    def __init__(self, file: BinaryIO, list_key: str, is_record: Callable[[dict[str, Any]], bool]) -> None:
        self._file = file
        self._list_key = list_key
        self._is_record = is_record
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._text = ""
        self._place = 0
        self._counted = 0
        self._line = 1
        self._is_end = False
        self._is_inside = False
        self._is_page = False
        self._may_look = _FREE_LOOKING

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Pairs of a line and a record; in place of a broken one stands a `BadRow` with the reason."""
        while self._reach():
            character = self._text[self._place]
            line = self._line_here()
            if character == "{":
                yield from self._object(line)
            elif character == "[" and not self._is_inside:
                self._place += 1
                self._is_inside = True
            elif character == "]" and self._is_inside:
                self._place += 1
                self._leave()
            else:
                yield line, BadRow("it is no JSON object")
                yield from self._next_whole()
        if self._is_inside:
            yield self._line_here(), BadRow("the file ends before its list does")

    def _object(self, line: int) -> Iterator[tuple[int, Any]]:
        found, end, why = self._whole_at(self._place)
        if found is None:
            if not self._is_inside and self._enter():
                return
            yield line, BadRow(why)
            yield from self._next_whole()
            return
        self._place = end
        listed = found.get(self._list_key)
        if not self._is_inside and isinstance(listed, list):
            for record in listed:
                yield line, record
        else:
            yield line, found

    def _whole_at(self, place: int) -> tuple[dict[str, Any] | None, int, str]:
        """The object that begins at a place and where it ends, or None, how far it was looked at, and why."""
        try:
            found, end = _DECODER.raw_decode(self._text, place)
        except json.JSONDecodeError as error:
            is_cut = error.pos >= len(self._text) - 1 or error.pos - place > LONGEST_RECORD
            why = "the record is cut short or too long" if is_cut else f"it is no JSON: {error.msg}"
            looked_at = len(self._text) if error.msg.startswith("Unterminated") else max(error.pos, place + 1)
            return None, looked_at, why
        except RecursionError:
            return None, place + _TOO_DEEP_COSTS, "the record is nested too deep"
        except ValueError as error:
            return None, place + LONGEST_RECORD, str(error)[:80]
        return (found, end, "") if isinstance(found, dict) else (None, end, "it is no JSON object")

    def _next_whole(self) -> Iterator[tuple[int, Any]]:
        """Move to the next record that is whole, or to the end."""
        self._place += 1
        while True:
            place = self._text.find("{", self._place)
            if place < 0:
                self._place = len(self._text)
                if not self._fill():
                    return
                continue
            self._place = place
            self._fill()
            found, end, _ = self._whole_at(self._place)
            if found is not None and (self._is_record(found) or isinstance(found.get(self._list_key), list)):
                return
            self._may_look -= end - self._place + _LOOK_COSTS
            if self._may_look < 0:
                yield self._line_here(), BadRow("from here on it is too damaged to be read")
                self._give_up()
                return
            self._place = end if found is not None else self._place + 1

    def _enter(self) -> bool:
        """Step into the list of a page that is longer than what is held of the file."""
        return self._members(self._place + 1, until_list=True)

    def _leave(self) -> None:
        self._is_inside = False
        if self._is_page:
            self._is_page = False
            self._fill()
            self._members(self._place, until_list=False)

    def _members(self, place: int, *, until_list: bool) -> bool:
        """Pass over the members of a page's object, up to its list or its end; tell whether that was reached."""
        try:
            while True:
                place = _GAP.match(self._text, place).end()  # type: ignore[union-attr]
                if self._text[place : place + 1] == "}":
                    self._place = place + 1
                    return not until_list
                key, place = _DECODER.raw_decode(self._text, place)
                place = _SPACE.match(self._text, place).end()  # type: ignore[union-attr]
                if not isinstance(key, str) or self._text[place : place + 1] != ":":
                    return False
                place = _SPACE.match(self._text, place + 1).end()  # type: ignore[union-attr]
                if until_list and key == self._list_key and self._text[place : place + 1] == "[":
                    self._place = place + 1
                    self._is_inside = self._is_page = True
                    return True
                _, place = _DECODER.raw_decode(self._text, place)
        except (ValueError, RecursionError):
            return False

    def _reach(self) -> bool:
        """Move to where something stands; False at the end."""
        gap = _GAP if self._is_inside else _GAP_OUTSIDE
        while True:
            self._fill()
            self._place = gap.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text):
                self._fill()
                return True
            if self._is_end:
                return False

    def _fill(self) -> bool:
        """Hold enough of the file for a record; False where there is no more of it."""
        while not self._is_end and len(self._text) - self._place < LONGEST_RECORD:
            self._line_here()
            content = self._file.read(_CHUNK)
            self._is_end = not content
            self._may_look += _LOOKING_SHARE * len(content)
            self._text = self._text[self._place :] + self._decode(content, self._is_end)
            self._place = self._counted = 0
        return self._place < len(self._text)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._place)
        self._counted = max(self._counted, self._place)
        return self._line

    def _give_up(self) -> None:
        while self._file.read(_CHUNK):
            pass
        self._text, self._place, self._counted, self._is_end, self._is_inside = "", 0, 0, True, False

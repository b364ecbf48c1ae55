"""Records of lists in XML, one after the other: a long file is never held as a whole, and a broken record costs itself.

The parser is expat. A document type is refused, so that there are no entities but XML's own five, and nothing is
fetched; depth, texts, tags and records are bounded. After something that is no XML, reading goes on at the next record;
how often a byte is looked at again is bounded, so that a hostile file costs no more than a long one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from models.lists.gathering import BadRow

DEEPEST: Final = 32
LONGEST_TEXT: Final = 1 << 14
"""Characters of an element's text; a record with more in one is bad."""

MOST_PARTS: Final = 4096
"""Elements of a record; one with more is bad."""

_LONGEST_RECORD: Final = 1 << 20
"""Bytes of a record, or of a tag or comment between records; expat holds a tag as a whole."""

_CHUNK: Final = 1 << 16
_FREE_LOOKING: Final = 4 << 20
_LOOKING_SHARE: Final = 8
_ENCODINGS: Final = ("UTF-8", "ISO-8859-1", "US-ASCII")
"""In which tags can be found again after a fault; expat knows more, and reads on in UTF-8 then."""

_LOOK_COSTS: Final = 256
_LONGEST_START: Final = 256
"""Bytes of the beginning of a tag by which the next record is found."""


class TypeRefused(ValueError):
    """Raised for a document that declares its type. Nothing of it is given out."""


class _Broken(Exception):
    """Raised within the parser's calls where something is beyond its bounds; its text is the reason."""


@dataclass(slots=True)
class Part:
    """An element: its name without prefix, its attributes, how deep it stands in its record, its text."""

    name: str
    attributes: dict[str, str]
    depth: int
    text: str = ""


@dataclass(slots=True)
class XmlRecord:
    """A record: the name of its element, the line it begins in, and all elements within it, in order."""

    name: str
    line: int
    parts: list[Part] = field(default_factory=list)


class XmlRecords:
    """The records of a file: elements with one of some `names`; `containers` are those that they stand in.

    Once it is read, `around` has the other elements, with their depth below the root, and `root` its name as
    (namespace, name).
    """

    def __init__(self, file: BinaryIO, names: Sequence[str], containers: Sequence[str]) -> None:
        self.around: list[Part] = []
        self.root = ("", "")
        self._file = file
        self._names = frozenset(names)
        self._record_start = _start_of(names)
        self._container_start = _start_of(containers)
        self._held = b""
        self._from = 0
        self._lines = 0
        self._may_look = _FREE_LOOKING

    def __iter__(self) -> Iterator[tuple[int, XmlRecord | BadRow]]:
        """Pairs of a line and a record; in place of a broken one stands a `BadRow` with the reason.

        Raises:
            TypeRefused: The document declares its type.
        """
        run = _Run(self, self._names)
        content = self._read()
        while True:
            try:
                run.feed(content)
            except (expat.ExpatError, _Broken, ValueError, LookupError) as error:
                if isinstance(error, TypeRefused):
                    raise
                yield from run.given()
                yield run.fault_line(), BadRow(_reason(error, is_in_record=run.record is not None))
                after = self._after(run)
                if after is None:
                    if self._may_look < 0:
                        yield run.fault_line(), BadRow("from here on it is too damaged to be read")
                    return
                run, content = after, self._held
                continue
            yield from run.given()
            if not content:
                return
            self._forget(run.begin())
            if len(self._held) > _LONGEST_RECORD:
                run.is_too_long = True  # the next byte breaks it
            content = self._read()

    def _read(self) -> bytes:
        content = self._file.read(_CHUNK)
        self._held += content
        self._may_look += _LOOKING_SHARE * len(content)
        return content

    def _forget(self, place: int) -> None:
        """Hold no byte before a place of the file."""
        count = min(max(place - self._from, 0), len(self._held))
        self._lines += self._held.count(b"\n", 0, count)
        self._held = self._held[count:]
        self._from += count

    def _after(self, run: "_Run") -> "_Run | None":
        """A parser that stands before the next record after a broken place; None at the end."""
        self._may_look -= max(run.fault_place() - run.begin(), 0) + _LOOK_COSTS
        self._forget(max(run.begin(), run.first_place) + 1)
        stack = run.outside
        while self._may_look >= 0:
            found = self._record_start.search(self._held)
            skipped = self._held[: found.start()] if found is not None else self._held
            containers = list(self._container_start.finditer(skipped))
            if containers and stack:
                stack = [*stack[: max(len(stack) - 1, 1)], containers[-1][1].decode("ascii", "replace")]
            if found is not None:
                self._forget(self._from + found.start())
                return _Run(self, self._names, run, stack, self._from, self._lines)
            self._forget(self._from + max(len(self._held) - _LONGEST_START, 0))
            if not self._read():
                return None
        while self._file.read(_CHUNK):
            pass
        return None


def _start_of(names: Sequence[str]) -> re.Pattern[bytes]:
    words = "|".join(sorted(names)).encode()
    return re.compile(rb"<((?:[A-Za-z_][\w.-]{0,64}:)?(?:" + words + rb"))[\s>/]")


def _reason(error: Exception, *, is_in_record: bool) -> str:
    what = expat.errors.messages.get(error.code, "no XML") if isinstance(error, expat.ExpatError) else str(error)[:80]
    return f"{'the record is broken' if is_in_record else 'between records'}: {what}"


class _Run:
    # One pass of a parser, from the file's beginning or from a record's.
    def __init__(
        self,
        records: XmlRecords,
        names: frozenset[str],
        before: "_Run | None" = None,
        stack: Sequence[str] = (),
        place: int = 0,
        lines: int = 0,
    ) -> None:
        self.record: XmlRecord | None = None
        self.outside: list[str] = []
        self.first_place = place if before is not None else -1
        self.is_too_long = False
        self.encoding: str | None = before.encoding if before is not None else None
        self.prefixes: dict[str, str] = dict(before.prefixes) if before is not None else {}
        self._records = records
        self._names = names
        self._record_at = 0
        self._ready: list[XmlRecord] = []
        self._open: list[Part] = []
        self._lines = lines
        self._fault = -1
        self._is_preamble = before is not None
        self._parser = self._made()
        preamble = self._preamble(stack) if before is not None else b""
        self._base = place - len(preamble)
        if preamble:
            self._parser.Parse(preamble, False)
        self._is_preamble = False

    def _made(self) -> expat.XMLParserType:
        parser = expat.ParserCreate(encoding=self.encoding, namespace_separator=" ")
        parser.namespace_prefixes = True
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declared
        parser.StartDoctypeDeclHandler = self._typed
        parser.EntityDeclHandler = self._typed
        parser.StartNamespaceDeclHandler = self._prefixed
        parser.StartElementHandler = self._started
        parser.EndElementHandler = self._ended
        parser.CharacterDataHandler = self._said
        return parser

    def _preamble(self, stack: Sequence[str]) -> bytes:
        spaces = "".join(
            f" xmlns{':' if prefix else ''}{prefix}={quoteattr(uri)}" for prefix, uri in self.prefixes.items()
        )
        tags = [f"<{name}{spaces if not number else ''}>" for number, name in enumerate(stack or ["list"])]
        return "".join(tags).encode("ascii", "xmlcharrefreplace")

    def feed(self, content: bytes) -> None:
        """Parse what comes next; nothing: it was all."""
        if self.is_too_long:
            self._fault = self.begin()
            raise _Broken("a record or a tag is too long")
        try:
            self._parser.Parse(content, not content)
        except expat.ExpatError:
            self._fault = self._base + self._parser.ErrorByteIndex
            raise
        except (_Broken, ValueError, LookupError):  # an encoding that Python does not have
            self._fault = self._base + self._parser.CurrentByteIndex
            raise

    def given(self) -> Iterator[tuple[int, XmlRecord]]:
        """The records that were finished since this was last asked."""
        ready, self._ready = self._ready, []
        for record in ready:
            yield record.line, record

    def begin(self) -> int:
        """The place of the file from which on bytes may be needed again: where the open record begins."""
        return self._record_at if self.record is not None else self._base + self._parser.CurrentByteIndex

    def fault_place(self) -> int:
        """Where it broke."""
        return max(self._fault, self.begin())

    def fault_line(self) -> int:
        """The line of what is broken: that in which the record begins, if one is open."""
        return self.record.line if self.record is not None else self._lines + self._parser.CurrentLineNumber

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self.encoding = encoding if encoding is not None and encoding.upper() in _ENCODINGS else None

    def _typed(self, *_: object) -> None:
        raise TypeRefused("the document declares a type, which no list does; nothing of it was read")

    def _prefixed(self, prefix: str | None, uri: str | None) -> None:
        if self.record is None and len(self.prefixes) < DEEPEST:
            self.prefixes[prefix or ""] = uri or ""

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        space, local, prefix = (*([""] if " " not in name else []), *name.split(" "), "", "")[:3]
        record = self.record
        if record is None and local not in self._names:
            self._enter(space, local, prefix, attributes)
        elif record is None:
            self.record = XmlRecord(local, self._lines + self._parser.CurrentLineNumber)
            self._record_at = self._base + self._parser.CurrentByteIndex
        elif local in self._names:
            raise _Broken("a record stands within a record")
        else:
            if len(self._open) >= DEEPEST or len(record.parts) >= MOST_PARTS:
                raise _Broken("the record is nested too deep or has too many parts")
            part = Part(local, attributes, len(self._open) + 1)
            self._open.append(part)
            record.parts.append(part)

    def _enter(self, space: str, local: str, prefix: str, attributes: dict[str, str]) -> None:
        self.outside.append(f"{prefix}:{local}" if prefix else local)
        if self._is_preamble:
            return
        around = self._records.around
        if len(self.outside) > DEEPEST or len(around) >= MOST_PARTS:
            raise _Broken("it is nested too deep or has too many parts")
        if len(self.outside) == 1:
            self._records.root = (space, local)
        around.append(Part(local, attributes, len(self.outside) - 1))

    def _ended(self, _name: str) -> None:
        if self._open:
            self._open.pop()
        elif self.record is not None:
            self._ready.append(self.record)
            self.record = None
        else:
            self.outside.pop()

    def _said(self, text: str) -> None:
        around = self._records.around
        part = self._open[-1] if self._open else around[-1] if self.record is None and around else None
        if part is None or (text.isspace() and ("\n" in text or not self._open)):
            return
        if len(part.text) + len(text) > LONGEST_TEXT:
            raise _Broken("a text is too long")
        part.text += text

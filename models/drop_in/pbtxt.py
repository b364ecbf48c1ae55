"""Protocol-buffer text (protobuf.dev, "Text Format Language"), as far as Triton's config.pbtxt uses it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from models.manifest_yaml import ManifestError

MAX_TOKENS: Final = 200_000
MAX_DEPTH: Final = 16

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<word>[-+]?[A-Za-z0-9_.][A-Za-z0-9_.+-]*)|(?P<mark>[{}<>\[\]:])"""
)

Message = dict[str, list[tuple[int, Any]]]
"""Each field's values in their order, every one with its line; a value is text, a message, or a bare word as text."""


def read_message(path: Path, text: str) -> Message:
    """The outermost message.

    Raises:
        ManifestError: The text is no message, or too large or deep; one sentence with the line.
    """
    return _Parser(path, text).message("", 0)


class _Parser:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._words = self._split(text)
        self._line = 1
        self._kind, self._word = "", ""
        self._next()

    def message(self, closing: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise self._fault("it is nested too deeply")
        fields: Message = {}
        while self._word != closing or (closing and self._kind != "mark"):
            if self._kind != "word":
                raise self._fault("a field's name is missing")
            name, line = self._word, self._line
            self._next()
            has_colon = self._is_mark(":")
            if has_colon:
                self._next()
            for value in self._values(depth, has_colon=has_colon):
                fields.setdefault(name, []).append((line, value))
        if closing:
            self._next()
        return fields

    def _values(self, depth: int, *, has_colon: bool) -> Iterator[Any]:
        if not self._is_mark("["):
            yield self._value(depth, has_colon=has_colon)
            return
        self._next()
        while not self._is_mark("]"):
            yield self._value(depth, has_colon=True)
        self._next()

    def _value(self, depth: int, *, has_colon: bool) -> Any:
        if self._is_mark("{") or self._is_mark("<"):
            closing = "}" if self._word == "{" else ">"
            self._next()
            return self.message(closing, depth + 1)
        if not has_colon or self._kind not in {"word", "text"}:
            raise self._fault("a value is missing")
        value = self._word if self._kind == "word" else self._word[1:-1]
        self._next()
        return value

    def _is_mark(self, mark: str) -> bool:
        return self._kind == "mark" and self._word == mark

    def _next(self) -> None:
        self._kind, self._word, self._line = next(self._words)

    def _split(self, text: str) -> Iterator[tuple[str, str, int]]:
        position, line = 0, 1
        for _ in range(MAX_TOKENS):
            if position == len(text):
                break
            found = _TOKEN.match(text, position)
            if found is None:
                self._line = line
                raise self._fault(f"{text[position]!a} does not belong here")
            if found.lastgroup != "skip":
                yield str(found.lastgroup), found.group(), line
            line += found.group().count("\n")
            position = found.end()
        else:
            raise ManifestError(self._path, line, f"holds more than {MAX_TOKENS} words; it describes one model")
        while True:
            yield "end", "", line

    def _fault(self, what: str) -> ManifestError:
        return ManifestError(self._path, self._line, f"is no valid protocol-buffer text: {what}; mend that line")

"""The secrets in force in this process, and texts without them: for the log, and for every sentence that is shown.

The first defence is that nobody puts a secret into a text. This is the second: whatever a library, an exception or a
server's answer quotes, a secret that is known here comes out as `***`, as it stands or percent-encoded or in base64.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

HIDDEN = "***"
SHORTEST_CHARACTERS = 6
"""A shorter secret is not looked for: it would be found in half of all words."""

_LOOKS_LIKE_A_KEY_CHARACTERS = 8
_WORD_CHARACTERS = 16
_GRAM = 4
_CREDENTIALS_CHARACTERS = 1000
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


class Secrets:
    """Values to hide, at most `limit`; the oldest gives way. A look-up costs by the text's length, not by their number.

    Of a text, pieces of 4 characters are looked up, at such distances that each value of at least `shortest`
    characters holds one. Values may be added from any thread.
    """

    def __init__(self, limit: int, shortest: int) -> None:
        self._limit = limit
        self._shortest = shortest
        self._stride = shortest - _GRAM + 1
        self._values: dict[str, None] = {}
        # For each piece of 4 characters: how far into a value it stands, and how long such values are.
        self._pieces: dict[str, dict[tuple[int, int], int]] = {}
        self._longest = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, values: Iterable[str]) -> None:
        """Hide these from now on; those under `shortest` are passed over."""
        for value in values:
            if len(value) < self._shortest:
                continue
            if value in self._values:
                self._values[value] = self._values.pop(value, None)  # the newest again
                continue
            self._values[value] = None
            self._longest = max(self._longest, len(value))
            for offset in range(self._stride):
                places = self._pieces.get(value[offset : offset + _GRAM], {})
                place = (offset, len(value))
                self._pieces[value[offset : offset + _GRAM]] = {**places, place: places.get(place, 0) + 1}
            while len(self._values) > self._limit:
                self._drop(next(iter(self._values)))

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._pieces.clear()
        self._longest = 0

    def spans(self, text: str, limit: int) -> list[tuple[int, int]]:
        """Where values begin and end in `text`, of those that begin before `limit`."""
        if not self._values:
            return []
        pieces, found = self._pieces, []
        last = min(len(text), limit + self._longest) - _GRAM + 1
        hits = [at for at in range(0, last, self._stride) if text[at : at + _GRAM] in pieces]
        for at in hits:
            for offset, length in pieces[text[at : at + _GRAM]]:
                begin, end = at - offset, at - offset + length
                if begin >= 0 and end <= len(text) and text[begin:end] in self._values:
                    found.append((begin, end))
        return found

    def _drop(self, value: str) -> None:
        del self._values[value]
        for offset in range(self._stride):
            piece, place = value[offset : offset + _GRAM], (offset, len(value))
            places = {k: n - (k == place) for k, n in self._pieces[piece].items()}
            places = {k: n for k, n in places.items() if n}
            if places:
                self._pieces[piece] = places
            else:
                del self._pieces[piece]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


_configured = Secrets(limit=8192, shortest=SHORTEST_CHARACTERS)
_live = Secrets(limit=65_536, shortest=_LOOKS_LIKE_A_KEY_CHARACTERS)
"""Keys of publishers; apart, so that whoever comes and goes under many names drives out no password."""


def forget_all() -> None:
    """Hide nothing any more; for tests, each of which begins with no secrets."""
    for known in (_configured, _live):
        known.clear()


def hide_secret(value: str) -> None:
    """From now on `value` is shown nowhere: not as it is, not percent-encoded, not within base64 as in Basic auth."""
    if len(value) >= SHORTEST_CHARACTERS:
        _configured.add({*_written(value), *_in_base64(value)})


def hide_url(url: str) -> None:
    """From now on what may be secret in a URL is shown nowhere: user and password, path, query, and their parts."""
    try:
        parts = urlsplit(url)
    except ValueError:
        hide_secret(url)
        return
    credentials = parts.netloc.rpartition("@")[0]
    for value in (url, credentials, *credentials.partition(":")[::2], parts.query):
        hide_secret(value)
        hide_secret(unquote(value))
    for _, value in parse_qsl(parts.query):
        hide_secret(value)
    hide_secret(parts.path)
    for part in parts.path.split("/"):
        for value in {part, part.partition(".")[0]}:
            if len(value) >= _LOOKS_LIKE_A_KEY_CHARACTERS:
                hide_secret(unquote(value))


def hide_stream_key(app: str, name: str) -> None:
    """From now on a live publisher's key is shown nowhere: the path, and the name unless it is a plain short word.

    A publisher chooses its name; one that calls itself `connection` must not take this word out of every sentence.
    """
    path = f"{app}/{name}" if app else name
    is_plain_word = len(name) < _WORD_CHARACTERS and name.isalpha() and name.islower()
    if len(name) >= _LOOKS_LIKE_A_KEY_CHARACTERS and not is_plain_word:
        _live.add(_written(name))
    elif app:
        _live.add(_written(path))


def without_secrets(text: str, limit: int | None = None) -> str:
    """`text` with `***` for every secret in force; with `limit`, at most what its first `limit` characters come to.

    What stands before the @ of a URL is hidden as well, whoever put it there.
    """
    end = len(text) if limit is None else min(limit, len(text))
    spans = _configured.spans(text, end) + _live.spans(text, end)
    if "://" in text:
        spans += [(m.start() + 3, m.end() - 1) for m in _CREDENTIALS.finditer(text[: end + _CREDENTIALS_CHARACTERS])]
    if not spans and end == len(text):
        return text
    shown, at = [], 0
    for begin, stop in _merged(spans):
        if begin >= end:
            break
        shown += [text[at:begin], HIDDEN]
        at = stop
    shown.append(text[at:end] if at < end else "")
    if end < len(text):
        shown.append(f"... ({len(text)} characters)")
    return "".join(shown)


def printable(text: str) -> str:
    """`text` on one line that moves no cursor: what is not printable is escaped, half characters and bidi marks too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _written(value: str) -> set[str]:
    """The ways in which a value is written into URLs and source texts."""
    encoded = value.encode("utf-8", "surrogatepass")
    ways = {value, ascii(value)[1:-1], quote(encoded, safe=""), quote(encoded), quote_plus(encoded)}
    return ways | {re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), way) for way in ways if "%" in way}


def _in_base64(value: str) -> Iterator[str]:
    """What is left of a value inside base64, wherever in the encoded text it begins: without the edges."""
    raw = value.encode("utf-8", "surrogatepass")
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        # Characters that also hold bits of a neighbour may be any.
        first = -(-before * 8 // 6)
        last = (before + len(raw)) * 8 // 6
        core = text[first:last]
        if len(core) >= _LOOKS_LIKE_A_KEY_CHARACTERS:
            yield core
            yield core.translate(str.maketrans("+/", "-_"))

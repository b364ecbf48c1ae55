"""The secrets in force in this process, and texts without them: for the log, and for every sentence that is shown.

The first defence is that nobody puts a secret into a text. This is the second: whatever a library, an exception or a
server's answer quotes, a secret that is known here comes out as `***`: as it stands, percent-encoded,
escaped as in JSON, XML or Python, or in base64.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

HIDDEN = "***"
SHORTEST_CHARACTERS = 6
"""A shorter secret is not looked for: it would be found in half of all words."""

_LOOKS_LIKE_A_KEY_CHARACTERS = 8
_WORD_CHARACTERS = 16
_COMPARISONS = 20_000
_CREDENTIALS_CHARACTERS = 1000
_LONGEST_CHARACTERS = 50_000
"""No secret is longer: 4096 characters, each of which is written with at most twelve."""
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


class Secrets:
    """Values to hide, at most `limit`; the oldest gives way. A look-up costs by the text's length, not by their number.

    Of a text, each piece of `shortest` characters is looked up among the beginnings of the values, of which none is
    shorter. Values may be added from any thread.
    """

    def __init__(self, limit: int, shortest: int) -> None:
        self._limit = limit
        self._shortest = shortest
        self._values: dict[str, None] = {}
        # For each beginning: how long such values are, and how many of each length there are.
        self._lengths: dict[str, dict[int, int]] = {}

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
            lengths = self._lengths.get(value[: self._shortest], {})
            self._lengths[value[: self._shortest]] = {**lengths, len(value): lengths.get(len(value), 0) + 1}
            while len(self._values) > self._limit:
                self._drop(next(iter(self._values)))

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._lengths.clear()

    def spans(self, text: str, limit: int) -> list[tuple[int, int]]:
        """Where values begin and end in `text`, of those that begin before `limit`.

        Who publishes under `aaaa`, `aaaaa` and so on makes texts of such letters dear: after `_COMPARISONS` the rest of
        the text counts as secret.
        """
        if not self._values:
            return []
        lengths, shortest, compared = self._lengths, self._shortest, 0
        found: list[tuple[int, int]] = []
        last = min(len(text) - shortest + 1, limit)
        for begin in [at for at in range(last) if text[at : at + shortest] in lengths]:
            candidates = lengths.get(text[begin : begin + shortest], {})
            compared += len(candidates)
            if compared > _COMPARISONS:
                return [*found, (begin, len(text))]
            for length in candidates:
                end = begin + length
                if end <= len(text) and text[begin:end] in self._values:
                    found.append((begin, end))
        return found

    def _drop(self, value: str) -> None:
        del self._values[value]
        begin = value[: self._shortest]
        lengths = {length: n - (length == len(value)) for length, n in self._lengths[begin].items()}
        lengths = {length: n for length, n in lengths.items() if n}
        if lengths:
            self._lengths[begin] = lengths
        else:
            del self._lengths[begin]


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
    """From now on what may be secret in a URL is shown nowhere: user and password, path, query, and their parts.

    A user, a part of the path and a value of the query that are a plain short word (`/live/`, `admin`, `profile=main`)
    are hidden within the URL's own texts alone: else `stream` would be missing in every other sentence.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        hide_secret(url)
        return
    credentials = parts.netloc.rpartition("@")[0]
    if not (credentials or parts.query or parts.fragment or parts.path.strip("/")):
        return  # a scheme and a host: hidden, they would be missing in every sentence that says who does not answer
    user, _, password = credentials.partition(":")
    pieces = [part for name in parts.path.split("/") for part in (name, name.partition(".")[0])]
    fields = parse_qsl(parts.query)
    wholes = [url, credentials, password, parts.query, *(f"{name}={value}" for name, value in fields)]
    words = [user, parts.path, parts.path.removeprefix("/"), *(value for _, value in fields)]
    words += [piece for piece in pieces if len(piece) >= _LOOKS_LIKE_A_KEY_CHARACTERS]
    for value in [*wholes, *(word for word in words if not _is_plain_word(word.strip("/")))]:
        hide_secret(value)
        hide_secret(unquote(value))


def hide_stream_key(app: str, name: str) -> None:
    """From now on a live publisher's key is shown nowhere: the path, and the name unless it is a plain short word.

    A publisher chooses its name; one that calls itself `connection` must not take this word out of every sentence.
    """
    path = f"{app}/{name}" if app else name
    if len(name) >= _LOOKS_LIKE_A_KEY_CHARACTERS and not _is_plain_word(name):
        _live.add(_written(name))
    elif app:
        _live.add(_written(path))


def _is_plain_word(text: str) -> bool:
    return len(text) < _WORD_CHARACTERS and text.isalpha() and text.islower()


def without_secrets(text: str, limit: int | None = None) -> str:
    """`text` with `***` for every secret in force; with `limit`, at most what its first `limit` characters come to.

    What stands before the @ of a URL is hidden as well, whoever put it there.
    """
    end = len(text) if limit is None else min(limit, len(text))
    spans = _secret_spans(text, end)
    if not spans and end == len(text):
        return text
    shown = _without(text, spans, 0, end)
    return shown + (f"... ({len(text)} characters)" if end < len(text) else "")


def end_without_secrets(text: str, limit: int) -> str:
    """The last `limit` characters of `text`, with `***` for every secret in force, that the cut goes through too.

    The cost is bounded, however long the text is.
    """
    text = text[-limit - _LONGEST_CHARACTERS :]  # a secret that this cuts open ends before what is shown
    return _without(text, _secret_spans(text, len(text)), max(0, len(text) - limit), len(text))


def _secret_spans(text: str, end: int) -> list[tuple[int, int]]:
    spans = _configured.spans(text, end) + _live.spans(text, end)
    if "://" in text:
        spans += [(m.start() + 3, m.end() - 1) for m in _CREDENTIALS.finditer(text[: end + _CREDENTIALS_CHARACTERS])]
    return _merged(spans)


def _without(text: str, spans: list[tuple[int, int]], start: int, end: int) -> str:
    shown, at = [], start
    for begin, stop in spans:
        if begin >= end:
            break
        if stop > at:
            shown += [text[at:begin], HIDDEN]
            at = stop
    shown.append(text[at:end] if at < end else "")
    return "".join(shown)


def printable(text: str) -> str:
    """`text` on one line that moves no cursor: what is not printable is escaped, half characters and bidi marks too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _written(value: str) -> set[str]:
    """The ways in which a value is written into URLs, source texts, JSON, XML and HTTP headers."""
    encoded = value.encode("utf-8", "surrogatepass")
    ways = {value, ascii(value)[1:-1], quote(encoded, safe=""), quote(encoded), quote_plus(encoded)}
    ways |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(encoded)[2:-1]}
    ways |= {escape(value), escape(value, quote=False), encoded.decode("latin-1")}
    return ways | {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), way) for way in ways if "%" in way}


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

"""Stream keys as HTTP paths, and back."""

import re
import unicodedata
from urllib.parse import quote, unquote_to_bytes

PART_LIMIT_CHARACTERS = 200
"""Longest `app` or `name`, after decoding."""

# Control characters and everything that ends a line or is half a character; all else may stand in a name.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class BadPath(ValueError):
    """A request path that names no stream, and what would. Never quotes the path: it holds a key."""


def parse_path(target: bytes) -> tuple[str, str]:
    """Split an HTTP request target into `(app, name)`, percent-decoded exactly once; a query is passed over.

    Raises `BadPath`.
    """
    path = target.split(b"?", 1)[0]
    parts = path.split(b"/")
    if len(parts) != 3 or parts[0]:
        raise BadPath("the path must be /APP/NAME")
    return _decode(parts[1]), _decode(parts[2])


def path_for(app: str, name: str) -> str:
    """The request path that `parse_path` turns back into `(app, name)`."""
    return f"/{quote(app, safe='')}/{quote(name, safe='')}"


def _decode(part: bytes) -> str:
    if _BROKEN_ESCAPE.search(part):
        raise BadPath("a % in the path must be followed by two hexadecimal digits")
    try:
        text = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise BadPath("the path must be UTF-8") from None
    if not 1 <= len(text) <= PART_LIMIT_CHARACTERS:
        raise BadPath(f"app and name must have 1 to {PART_LIMIT_CHARACTERS} characters each")
    if text in {".", ".."} or "/" in text or "\\" in text:
        raise BadPath("app and name must not be . or .. and must hold no slash")
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in text):
        raise BadPath("app and name must hold no control characters")
    return text

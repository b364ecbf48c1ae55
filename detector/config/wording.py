"""How faults speak: values shown safely, names listed, the nearest name found."""

import difflib
import json
from collections.abc import Iterable

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """What the operator wrote, on one line, escaped and shortened.

    Text that could carry credentials (a URL, anything with an `@`) is withheld, whatever key it stands under:
    a secret most often leaks from the place where it did not belong.
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a group of keys"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = str(value)
    if "://" in text or "@" in text:
        return "the given text"
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "..."
    return json.dumps(text) if isinstance(value, str) else text


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them: `a, b or c`."""
    words = list(names)
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None."""
    return next(iter(difflib.get_close_matches(name[:100], list(names), n=1, cutoff=0.6)), None)

"""Which licences no model may be under."""

import re

_AGPL = re.compile(r"agpl|affero", re.IGNORECASE)


def is_agpl(text: str) -> bool:
    """Whether a licence text or id is an Affero GPL, which no shipped or loaded model may be under."""
    return _AGPL.search(text) is not None

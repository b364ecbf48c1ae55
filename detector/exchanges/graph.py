"""What Meta's Graph API means by an error: with the status 400 it says all from a wrong path to a pause that it wants.

Codes as https://developers.facebook.com/docs/graph-api/guides/error-handling and
https://developers.facebook.com/docs/graph-api/overview/rate-limiting have them.
"""

import json
from enum import StrEnum, unique
from typing import Final

GRAPH_STATUSES: Final = (400, 403)
"""Of answers that hold such an error."""

ERROR_BYTES: Final = 16 << 10

_PASSING: Final = (1, 2, 4, 17, 32, 341, 368, 613)
_TOKEN: Final = (102, 190)


@unique
class GraphFault(StrEnum):
    """What can be done about an error, in a few words."""

    PASSING = "it asks for a pause"
    TOKEN = "its token is over or was taken back"  # noqa: S105 - words for people


def graph_fault(answer: bytes) -> GraphFault | None:
    """What an answer's error is about; None where it is neither of these, or no error of this kind."""
    try:
        raw = json.loads(answer)
        error = raw["error"]
        code = error["code"]
        is_passing = code in _PASSING or error.get("is_transient") is True
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if is_passing:
        return GraphFault.PASSING
    return GraphFault.TOKEN if code in _TOKEN else None

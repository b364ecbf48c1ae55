"""Feedback to Meta's ThreatExchange: a reaction to each descriptor of an indicator.

`reactions` is posted to a descriptor, as python-threatexchange does (facebook/ThreatExchange,
exchanges/clients/fb_threatexchange/api.py, `react_to_threat_descriptor`); an indicator is asked for them first
(https://developers.facebook.com/docs/threat-exchange/reference/apis/threat-indicator, connection `descriptors`).
"""

import json
import re
from typing import Final

from detector.exchanges.feedback import FeedbackImpossible, FeedbackRequest
from detector.store.feedback import FeedbackRow, Verdict

MOST_DESCRIPTORS: Final = 16

_NUMBER: Final = re.compile(r"[0-9]{1,32}", re.ASCII)
_REACTIONS: Final = {Verdict.CONFIRMED: "HELPFUL", Verdict.FALSE_MATCH: "DISAGREE_WITH_TAGS"}


class ThreatExchangeFeedback:
    """The shape."""

    def first(self, row: FeedbackRow, reason: str) -> FeedbackRequest:
        """As `FeedbackShape.first`."""
        del reason
        if not _NUMBER.fullmatch(row.entry):
            raise FeedbackImpossible("its name is no number, as those of ThreatExchange's indicators are")
        params = {"fields": "id", "limit": str(MOST_DESCRIPTORS)}
        return FeedbackRequest("GET", f"{row.entry}/descriptors", params=params)

    def then(self, row: FeedbackRow, answer: bytes) -> tuple[FeedbackRequest, ...]:
        """As `FeedbackShape.then`."""
        try:
            raw = json.loads(answer)
            numbers = [str(one["id"]) for one in raw["data"][:MOST_DESCRIPTORS]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise FeedbackImpossible("ThreatExchange's answer names no descriptors") from None
        if not numbers or not all(_NUMBER.fullmatch(one) for one in numbers):
            raise FeedbackImpossible("ThreatExchange has no descriptor of it any more")
        body = f"reactions={_REACTIONS[row.verdict]}".encode()
        return tuple(FeedbackRequest("POST", one, body, "application/x-www-form-urlencoded") for one in numbers)

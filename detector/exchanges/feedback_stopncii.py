"""Feedback to StopNCII: a hash led to what it stands for, or to something else.

As python-threatexchange sends it (facebook/ThreatExchange, exchanges/clients/stopncii/api.py, `submit_feedbacks`): POST
`SubmitFeedback`, values of `StopNCIICSPFeedbackValue`.
"""

import json
import re
from typing import Final

from detector.exchanges.feedback import FeedbackImpossible, FeedbackRequest
from detector.store.feedback import FeedbackRow, Verdict

_ENTRY: Final = re.compile(r"[A-Za-z0-9]{1,32}:([0-9a-f]{8,512})", re.ASCII)
_VALUES: Final = {Verdict.CONFIRMED: "Blocked", Verdict.FALSE_MATCH: "NotBlocked"}


class StopNciiFeedback:
    """The shape. An entry's name holds its hash, which is all that StopNCII knows it by."""

    def first(self, row: FeedbackRow, reason: str) -> FeedbackRequest:
        """As `FeedbackShape.first`."""
        del reason
        found = _ENTRY.fullmatch(row.entry)
        if found is None:
            raise FeedbackImpossible("its name holds no hash, as those of StopNCII's entries do")
        told: dict[str, object] = {"tags": [], "feedbackValue": _VALUES[row.verdict], "hashValue": found[1]}
        body = json.dumps({"count": 1, "hashFeedbacks": [told]}).encode()
        return FeedbackRequest("POST", "SubmitFeedback", body, "application/json")

    def then(self, row: FeedbackRow, answer: bytes) -> tuple[FeedbackRequest, ...]:
        """As `FeedbackShape.then`: nothing is asked before."""
        del row, answer
        return ()

"""Feedback to NCMEC's hash sharing, version 2: agreement, or disagreement with one of NCMEC's own reasons.

As python-threatexchange sends it (facebook/ThreatExchange, exchanges/clients/ncmec/hash_api.py, `submit_feedback` and
`feedback_reasons`): PUT `entries/<member>/<id>/PDQ/feedback`.
"""

import re
from typing import Final
from xml.sax.saxutils import escape

from detector.exchanges.feedback import FeedbackImpossible, FeedbackRequest
from detector.store.feedback import FeedbackRow, Verdict

_ENTRY: Final = re.compile(r"([0-9]{1,19})-([A-Za-z0-9._:-]{1,128})", re.ASCII)
_GUID: Final = re.compile(rb"<(?:[A-Za-z0-9]+:)?guid>\s*([A-Za-z0-9-]{1,64})\s*</", re.ASCII)
_NAMESPACE: Final = "https://hashsharing.ncmec.org/hashsharing/v2"
_TYPE: Final = "PDQ"


class NcmecFeedback:
    """The shape. A false match needs a reason: the config's, or the only one that NCMEC has for PDQ."""

    def first(self, row: FeedbackRow, reason: str) -> FeedbackRequest:
        """As `FeedbackShape.first`."""
        if row.verdict is Verdict.CONFIRMED:
            return _put(row, "<affirmative/>")
        if reason:
            return _put(row, _negative(reason))
        _entry(row)
        return FeedbackRequest("GET", f"v2/feedback/{_TYPE}/reasons")

    def then(self, row: FeedbackRow, answer: bytes) -> tuple[FeedbackRequest, ...]:
        """As `FeedbackShape.then`. The answer is searched, not parsed: of hostile XML nothing is unfolded."""
        reasons = sorted({one.decode() for one in _GUID.findall(answer)})
        if len(reasons) != 1:
            found = ", ".join(reasons[:8]) or "none"
            raise FeedbackImpossible(f"NCMEC wants one of its reasons ({found}); write it under feedback_reason")
        return (_put(row, _negative(reasons[0])),)


def _entry(row: FeedbackRow) -> tuple[str, str]:
    found = _ENTRY.fullmatch(row.entry)
    if found is None:
        raise FeedbackImpossible("its name is not MEMBER-ID, as those of NCMEC's entries are")
    return found[1], found[2]


def _negative(reason: str) -> str:
    return f"<negative><reasonIds><guid>{escape(reason)}</guid></reasonIds></negative>"


def _put(row: FeedbackRow, vote: str) -> FeedbackRequest:
    member, own = _entry(row)
    body = f'<feedbackSubmission xmlns="{_NAMESPACE}">{vote}</feedbackSubmission>'
    path = f"v2/entries/{member}/{own}/{_TYPE}/feedback"
    return FeedbackRequest("PUT", path, body.encode(), "application/xml; charset=utf-8")

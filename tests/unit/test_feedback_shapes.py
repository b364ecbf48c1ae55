"""What each exchange is told, byte for byte as python-threatexchange 1.2.17 tells it, and what is refused before."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.exchanges.feedback import FeedbackImpossible, FeedbackRequest
from detector.exchanges.feedback_ncmec import NcmecFeedback
from detector.exchanges.feedback_shapes import SHAPES
from detector.exchanges.feedback_stopncii import StopNciiFeedback
from detector.exchanges.feedback_threatexchange import MOST_DESCRIPTORS, ThreatExchangeFeedback
from detector.exchanges.kinds import ExchangeKind
from detector.store.feedback import FeedbackRow, Verdict

HASH = "0f" * 32
GUID = "01234567-abcd-4cde-9bcd-0123456789ab"
# The form of ET.tostring in `submit_upvote` and `submit_feedback` (exchanges/clients/ncmec/hash_api.py), in which an
# empty element has a blank before its slash; XML knows no difference.
NAMESPACE = 'xmlns="https://hashsharing.ncmec.org/hashsharing/v2"'


def _row(entry: str, verdict: Verdict = Verdict.CONFIRMED) -> FeedbackRow:
    return FeedbackRow("exchange", "BANK", entry, (HASH,), verdict, 1)


def test_ncmec_is_told_by_put() -> None:
    """Agreement at once, disagreement with a reason: the config's, or the only one."""
    shape, row, false = NcmecFeedback(), _row("42-a1b2"), _row("42-a1b2", Verdict.FALSE_MATCH)
    request = shape.first(row, "")
    assert (request.method, request.path) == ("PUT", "v2/entries/42/a1b2/PDQ/feedback")
    assert request.content_type == "application/xml; charset=utf-8"
    assert request.body.decode() == f"<feedbackSubmission {NAMESPACE}><affirmative/></feedbackSubmission>"
    negative = f"<negative><reasonIds><guid>{GUID}</guid></reasonIds></negative>"
    wanted = f"<feedbackSubmission {NAMESPACE}>{negative}</feedbackSubmission>"
    assert shape.first(false, GUID).body.decode() == wanted

    question = shape.first(false, "")
    assert question == FeedbackRequest("GET", "v2/feedback/PDQ/reasons")
    reason = f"<reason><guid>{GUID}</guid><name>No</name></reason>"
    one = f"<reasons {NAMESPACE}><availableFeedbackReasons>{reason}</availableFeedbackReasons></reasons>"
    assert [each.body.decode() for each in shape.then(false, one.encode())] == [wanted]
    with pytest.raises(FeedbackImpossible, match="feedback_reason"):
        shape.then(false, one.encode() + b"<guid>another</guid>")
    with pytest.raises(FeedbackImpossible, match=r"\(none\)"):
        shape.then(false, b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><x>&a;</x>")


def test_stopncii_is_told_by_its_own_words() -> None:
    """`count` and `hashFeedbacks` with the hash, as `submit_feedbacks` posts them."""
    for verdict, word in ((Verdict.CONFIRMED, "Blocked"), (Verdict.FALSE_MATCH, "NotBlocked")):
        request = StopNciiFeedback().first(_row(f"ImagePDQ:{HASH}", verdict), "")
        assert (request.method, request.path, request.content_type) == ("POST", "SubmitFeedback", "application/json")
        feedback = {"tags": [], "feedbackValue": word, "hashValue": HASH}
        assert json.loads(request.body) == {"count": 1, "hashFeedbacks": [feedback]}
        assert StopNciiFeedback().then(_row("x"), b"{}") == ()


def test_threatexchange_gets_a_reaction_to_each_descriptor() -> None:
    """Asked for by the indicator's number first; a bounded number of them, and numbers alone."""
    shape = ThreatExchangeFeedback()
    assert shape.first(_row("123"), "").shown("https://graph.example/") == (
        f"GET https://graph.example/123/descriptors?fields=id&limit={MOST_DESCRIPTORS}"
    )
    answer = json.dumps({"data": [{"id": str(number)} for number in range(40)]}).encode()
    for verdict, word in ((Verdict.CONFIRMED, "HELPFUL"), (Verdict.FALSE_MATCH, "DISAGREE_WITH_TAGS")):
        requests = shape.then(_row("123", verdict), answer)
        assert [one.path for one in requests] == [str(number) for number in range(MOST_DESCRIPTORS)]
        assert {one.body for one in requests} == {f"reactions={word}".encode()}
    for bad in (b"", b"[]", b'{"data": []}', b'{"data": [{"id": "1/2"}]}', b'{"data": [1]}', b"[" * 99_999):
        with pytest.raises(FeedbackImpossible):
            shape.then(_row("123"), bad)


@given(st.text(max_size=40), st.sampled_from(sorted(SHAPES)))
def test_no_entry_leads_elsewhere(entry: str, kind: ExchangeKind) -> None:
    """Whatever an entry is called, the request stays below the exchange's URL, or there is none."""
    try:
        path = SHAPES[kind].first(_row(entry), "").path
    except FeedbackImpossible as error:
        assert str(error).startswith("its name")  # noqa: PT017 - either is right
        return
    assert "//" not in path
    assert "?" not in path
    assert "#" not in path

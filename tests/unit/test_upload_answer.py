"""The answer about an upload: the strongest step decides, and nothing is called harmless that was not looked at."""

import json
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.api.upload import _status
from detector.events import Signal, Step
from detector.metric_words import UploadEnd
from detector.uploads.answer import MOST_DETECTIONS, UploadAnswer
from detector.uploads.desk import UploadParts, Uploads
from detector.uploads.file import Received

RECEIVED = Received(descriptor=-1, length_bytes=9, sha256="ab" * 32)
STEPS = st.sampled_from([Step.SHADOW, Step.REVIEW, Step.CUT])
ENDS = st.sampled_from(["end_of_stream", "deadline", "enough", "resolution", "reader_crashed", "no_reader"])


def _answer(steps: list[Step], code: str, *, analysed: int = 1, lost: int = 0, problems: int = 0) -> UploadAnswer:
    answer = UploadAnswer(RECEIVED, {"problems": ["a list is broken"] * problems}, is_live=True)
    for step in steps:
        answer.tell({"decision": step.word})
    fault = None if code in ("end_of_stream", "enough") else "could not be read: why"
    told = {"cpu_s": 0.5} | ({} if fault is None else {"error": {"code": code, "message": fault}})
    look: Any = SimpleNamespace(summary=lambda *_: told, frames_analysed=analysed, frames_not_analysed=lost)
    answer.end(code, fault, look)
    return answer


@given(st.lists(STEPS, max_size=5), ENDS, st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
def test_only_what_was_looked_at_as_a_whole_is_allowed(
    steps: list[Step], code: str, analysed: int, lost: int, problems: int
) -> None:
    """`allow` and `shadow` are said of nothing else; what is to be reviewed or cut is said however far it was seen."""
    answer = _answer(steps, code, analysed=analysed, lost=lost, problems=problems)
    is_whole = code == "end_of_stream" and not lost and not problems
    strongest = max(steps, default=Step.OFF)

    body = answer.body()
    assert body["complete"] is is_whole
    if strongest >= Step.REVIEW:
        assert body["decision"] == strongest.word
    elif is_whole:
        assert body["decision"] == ("shadow" if steps else "allow")
    else:
        assert body["decision"] == "unknown"
    json.dumps(body)


@pytest.mark.parametrize(
    ("code", "analysed", "status"),
    [
        ("end_of_stream", 3, HTTPStatus.OK),
        ("enough", 1, HTTPStatus.OK),
        ("deadline", 3, HTTPStatus.OK),
        ("decode_errors", 3, HTTPStatus.OK),
        ("resolution", 0, HTTPStatus.UNPROCESSABLE_ENTITY),
        ("reader_crashed", 0, HTTPStatus.UNPROCESSABLE_ENTITY),
        ("deadline", 0, HTTPStatus.SERVICE_UNAVAILABLE),
        ("no_reader", 0, HTTPStatus.SERVICE_UNAVAILABLE),
    ],
)
def test_the_status_says_whether_anything_was_looked_at(code: str, analysed: int, status: HTTPStatus) -> None:
    """200 where a frame was, 422 where the file's fault is that none was, 503 where it is ours; each says why."""
    answer = _answer([], code, analysed=analysed)

    assert _status(answer) is status
    assert ("error" in answer.body()) is (status is not HTTPStatus.OK)


def test_a_thousand_detections_are_told_and_the_others_counted() -> None:
    """An answer has an end; what it leaves out still decides."""
    answer = _answer([Step.SHADOW] * MOST_DETECTIONS + [Step.CUT] * 5, "end_of_stream")

    body = answer.body()
    assert len(body["detections"]) == MOST_DETECTIONS
    assert body["detections_left_out"] == 5
    assert answer.decision is UploadEnd.CUT
    assert answer.count == MOST_DETECTIONS + 5


def test_an_entry_in_quarantine_asks_for_reviews_alone(tmp_path: Path) -> None:
    """As on streams: one that matched too many may not stop files either; others do what they did."""
    nobody: Any = SimpleNamespace(workers=2)
    parts = UploadParts(
        nursery=nobody,
        pool=nobody,
        metrics=nobody,
        manifests=(),
        config=lambda: nobody,
        is_held=lambda source: source == "BANK/bad",
    )
    signals = {
        (entry, step): Signal("hash", "pdq", f"BANK/{entry}", step, 31, bank="BANK", entry=entry)
        for entry in ("bad", "good")
        for step in (Step.SHADOW, Step.CUT)
    }
    with Uploads(parts, tmp_path) as uploads:
        softened = {name: uploads._soften(signal).step for name, signal in signals.items()}

    assert softened == {name: min(name[1], Step.REVIEW) if name[0] == "bad" else name[1] for name in signals}

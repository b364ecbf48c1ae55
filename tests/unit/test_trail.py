"""What is remembered of one stream: distinct frames of its last hour, and the frames that hit, both bounded."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.trail import HITS_KEPT, REMEMBERED_SECONDS, ROWS_KEPT, Trail
from models.bank_store import INCIDENT_BANK
from models.evidence import HashMatch, Inspection, Opinion
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason

FRAME = Frame(0, 0.0, 0.0, None, SampleReason.KEYFRAME, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))
MATCH = HashMatch("CARDS", "card", "pdq", 256, 10, 31, "identity", 80, Opinion.POSITIVE, "gen-1")


def _hash(name: object) -> bytes:
    return Random(repr(name)).randbytes(32)


def _near(value: bytes, bits: int) -> bytes:
    flips = sum(1 << place for place in Random(bits).sample(range(256), bits))
    return (int.from_bytes(value) ^ flips).to_bytes(32)


def _seen(fingerprint: bytes, **more: object) -> Inspection:
    return replace(Inspection(80, True, False, fingerprint), **more)  # type: ignore[arg-type]


def _trail(standing: bool | None = None) -> Trail:  # noqa: FBT001 - what the bank says
    return Trail("stream", "session", 0.0, lambda _trail, _entry: standing)


def test_distinct_frames_are_remembered_with_both_hashes() -> None:
    """A frame that looks like the one before adds nothing; a second hash is kept where there is one."""
    trail = _trail()
    trail.saw(0.0, _seen(_hash("a"), second=bytes(range(64))))
    trail.saw(1.0, _seen(_near(_hash("a"), 24)))
    trail.saw(2.0, _seen(_hash("b")))
    shown = trail.shown(2.0)
    assert {row.tobytes() for row in shown.hashes} == {_hash("a"), _hash("b")}
    with_second = [row.tobytes() for row, has in zip(shown.hashes, shown.has_second, strict=True) if has]
    assert set(with_second) == {_hash("a")}
    assert shown.seconds[shown.has_second][0].tobytes() == bytes(range(64))


def test_empty_frames_are_not_remembered() -> None:
    """Black looks like black everywhere: it is nobody's picture."""
    trail = _trail()
    trail.saw(0.0, _seen(_hash("black"), is_low_information=True))
    trail.saw(1.0, _seen(b""))
    assert not len(trail.shown(1.0).hashes)


def test_an_hour_later_it_is_forgotten_but_not_what_is_still_shown() -> None:
    """Old frames count no more; a picture that stands for an hour does."""
    trail = _trail()
    trail.saw(0.0, _seen(_hash("old")))
    trail.saw(1.0, _seen(_hash("still")))
    trail.saw(REMEMBERED_SECONDS, _seen(_hash("still")))
    assert {row.tobytes() for row in trail.shown(REMEMBERED_SECONDS + 5).hashes} == {_hash("still")}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 60), min_size=1, max_size=600))
def test_memory_is_bounded_and_reaches_back(gaps: list[float]) -> None:
    """However much a stream moves, a bounded number of rows stands for its hour, the last frame always among them."""
    trail, at = _trail(), 0.0
    for number, gap in enumerate(gaps):
        at += gap
        trail.saw(at, _seen(_hash(number)))
    shown = {row.tobytes() for row in trail.shown(at).hashes}
    assert len(trail.shown(at).hashes) <= 2 * ROWS_KEPT
    assert _hash(len(gaps) - 1) in shown


def test_a_moving_hour_is_sampled_from_end_to_end() -> None:
    """An hour of ever new pictures leaves some from each tenth of it."""
    trail = _trail()
    for second in range(3600):
        trail.saw(float(second), _seen(_hash(second)))
    shown = {row.tobytes() for row in trail.shown(3599.0).hashes}
    assert all(any(_hash(second) in shown for second in range(360 * part, 360 * (part + 1))) for part in range(10))


def test_hits_are_distinct_few_and_fresh() -> None:
    """Frames alike are kept once, no more than a few at all, and none from long before."""
    trail = _trail()
    for number in range(20):
        trail.hit(float(number), FRAME, _hash(number // 2))
    assert len(trail.hits) == HITS_KEPT
    assert trail.hits[-1].fingerprint == int.from_bytes(_hash(9))
    trail.hit(500.0, FRAME, _hash("late"))
    assert [hit.at_seconds for hit in trail.hits] == [500.0]


@pytest.mark.parametrize(("standing", "opinions"), [(True, ["positive"]), (False, ["seed"]), (None, [])])
def test_the_incident_bank_does_what_its_entry_may(standing: bool | None, opinions: list[str]) -> None:  # noqa: FBT001
    """An entry that may not cut this stream asks for review at most; one that says nothing about it is no match."""
    found = _seen(_hash("a"), matches=(MATCH, replace(MATCH, bank=INCIDENT_BANK)))
    bounded = _trail(standing).bounded(found)
    assert [match.opinion.value for match in bounded.matches if match.bank == INCIDENT_BANK] == opinions
    assert MATCH in bounded.matches


def test_other_banks_are_left_alone() -> None:
    """Without a match of the incident bank nothing is made anew."""
    found = _seen(_hash("a"), matches=(MATCH,))
    assert _trail(None).bounded(found) is found


def test_rows_are_arrays_of_the_promised_shapes() -> None:
    """An empty trail gives arrays that fit in with all others."""
    shown = _trail().shown(0.0)
    assert (shown.hashes.shape, shown.seconds.shape, shown.has_second.shape) == ((0, 32), (0, 64), (0,))
    assert shown.hashes.dtype == np.uint8

"""Matching against a reference that is written down rule by rule."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.annotations import EntryNote
from models.banks import BankLimits, Beside, Negatives
from models.evidence import HashMatch, Opinion, Strength
from models.explaining import Reason, ViewVerdict
from models.hashing.second_tests import difference_hashes_of_views, structures_of_views
from models.hashing.view_batch import ViewBatch
from models.index import LINEAR_ROWS
from models.radii import Radii, chosen, radii_for
from tests.unit.made_up_banks import NOW, Row, bank_of, batch_of, near, second_near, weighed_share


def _bits(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.unpackbits(one ^ other).sum())


def _structure(batch: ViewBatch, view: int) -> float:
    return float(structures_of_views(batch.deviations[view : view + 1])[0])


def _asks(batch: ViewBatch, view: int, row: Row, radii: Radii) -> Strength | None:
    distance = _bits(batch.values[view], row.value)
    gate = bool(batch.passes_shape[view]) and batch.qualities[view] >= 50
    if distance > radii.vote or (not gate and distance > 40):
        return None
    if row.second is not None:
        value = _bits(difference_hashes_of_views(batch.deviations[view : view + 1])[0], row.second)
        limit = int(radii.second_bits * min(1.0, 0.2 + 2 * _structure(batch, view)) + 1e-6)
        is_sure, may_ask, may_vote, tested = value <= limit, value <= radii.second_bits, value <= 160, radii.second
        is_refuted = value > (radii.second_bits if batch.tiers[view] == 0 else limit)
    else:
        value, is_refuted = 0, False
        share = weighed_share(batch, view, row.value)
        is_sure, may_vote, tested = share <= 0.17, share <= 0.19, radii.share
        may_ask = is_sure
    may_act = bool(batch.is_stable[view]) and batch.qualities[view] >= 50
    may_act &= not (row.is_window and distance > 48 and value > 136)
    if row.second is None:
        reach = int(max(radii.plain, radii.share) * min(1.0, 0.3 + 3 * _structure(batch, view)) + 1e-6)
        may_act &= distance <= (max(reach, radii.plain) if batch.tiers[view] == 0 else reach)
    as_advised = not row.is_window and not is_refuted and distance <= radii.plain
    if may_act and ((is_sure and distance <= tested) or as_advised):
        return Strength.CUT
    if (may_ask and distance <= radii.review) or (not row.is_window and distance <= 31):
        return Strength.REVIEW
    return Strength.VOTE if may_vote or radii.votes_untested or distance <= 31 else None


def _reference(
    batch: ViewBatch, rows: Sequence[Row], negatives: Sequence[Row], notes: Mapping[str, EntryNote], radii: Radii
) -> dict[str, tuple[Strength, int]]:
    """The strongest and nearest match of each entry."""
    found: dict[str, tuple[Strength, int]] = {}
    acting = [row for row in rows if not notes.get(row.entry, EntryNote()).is_disabled(NOW)]
    back = [row for row in acting if row.opinion is Opinion.NEGATIVE]
    back += [row for row in negatives if row.opinion in (Opinion.POSITIVE, Opinion.SEED)]
    for view in range(len(batch)):
        if batch.qualities[view] < 50 and not batch.is_stable[view]:
            continue
        for row in acting:
            strength, distance = _asks(batch, view, row, radii), _bits(batch.values[view], row.value)
            is_taken_back = any(_bits(batch.values[view], other.value) <= distance for other in back)
            if strength is None or row.opinion is Opinion.NEGATIVE or is_taken_back:
                continue
            is_held = row.opinion is not Opinion.POSITIVE or notes.get(row.entry, EntryNote()).quarantined
            strength = Strength.REVIEW if is_held and strength is Strength.CUT else strength
            known = found.get(row.entry)
            if known is None or (-strength.rank, distance) < (-known[0].rank, known[1]):
                found[row.entry] = (strength, distance)
    return found


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[ViewBatch, list[Row], list[Row], dict[str, EntryNote]]:
    count = draw(st.integers(1, 4))
    batch = batch_of(count, draw(st.integers(0, 99)))
    gates = [draw(st.tuples(st.sampled_from([30, 49, 50, 90]), st.booleans(), st.booleans())) for _ in range(count)]
    batch = replace(
        batch,
        qualities=np.array([quality for quality, _, _ in gates], np.int16),
        is_stable=np.array([stable for _, stable, _ in gates]),
        passes_shape=np.array([shape for _, _, shape in gates]),
    )
    row = st.builds(
        lambda view, bits, heavy, second, entry, opinion, is_window: Row(
            near(batch, view % count, bits, heavy=heavy),
            f"entry-{entry}",
            opinion,
            None if second is None else second_near(batch, view % count, second),
            is_window and second is not None,
        ),
        st.integers(0, 3),
        st.one_of(st.integers(0, 76), st.sampled_from([0, 31, 32, 40, 41, 48, 56, 57, 64, 72, 73])),
        st.sampled_from([0, 0, 9, 11, 12, 13, 14, 15, 16, 18, 99]),
        st.one_of(st.none(), st.sampled_from([0, 136, 137, 160, 161, 182])),
        st.integers(0, 5),
        st.sampled_from([*[Opinion.POSITIVE] * 5, *Opinion]),
        st.booleans(),
    )
    rows = draw(st.lists(row, min_size=1, max_size=14))
    negatives = draw(st.lists(row, max_size=2))
    noted = draw(st.dictionaries(st.sampled_from(["entry-0", "entry-1"]), st.booleans()))
    notes = {
        entry: EntryNote(quarantined=True) if held else EntryNote(disabled_until_seconds=NOW + 1)
        for entry, held in noted.items()
    }
    return batch, rows, negatives, notes


@given(_scenes(), st.sampled_from([10, 3_000, 40_000, 400_000, 3_000_000, 9_000_000, 10**8]), st.data())
@settings(max_examples=150, deadline=None)
def test_matches_are_those_of_the_rules_taken_one_by_one(
    scene: tuple[ViewBatch, list[Row], list[Row], dict[str, EntryNote]], counted: int, data: st.DataObject
) -> None:
    """For any rows, views, gates, notes, negative entries and lengths of list: as comparing all with all gives."""
    batch, rows, negatives, notes = scene
    most = data.draw(st.sampled_from([None, None, 12, 31, 50]))
    limits = BankLimits({} if most is None else {"pdq": most})
    radii = radii_for(counted) if most is None else chosen(radii_for(counted), most)
    # A hash that an entry has twice is one row with the last opinion; the reference is not to judge the first.
    rows = list({(row.value.tobytes(), row.entry): row for row in rows if row.second is None}.values()) + list(
        {(row.value.tobytes(), row.entry): row for row in rows if row.second is not None}.values()
    )
    rows = list({(row.value.tobytes(), row.entry): row for row in rows}.values())
    bank = bank_of(rows, notes=notes)
    others = Negatives([bank_of(negatives, "HARMLESS")] if negatives else [], NOW)
    beside = Beside(counted, others)
    found = bank.match(batch, (), limits, now_seconds=NOW, beside=beside)
    expected = _reference(batch, rows, negatives, notes, radii)

    assert {match.entry: (match.strength, match.distance) for match in found.matches} == expected
    assert found.left_out == 0
    weights = [(-match.strength.rank, match.distance) for match in found.matches]
    assert weights == sorted(weights)
    for match in found.matches:
        assert match.distance <= match.max_distance <= radii.vote
    _agrees(bank.explain(batch, (), limits, now_seconds=NOW, beside=beside), found.matches)


def _agrees(verdicts: Sequence[ViewVerdict], matches: Sequence[HashMatch]) -> None:
    """Each view is explained, and the strongest explanation is the strongest match."""
    assert len(verdicts) == len({verdict.view for verdict in verdicts})
    asked = [verdict.strength.rank for verdict in verdicts if verdict.strength is not None]
    assert max(asked, default=-1) == max((match.strength.rank for match in matches), default=-1)
    assert all((verdict.reason is Reason.MATCH) == (verdict.strength is not None) for verdict in verdicts)


def test_an_indexed_list_answers_as_a_short_one() -> None:
    """Among many strangers the copies of every view are found, with the strengths that the rules give them."""
    batch = batch_of(4, 7)
    copies = [Row(near(batch, number % 4, number), f"entry-{number:02}") for number in range(49)]
    # Of the frame as it is rows within 31 bits are found whichever bits differ.
    copies.append(Row(near(batch, 0, 31, heavy=31), "heavy"))
    strangers = np.random.default_rng(9).integers(0, 256, (LINEAR_ROWS, 32), dtype=np.uint8)
    bank = bank_of([*copies, *(Row(value, "stranger") for value in strangers)])
    found = bank.match(batch, most=100, beside=Beside(1_000_000)).matches

    assert {match.entry: (match.strength, match.distance) for match in found} == _reference(
        batch, copies, [], {}, radii_for(1_000_000)
    )

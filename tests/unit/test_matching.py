"""What near rows of a bank may ask for: by distance, length of the list, gates, second tests and what is noted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.annotations import EntryNote
from models.bank_rows import BankRows
from models.banks import Bank, BankLimits, Beside, Negatives
from models.evidence import Opinion, SecondTest, Strength
from models.explaining import Reason
from models.hashing.algorithm import Fingerprint
from models.hashing.second_tests import structures_of_views
from models.hashing.spectrum import spectra_of
from models.hashing.view_batch import ViewBatch
from models.naming import ViewHash, strongest
from models.radii import radii_for
from models.shelves import Base, Shelf
from tests.unit.made_up_banks import NAMES, NOW, Row, bank_of, batch_of, near, only, second_near, weighed_share

# --- what a match tells --------------------------------------------------------------------------------------------


def test_a_match_tells_all_that_decided() -> None:
    """View, distance, radius in force, second test and its limit, gates, place in the video, and the chance of it."""
    batch = batch_of(2)
    bank = bank_of([Row(near(batch, 0, 128), "other"), Row(near(batch, 1, 45), "film")])
    match = only(bank.match(batch, beside=Beside(4_000)).matches)

    assert (match.bank, match.entry, match.algorithm, match.bits) == ("CARDS", "film", "pdq", 256)
    assert (match.view, match.distance, match.max_distance, match.strength) == ("mirror", 45, 48, Strength.CUT)
    assert (match.second_test, match.second_limit) == (SecondTest.SHARE, 0.17)
    assert match.second_value == pytest.approx(weighed_share(batch, 1, near(batch, 1, 45)), abs=1e-4)
    assert (match.quality, match.is_stable, match.passes_shape, match.tier) == (90, True, True, 1)
    assert (match.row, match.position_ms, match.bank_rows) == (1, 500, 4_000)
    assert match.view_hash == batch.values[1].tobytes()
    assert match.expected_false == pytest.approx(5e-9 * 10 ** (-11 / 8) * 2 * 4_000 * 0.1)


@pytest.mark.parametrize(
    ("counted", "bits", "strength", "limit"),
    [
        (400, 56, Strength.CUT, 56),
        (400, 66, Strength.VOTE, 72),
        (4_000, 60, Strength.REVIEW, 64),
        (40_000, 40, Strength.CUT, 40),
        (40_000, 49, Strength.REVIEW, 64),
        (1_000_000, 31, Strength.CUT, 31),
        (1_000_000, 40, Strength.REVIEW, 56),
        (1_000_000, 60, Strength.VOTE, 72),
        (50_000_000, 20, Strength.CUT, 20),
        (50_000_000, 32, Strength.REVIEW, 40),
        (50_000_000, 50, Strength.VOTE, 64),
        (400, 73, None, 0),
        (50_000_000, 65, None, 0),
    ],
)
def test_longer_lists_ask_for_less(counted: int, bits: int, strength: Strength | None, limit: int) -> None:
    """The same copy of the same hash: the longer the list, the nearer it must be to cut on one frame."""
    batch = batch_of()
    found = bank_of([Row(near(batch, 0, bits), "one")]).match(batch, beside=Beside(counted)).matches
    assert [(match.strength, match.max_distance) for match in found] == ([(strength, limit)] if strength else [])


def test_a_failed_second_test_leaves_what_needs_none() -> None:
    """Heavy bits that differ are no copy's: beyond 31 bits such a row only votes, and in long lists not even that."""
    batch = batch_of()
    heavy = bank_of([Row(near(batch, 0, 40, heavy=40), "one")])
    assert only(heavy.match(batch).matches).strength is Strength.VOTE
    assert heavy.match(batch, beside=Beside(100_000)).matches == ()
    close = bank_of([Row(near(batch, 0, 31, heavy=31), "one")])
    assert only(close.match(batch, beside=Beside(100_000)).matches).strength is Strength.CUT
    assert only(close.match(batch, beside=Beside(10**8)).matches).strength is Strength.REVIEW


@pytest.mark.parametrize(("second", "strength"), [(160, Strength.CUT), (161, Strength.VOTE)])
def test_a_window_needs_its_second_hash_at_any_distance(second: int, strength: Strength) -> None:
    """Each picture has a hundred windows: one that is near by PDQ alone is one vote and no more."""
    batch = batch_of()
    row = Row(near(batch, 0, 3), "one", second=second_near(batch, 0, second), is_window=True)
    match = only(bank_of([row]).match(batch).matches)
    assert (match.strength, match.second_test, match.second_value) == (strength, SecondTest.SECOND_HASH, second)
    whole = only(bank_of([replace(row, is_window=False)]).match(batch).matches)
    assert whole.strength is (Strength.CUT if second <= 160 else Strength.REVIEW)


@pytest.mark.parametrize(
    ("rows", "second", "strength"),
    [
        (50_000, 160, Strength.CUT),
        (50_001, 149, Strength.VOTE),
        (150_000, 148, Strength.CUT),
        (150_001, 137, Strength.VOTE),
        (500_000, 136, Strength.CUT),
        (500_001, 121, Strength.VOTE),
        (6_500_000, 120, Strength.CUT),
    ],
)
def test_a_long_list_asks_for_a_better_second_hash(rows: int, second: int, strength: Strength) -> None:
    """Strangers pass any limit where there are enough of them; what passes the loosest is a vote all the same."""
    batch = batch_of()
    row = Row(near(batch, 0, 40), "one", second=second_near(batch, 0, second))
    match = only(bank_of([row]).match(batch, beside=Beside(rows)).matches)
    assert (match.strength, match.second_value) == (strength, second)
    assert match.second_limit == radii_for(rows).second_bits


@pytest.mark.parametrize(
    ("bits", "second", "strength"),
    [(48, 160, Strength.CUT), (49, 137, Strength.REVIEW), (49, 136, Strength.CUT), (64, 137, Strength.REVIEW)],
)
def test_a_far_window_needs_a_good_second_hash(bits: int, second: int, strength: Strength) -> None:
    """Rectangles of screens come that near to windows of plain pictures; the picture itself is held to less."""
    batch = batch_of()
    row = Row(near(batch, 0, bits), "one", second=second_near(batch, 0, second), is_window=True)
    assert only(bank_of([row]).match(batch).matches).strength is strength
    assert only(bank_of([replace(row, is_window=False)]).match(batch).matches).strength is Strength.CUT
    (verdict,) = bank_of([row]).explain(batch)
    assert ("136 bits off, not 137" in verdict.told) is (strength is Strength.REVIEW)


def test_views_that_fail_a_gate_reach_40_bits() -> None:
    """Chessboards and flat pictures come near each other: by such views nothing counts beyond 40 bits."""
    for change in ({"passes_shape": np.zeros(1, np.bool_)}, {"qualities": np.full(1, 49, np.int16)}):
        batch = replace(batch_of(), **change)
        assert only(bank_of([Row(near(batch, 0, 40), "one")]).match(batch).matches).max_distance == 40
        assert bank_of([Row(near(batch, 0, 41), "one")]).match(batch).matches == ()


def test_noise_is_not_looked_up() -> None:
    """A view that fails both gates matches nothing; how low is too low is the operator's to say."""
    noise = replace(batch_of(), qualities=np.full(1, 49, np.int16), is_stable=np.zeros(1, np.bool_))
    bank = bank_of([Row(noise.values[0], "one")])
    assert bank.match(noise).matches == ()
    assert len(bank.match(noise, (), BankLimits(min_quality=10)).matches) == 1
    assert [verdict.reason for verdict in bank.explain(noise)] == [Reason.NOISE]


def test_the_nearest_view_of_each_entry_is_named_once() -> None:
    """One match per entry with its best view, the closest entry first, and a count of those left out."""
    batch = batch_of(2)
    rows = [Row(near(batch, number % 2, number), f"entry-{number:02}") for number in range(20)]
    rows += [Row(near(batch, 1, 0), "entry-00")]
    found = bank_of(rows).match(batch, most=4)

    assert [match.distance for match in found.matches] == [0, 1, 2, 3]
    assert [match.view for match in found.matches] == ["identity", "mirror", "identity", "mirror"]
    assert found.left_out == 16


def test_a_list_of_one_hash_repeated_answers_with_few_names() -> None:
    """A hostile list cannot make one frame name thousands of matches; the rest are counted."""
    batch = batch_of(2)
    found = bank_of([Row(batch.values[0], f"e{number}") for number in range(5000)]).match(batch)
    assert (len(found.matches), found.left_out) == (16, 5000 - 16)


def test_a_negative_entry_takes_back_only_what_is_no_nearer() -> None:
    """On the same view alone, as near or nearer, and counted; a disabled one takes nothing back."""
    batch = batch_of(2)
    harmless = Row(near(batch, 0, 20), "harmless", Opinion.NEGATIVE)
    rows = [Row(near(batch, 0, 20), "same"), Row(near(batch, 0, 19), "nearer"), Row(near(batch, 1, 30), "elsewhere")]
    found = bank_of([*rows, harmless]).match(batch)
    assert [match.entry for match in found.matches] == ["nearer", "elsewhere"]
    assert (found.suppressed, found.left_out) == (1, 0)

    other = Beside(None, Negatives([bank_of([replace(harmless, opinion=Opinion.POSITIVE)], "HARMLESS")]))
    beside = bank_of(rows).match(batch, beside=other)
    assert ([match.entry for match in beside.matches], beside.suppressed) == (["nearer", "elsewhere"], 1)
    off = {"harmless": EntryNote(disabled_until_seconds=NOW)}
    assert bank_of([*rows, harmless], notes=off).match(batch, now_seconds=NOW - 1).suppressed == 0


def test_negative_and_disabled_banks_match_nothing() -> None:
    """A negative bank has no matches of its own; a disabled one none until its time has come."""
    batch = batch_of()
    bank = bank_of([Row(batch.values[0], "one")])
    off = BankLimits(disabled_until_seconds=NOW)
    assert bank.match(batch, (), BankLimits(is_negative=True)).matches == ()
    assert bank.match(batch, (), off, now_seconds=NOW - 1).matches == ()
    assert len(bank.match(batch, (), off, now_seconds=NOW).matches) == 1


def test_other_hashes_ask_for_review_at_most() -> None:
    """However near, a hash that is not PDQ is for people to look at; an explicit limit replaces the algorithm's."""
    values = np.arange(8, dtype=np.uint8)[None]
    packed = BankRows.of(values, ["short"], Opinion.POSITIVE)
    bank = Bank(Path("/banks/SHORT"), "gen-1", {"phash": Shelf(Base.build(packed, 4))})
    asked = values[0].copy()
    asked[0] ^= 0b11111
    exact, far = (ViewHash("mirror", "phash", Fingerprint(one.tobytes(), 80, True)) for one in (values[0], asked))

    match = only(bank.match(batch_of(), [exact]).matches)
    assert (match.strength, match.bits, match.max_distance, match.view) == (Strength.REVIEW, 64, 4, "mirror")
    assert (match.second_test, match.expected_false) == (SecondTest.NONE, 0.0)
    assert bank.match(batch_of(), [far]).matches == ()
    assert len(bank.match(batch_of(), [far], BankLimits({"phash": 5})).matches) == 1
    assert bank.match(batch_of(), [replace(exact, algorithm="dhash")]).matches == ()
    (verdict,) = bank.explain(batch_of(), [far])
    assert (verdict.distance, verdict.limit, verdict.reason) == (5, 4, Reason.TOO_FAR)
    noise = ViewHash("identity", "phash", Fingerprint(values[0].tobytes(), 10, False))
    assert bank.match(batch_of(), [noise]).matches == ()


# --- why a view did not match --------------------------------------------------------------------------------------


_PLAIN = {"heavy": 0, "shape": True, "note": EntryNote(), "limits": BankLimits(), "negative": None}


@pytest.mark.parametrize(
    ("bits", "row", "setting", "reason", "told"),
    [
        (20, {}, {}, Reason.MATCH, "may cut: within 31 bits with its second test passed"),
        (20, {"opinion": Opinion.SEED}, {}, Reason.MATCH, "asks for a review: its opinion is seed"),
        (20, {}, {"note": EntryNote(quarantined=True)}, Reason.MATCH, "quarantined"),
        (50, {}, {}, Reason.MATCH, "beyond 31, the limit for a cut by one frame in a list of 1000000 rows"),
        (90, {}, {}, Reason.TOO_FAR, "beyond 72 bits, the widest limit of a list of 1000000 rows"),
        (60, {}, {"shape": False}, Reason.GATE, "beyond 40 bits"),
        (60, {}, {"heavy": 60}, Reason.SECOND_TEST, "of the view's weight differs, 0.19 would do"),
        (9, {"opinion": Opinion.NEGATIVE}, {}, Reason.OPINION, "opinion is negative"),
        (9, {}, {"note": EntryNote(disabled_until_seconds=NOW + 1)}, Reason.DISABLED, "entry is disabled"),
        (9, {}, {"limits": BankLimits(disabled_until_seconds=NOW + 1)}, Reason.DISABLED, "bank is disabled"),
        (9, {}, {"limits": BankLimits(is_negative=True)}, Reason.OPINION, "bank is negative"),
        (9, {}, {"negative": 9}, Reason.TAKEN_BACK, "a negative entry is 9 bits from the same view"),
        (20, {}, {"limits": BankLimits({"pdq": 12})}, Reason.TOO_FAR, "beyond 12 bits"),
    ],
)
def test_each_reason_is_told(
    bits: int, row: dict[str, Any], setting: dict[str, object], reason: Reason, told: str
) -> None:
    """One sentence for each view says what decided, with the figures."""
    wanted = SimpleNamespace(**(_PLAIN | setting))
    batch = replace(batch_of(), passes_shape=np.array([wanted.shape]))
    bank = bank_of([Row(near(batch, 0, bits, heavy=wanted.heavy), "one", **row)], notes={"one": wanted.note})
    negatives = Negatives([] if wanted.negative is None else [bank_of([Row(near(batch, 0, wanted.negative), "no")])])
    (verdict,) = bank.explain(batch, (), wanted.limits, now_seconds=NOW, beside=Beside(1_000_000, negatives))
    assert (verdict.reason, verdict.distance, verdict.entry) == (reason, bits, "one")
    assert told in verdict.told


# --- what must neither hide a match nor leave a false one ------------------------------------------------------------


def test_a_view_that_may_not_act_hides_none_that_may() -> None:
    """Of low quality or unstable, a view asks for a review at most; the farther match by a better one may still cut."""
    for change in ({"qualities": np.array([49, 90], np.int16)}, {"is_stable": np.array([False, True])}):
        batch = replace(batch_of(2), **change)
        bank = bank_of([Row(near(batch, 0, 3), "one"), Row(near(batch, 1, 12), "one")])
        match = only(bank.match(batch).matches)
        assert (match.strength, match.view, match.distance) == (Strength.CUT, "mirror", 12)
        told = {verdict.view: verdict.told for verdict in bank.explain(batch)}
        assert "asks for a review: no cut by a view whose quality is" in told["identity"]
        assert told["mirror"].startswith("may cut")


def test_an_operators_least_quality_holds_for_single_views() -> None:
    """A view below it asks for a review."""
    batch = batch_of()
    bank = bank_of([Row(near(batch, 0, 3), "one")])
    assert only(bank.match(batch, (), BankLimits(min_quality=91)).matches).strength is Strength.REVIEW


def test_a_negative_entry_is_found_in_any_list() -> None:
    """However many entries have the hash: look-ups give some of them, and in long lists miss some that are far."""
    batch = batch_of(4)
    value = near(batch, 2, 20)
    crowd = [Row(value, f"copy-{number}") for number in range(300)]
    bank = bank_of([*crowd, Row(value, "harmless", Opinion.NEGATIVE)])
    assert bank.match(batch).matches == ()
    assert {verdict.reason for verdict in bank.explain(batch) if verdict.view == NAMES[2]} == {Reason.TAKEN_BACK}
    off = {"harmless": EntryNote(disabled_until_seconds=NOW)}
    noted = bank_of([*crowd, Row(value, "harmless", Opinion.NEGATIVE)], notes=off)
    assert noted.match(batch, now_seconds=NOW - 1).matches != ()
    assert noted.match(batch, now_seconds=NOW).matches == ()


def test_a_rare_bank_is_named_beside_a_crowd() -> None:
    """Sixteen entries of a bank that only watches must not crowd out the one of a bank that cuts."""
    batch = batch_of()
    crowd = bank_of([Row(batch.values[0], f"copy-{number}") for number in range(20)], "WATCHED").match(batch).matches
    rare = bank_of([Row(near(batch, 0, 9), "one")], "CUTS").match(batch).matches
    named = strongest([*crowd, *rare], 16)
    assert (len(named), [match.bank for match in named].count("CUTS")) == (16, 1)
    assert [match.distance for match in named] == sorted(match.distance for match in named)


# --- rows and views of next to no structure


@pytest.mark.parametrize("has_second", [False, True])
@pytest.mark.parametrize("bits", [15, 16, 31, 32])
@pytest.mark.parametrize("view", [0, 1])
def test_plain_row_cuts_by_the_frame_as_it_is_alone(view: int, bits: int, *, has_second: bool) -> None:
    """A hash that is one row by one column may act by the frame itself, a bare one nearby, and ask for review else."""
    cuts = view == 0 and bits <= (31 if has_second else 15)
    chance = np.random.default_rng(7)
    signs = chance.choice((-1, 1), 16)[:, None] * chance.choice((-1, 1), 16)[None, :]
    deviations = np.stack([signs.ravel(), signs[::-1].ravel()]).astype(np.float32) * chance.lognormal(3, 0.8, (2, 256))
    batch = _seen(deviations.astype(np.float32))
    second = second_near(batch, view, 0) if has_second else None
    bank = bank_of([Row(near(batch, view, bits), "plain", second=second)])

    match = only(bank.match(batch, now_seconds=NOW).matches)

    assert (match.view, match.strength) == (batch.names[view], Strength.CUT if cuts else Strength.REVIEW)
    told = {verdict.view: verdict.told for verdict in bank.explain(batch)}[batch.names[view]]
    assert (f"next to no structure cuts within {31 if has_second else 15} bits" in told) is not cuts


@pytest.mark.parametrize(("second", "strength"), [(70, Strength.CUT), (90, Strength.REVIEW)])
def test_a_view_with_little_to_see_needs_a_nearer_second_hash(second: int, strength: Strength) -> None:
    """Any lone edge settles the bits of a second hash alike: what is enough for a photograph is not for that."""
    batch = _edges()
    assert structures_of_views(batch.deviations)[1] < 0.16
    values = batch.values[1].copy()
    row = Row(values ^ np.packbits(np.arange(256) % 7 == 0), "edge", second=second_near(batch, 1, second))
    bank = bank_of([row])

    matches = {match.view: match.strength for match in bank.match(batch, now_seconds=NOW).matches}

    assert set(matches.values()) == {strength}


@pytest.mark.parametrize(("bits", "asked"), [(20, (Strength.CUT,) * 2), (26, (Strength.CUT, Strength.REVIEW))])
def test_a_bare_hash_reaches_less_far_by_a_view_with_little_to_see(bits: int, asked: tuple[Strength, ...]) -> None:
    """Within PDQ's limit the frame as it is may cut all the same; a view made of it has to be nearer."""
    batch = _edges()
    row = Row(near(batch, 0, bits), "edge")
    found = []
    for view in range(2):
        one = replace(batch, **{name: getattr(batch, name)[view : view + 1] for name in _OF_VIEWS})
        bank = bank_of([row])
        found.append(only(bank.match(one, beside=Beside(1_000_000)).matches).strength)
        told = bank.explain(one, beside=Beside(1_000_000))[0].told
        assert ("so little in it" in told) is (found[-1] is Strength.REVIEW)
    assert tuple(found) == asked


_OF_VIEWS = ("names", "values", "deviations", "qualities", "is_stable", "passes_shape", "tiers")


def _edges() -> ViewBatch:
    """A lone edge on plain ground: as the frame, and as a view of it."""
    levels = np.arange(64)
    edge = np.where(levels[:, None] + 0.4 * levels[None, :] > 40, 200, 20)
    spectra = spectra_of(np.stack([edge, edge]).astype(np.float32)).reshape(2, 256)[:, ::-1]
    return _seen(spectra - np.median(spectra, axis=1, keepdims=True))


def _seen(deviations: NDArray[np.float32]) -> ViewBatch:
    """A frame and one view of it, that pass every gate."""
    yes, qualities, tiers = np.ones(2, np.bool_), np.full(2, 90, np.int16), np.array([0, 1], np.int8)
    return ViewBatch(
        ("identity", "zoom_3"), np.packbits(deviations > 0, axis=1), deviations, qualities, yes, yes, tiers
    )

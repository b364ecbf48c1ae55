"""Banks in memory and views of nothing, as near to their rows as a test says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.annotations import EntryNote
from models.bank_rows import BankRows
from models.banks import Bank
from models.evidence import HashMatch, Opinion
from models.hashing.second_tests import difference_hashes_of_views
from models.hashing.view_batch import ViewBatch
from models.shelves import Base, Shelf

NOW = 1_000_000.0
NAMES = ("identity", "mirror", "zoom_3", "trim")


@dataclass(frozen=True)
class Row:
    """One row of a made-up bank."""

    value: NDArray[np.uint8]
    entry: str
    opinion: Opinion = Opinion.POSITIVE
    second: NDArray[np.uint8] | None = None
    is_window: bool = False


def batch_of(count: int = 1, seed: int = 0) -> ViewBatch:
    """Views of nothing, that pass every gate; no two coefficients weigh the same."""
    chance = np.random.default_rng(seed)
    deviations = (chance.choice((-1, 1), (count, 256)) * chance.lognormal(3, 0.8, (count, 256))).astype(np.float32)
    yes = np.ones(count, np.bool_)
    qualities, tiers = np.full(count, 90, np.int16), np.arange(count, dtype=np.int8)
    return ViewBatch(NAMES[:count], np.packbits(deviations > 0, axis=1), deviations, qualities, yes, yes, tiers)


def near(batch: ViewBatch, view: int, bits: int, *, heavy: int = 0) -> NDArray[np.uint8]:
    """A hash so many bits from a view's: those of the smallest coefficients, as in a copy, and some of the largest."""
    order, heavy = np.argsort(np.abs(batch.deviations[view])), min(heavy, bits)
    flips = np.zeros(256, np.uint8)
    flips[order[: bits - heavy]] = 1
    flips[order[256 - heavy :]] = 1
    return np.asarray(batch.values[view] ^ np.packbits(flips))


def second_near(batch: ViewBatch, view: int, bits: int) -> NDArray[np.uint8]:
    """A second hash so many bits from a view's."""
    flips = np.zeros(512, np.uint8)
    flips[:bits] = 1
    return np.asarray(difference_hashes_of_views(batch.deviations[view : view + 1])[0] ^ np.packbits(flips))


def bank_of(rows: Sequence[Row], name: str = "CARDS", notes: Mapping[str, EntryNote] | None = None) -> Bank:
    """A bank in memory."""
    seconds = np.stack([np.zeros(64, np.uint8) if row.second is None else row.second for row in rows])
    packed = BankRows.of(
        np.stack([row.value for row in rows]),
        [row.entry for row in rows],
        [row.opinion for row in rows],
        seconds=seconds,
        has_second=np.array([row.second is not None for row in rows]),
        is_window=np.array([row.is_window for row in rows]),
        positions_ms=np.arange(len(rows), dtype=np.int32) * 500,
    )
    return Bank(Path(f"/banks/{name}"), "gen-00000001", {"pdq": Shelf(Base.build(packed, 31))}, notes)


def only(matches: Sequence[HashMatch]) -> HashMatch:
    (match,) = matches
    return match


def weighed_share(batch: ViewBatch, view: int, value: NDArray[np.uint8]) -> float:
    """The weighted share of bits in which a row differs from a view, summed one by one."""
    sizes = [abs(float(one)) for one in batch.deviations[view]]
    middle = sorted(sizes)
    weights = [min(size, 1.5 * (middle[127] + middle[128])) for size in sizes]
    ours, theirs = np.unpackbits(batch.values[view]), np.unpackbits(value)
    return sum(weight for weight, a, b in zip(weights, ours, theirs, strict=True) if a != b) / sum(weights)

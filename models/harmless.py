"""A bank's rows of negative opinion: what is known to be harmless takes back every match that is no nearer.

They are looked up apart from the others, and exactly: look-ups of long lists do not meet every row that is far, and of
a hash that thousands of entries have they give only some.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import OPINION_CODES, BankRows
from models.evidence import Opinion
from models.hashing.plugins import PluginFailed
from models.shelf_rows import NearRows, OwnDistances
from models.shelves import Base, Shelf

_NEGATIVE: Final = OPINION_CODES.index(Opinion.NEGATIVE)
_AT_ONCE: Final = 1 << 16


class Harmless:
    """The rows of negative opinion of one algorithm, read when they are first asked for.

    Args:
        shelf: All rows of the algorithm.
        near: The same, by the algorithm's own distance.
    """

    def __init__(self, shelf: Shelf, near: NearRows) -> None:
        self._shelf = shelf
        self._near = near

    @cached_property
    def _rows(self) -> BankRows:
        base, overlay = self._shelf.base.rows, self._shelf.overlay
        numbers = np.flatnonzero(base.opinions == _NEGATIVE)
        if overlay is not None:
            newer = np.flatnonzero(overlay.rows.opinions == _NEGATIVE) + len(base)
            numbers = np.concatenate([np.setdiff1d(numbers, overlay.gone), newer])
        return self._shelf.rows_at(numbers.astype(np.int64))

    @cached_property
    def _own(self) -> OwnDistances | None:
        near = self._near
        return near.among(Shelf(Base.build(self._rows, 0))) if isinstance(near, OwnDistances) else None

    def nearest(self, values: NDArray[np.uint8], radius: int, is_disabled: Callable[[str], bool]) -> NDArray[np.int64]:
        """The distance from each hash of `values` (V, bits / 8) to the nearest row that counts: (V,) int64.

        `radius` + 1 where none is within it; 0 where a stranger's algorithm failed, which costs its matches alone.
        """
        found = np.full(len(values), radius + 1, dtype=np.int64)
        if len(self._rows) == 0:
            return found
        for place, value in enumerate(values):
            try:
                numbers, distances = self._within(value, radius)
            except PluginFailed:
                found[place] = 0
                continue
            for number, distance in zip(numbers.tolist(), distances.tolist(), strict=True):
                if not is_disabled(self._rows.names[number]):
                    found[place] = distance
                    break
        return found

    def _within(self, value: NDArray[np.uint8], radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows within the radius and their distances, the nearest first."""
        if self._own is not None:
            ((numbers, distances),) = self._own.search_all([value.tobytes()], radius)
            return numbers, distances
        hashes = self._rows.hashes
        distances = np.concatenate(
            [
                np.bitwise_count(hashes[start : start + _AT_ONCE] ^ value).sum(axis=1, dtype=np.int64)
                for start in range(0, len(hashes), _AT_ONCE)
            ]
        )
        numbers = np.flatnonzero(distances <= radius)
        order = np.argsort(distances[numbers], kind="stable")
        return numbers[order], distances[numbers][order]


def harmless_rows(shelves: Mapping[str, Shelf], near: Mapping[str, NearRows]) -> dict[str, Harmless]:
    """Those of each algorithm of a bank."""
    return {name: Harmless(shelf, near[name]) for name, shelf in shelves.items()}

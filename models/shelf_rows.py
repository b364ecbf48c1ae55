"""What matching asks of one algorithm's part of a bank: which rows are near, and what these are."""

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import BankRows
from models.hashing.plugins import Plugin, PluginIndex
from models.hashing.view_batch import ViewBatch
from models.hits import Hits
from models.index import Found
from models.matching import MetRows
from models.shelves import Shelf

EXACT_VIEWS: Final = frozenset({"identity"})
"""Views of which every row within 31 bits is found, whatever the list's length and whichever bits differ.

Of the others those are that copies are likely to be: of 1,221 mirrored copies within 31 bits (re-encoded, cropped,
noisy, captioned, darkened) in a list of a million every one was, for a third less than finding all.
"""

MOST_JUDGED: Final = 256
"""Rows judged for each view, the nearest: a careless or hostile list can hold one hash a million times."""


class NearRows(Protocol):
    """Finds rows by hash, and tells what they are."""

    def __len__(self) -> int:
        """How many rows count."""
        ...

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """Every row within the radius of each query, the nearest first."""
        ...

    def search_nearest(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """The same, but where there are very many the nearest alone."""
        ...

    def rows_at(self, numbers: NDArray[np.int64]) -> BankRows:
        """Some rows, in that order."""
        ...


class OwnDistances:
    """The rows of an installed algorithm that measures distances by an index of its own, made when it is first asked.

    Implements `NearRows`. No index answers further than the algorithm's `max_distance`.
    """

    def __init__(self, plugin: Plugin, shelf: Shelf) -> None:
        self._plugin = plugin
        self._shelf = shelf

    def __len__(self) -> int:
        """As `NearRows.__len__`."""
        return len(self._shelf)

    def among(self, shelf: Shelf) -> "OwnDistances":
        """The same distances, to other rows."""
        return OwnDistances(self._plugin, shelf)

    @cached_property
    def _rows(self) -> BankRows:
        return self._shelf.live()

    @cached_property
    def _index(self) -> PluginIndex | None:
        return self._plugin.build_index(self._rows.hashes)

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """As `NearRows.search_all`. Raises `PluginFailed`."""
        index = self._index
        return index.search_all(queries, min(radius, self._plugin.max_distance)) if index is not None else []

    def search_nearest(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """As `NearRows.search_nearest`: all of them. Raises `PluginFailed`."""
        return self.search_all(queries, radius)

    def rows_at(self, numbers: NDArray[np.int64]) -> BankRows:
        """As `NearRows.rows_at`."""
        return self._rows.taken(numbers)


def look_up(shelf: Shelf, batch: ViewBatch, asked: NDArray[np.intp], radius: int) -> Hits:
    """Look up some views of a batch, all at once; hits name them by their rows in the batch."""
    if len(asked) == 0:
        return Hits.none()
    exact = np.array([batch.names[view] in EXACT_VIEWS for view in asked.tolist()], dtype=np.bool_)
    found = shelf.search_soft(batch.values[asked], batch.deviations[asked], radius, exact=exact)
    if len(found) == 0:
        return Hits.none()
    return nearest_of_each(Hits(asked[found.query].astype(np.int64), found.row, found.distance, found.cut))


def nearest_of_each(hits: Hits, most: int = MOST_JUDGED) -> Hits:
    """The nearest hits of each query; the others are counted in `cut`."""
    ranks = np.arange(len(hits)) - np.searchsorted(hits.query, hits.query, side="left")
    kept = ranks < most
    left_out = len(hits) - int(np.count_nonzero(kept))
    if not left_out:
        return hits
    return Hits(hits.query[kept], hits.row[kept], hits.distance[kept], hits.cut + left_out)


def met_rows(rows: BankRows) -> MetRows:
    """What the second tests need of rows."""
    seconds, has_second = rows.dense_seconds()
    return MetRows(hashes=rows.hashes, seconds=seconds, has_second=has_second, is_window=rows.dense_windows())

"""What a look-up of several queries at once found."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST_HITS: Final = 16_384
"""Hits kept per query, the nearest: a careless or hostile list can hold one hash millions of times."""

_Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Rows near queries, one hit per place of the three int64 arrays, sorted by (query, distance, row).

    `query` counts the queries as they were asked, `distance` is in bits. No (query, row) repeats. `cut` is how many
    rows were left uncompared or unreported because a query met too many of them.
    """

    query: _Numbers
    row: _Numbers
    distance: _Numbers
    cut: int = 0

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def none(cls) -> "Hits":
        """No hit at all."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing)

    @classmethod
    def of(cls, query: _Numbers, row: _Numbers, distance: _Numbers, cut: int = 0) -> "Hits":
        """Sort hits met in any order, drop repeats, and keep the nearest `MOST_HITS` of each query."""
        if len(row) == 0:  # so it is for nearly every frame
            return cls(query, row, distance, cut)
        order = np.lexsort((row, distance, query))
        query, row, distance = query[order], row[order], distance[order]
        # A row has one distance from a query, so that repeats have become neighbours.
        is_new = np.ones(len(row), dtype=bool)
        is_new[1:] = (query[1:] != query[:-1]) | (row[1:] != row[:-1])
        query, row, distance = query[is_new], row[is_new], distance[is_new]
        ranks = np.arange(len(query)) - np.searchsorted(query, query, side="left")
        is_kept = ranks < MOST_HITS
        left_out = len(query) - int(np.count_nonzero(is_kept))
        if left_out:
            query, row, distance = query[is_kept], row[is_kept], distance[is_kept]
        return cls(query, row, distance, cut + left_out)

    @classmethod
    def joined(cls, parts: "list[Hits]") -> "Hits":
        """The hits of several look-ups of the same queries, as one."""
        return cls.of(
            np.concatenate([part.query for part in parts]),
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.distance for part in parts]),
            sum(part.cut for part in parts),
        )


def is_among(numbers: _Numbers, ascending: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Tell which numbers are among some that ascend."""
    if len(ascending) == 0:
        return np.zeros(len(numbers), dtype=bool)
    places = np.minimum(np.searchsorted(ascending, numbers), len(ascending) - 1)
    return np.asarray(ascending[places] == numbers)

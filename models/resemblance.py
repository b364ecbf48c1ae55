"""Which of some hundred pictures look like any of some hundred thousand others.

By brute force: an index over either would take longer to build than the answer takes.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.radii import EXACT, SECOND_LIMIT

RADIUS: Final = 72
"""Copies lie within it; beyond `EXACT` only with a second hash that agrees, as chance reaches so far as well."""

_SLACK: Final = 24
"""Copies have second hashes within `SECOND_LIMIT` less 14 bits, the nearest stranger had 182: doubt is likeness."""

_AT_ONCE: Final = 2048


def resembling(
    hashes: NDArray[np.uint8],
    seconds: NDArray[np.uint8],
    other_hashes: NDArray[np.uint8],
    other_seconds: NDArray[np.uint8],
    has_second: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which of N pictures, (N, 32) PDQ and (N, 64) second hashes, look like any of M others, (N,) bool.

    Where one of the others has no second hash (`has_second`, (M,) bool), the first alone decides.
    """
    found = np.zeros(len(hashes), np.bool_)
    words = np.ascontiguousarray(hashes).view(np.uint64)
    others = np.ascontiguousarray(other_hashes).view(np.uint64)
    for start in range(0, len(others), _AT_ONCE):
        block = others[start : start + _AT_ONCE]
        distances = np.zeros((len(words), len(block)), np.uint16)
        for word in range(words.shape[1]):
            distances += np.bitwise_count(words[:, word, None] ^ block[None, :, word])
        mine, theirs = np.nonzero(distances <= RADIUS)
        if not len(mine):
            continue
        is_sure = (distances[mine, theirs] <= EXACT) | ~has_second[start + theirs]
        apart = np.bitwise_count(seconds[mine] ^ other_seconds[start + theirs]).sum(axis=1, dtype=np.int64)
        found[mine[is_sure | (apart <= SECOND_LIMIT + _SLACK)]] = True
    return found

"""From rows that were met to what they may ask for: gates, limits by length of list, and second tests. Pure arithmetic.

A row near a view is a copy or a coincidence. How likely each is depends on how far apart they are, how long the list
is, whether the view has structure enough to be told from others, and on a second test of the pair. All hits of a frame
are judged at once, as arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.evidence import SecondTest
from models.false_matches import SECOND_TEST_RATE, pair_rate, second_hash_part
from models.hashing.plainness import plain
from models.hashing.second_tests import (
    difference_hashes_of_views,
    second_distances,
    structures_of_views,
    weighted_shares,
)
from models.hashing.view_batch import ViewBatch
from models.hashing.view_table import Tier
from models.hits import Hits
from models.radii import (
    EXACT,
    FAR_WINDOW_LIMIT,
    LEAST_PART,
    LEAST_REACH,
    NEAR_WINDOW,
    PART_BY_STRUCTURE,
    PLAIN_REACH,
    REACH_BY_STRUCTURE,
    SECOND_LIMIT,
    SHARE_LIMIT,
    UNGATED,
    VOTE_SHARE_LIMIT,
    Radii,
)

TRUSTED_QUALITY: Final = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to trust a hash (pdq/README.md)."""

PDQ: Final = "pdq"
"""The one algorithm whose views come as a batch, and whose matches may ask for more than a review."""

_MOST_LOOKED_AT: Final = 256
"""Different hashes that one frame may act on, the nearest; a hostile list could have it meet any number."""

NOTHING: Final = -1
"""The rank of a hit that may not even vote; others have `Strength.rank`."""


@dataclass(frozen=True, slots=True, eq=False)
class MetRows:
    """What P hits met: `hashes` (P, 32) uint8, `seconds` (P, 64) uint8 where `has_second` (P,), `is_window` (P,)."""

    hashes: NDArray[np.uint8]
    seconds: NDArray[np.uint8]
    has_second: NDArray[np.bool_]
    is_window: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What P hits may ask for, (P,) each.

    `ranks` are `Strength.rank` or `NOTHING`, `limits` the radius in force for that strength; of a hit that may ask for
    nothing the one for a vote. `values` are the second test's, `has_second` says of which, `is_sure` whether it was
    passed; `second_limits` are the limits of second hashes for it. `is_plain`: it could cut, if its row had structure.
    """

    ranks: NDArray[np.int8]
    limits: NDArray[np.int64]
    values: NDArray[np.float64]
    has_second: NDArray[np.bool_]
    is_sure: NDArray[np.bool_]
    second_limits: NDArray[np.int64]
    is_plain: NDArray[np.bool_]

    def second_test(self, place: int) -> tuple[SecondTest, float]:
        """Which test a hit is held to, and its limit."""
        if self.has_second[place]:
            return SecondTest.SECOND_HASH, float(self.second_limits[place])
        return SecondTest.SHARE, SHARE_LIMIT


def trusted_views(batch: ViewBatch) -> NDArray[np.bool_]:
    """Tell which views (V,) pass both gates, so that distances beyond `UNGATED` mean something."""
    return np.asarray(batch.passes_shape & (batch.qualities >= TRUSTED_QUALITY))


def noise_views(batch: ViewBatch, min_quality: int) -> NDArray[np.bool_]:
    """Tell which views (V,) are not worth a look-up: neither is there much to see nor is the hash stable."""
    return np.asarray((batch.qualities < min_quality) & ~batch.is_stable)


def acting_views(
    qualities: Sequence[int] | NDArray[np.int16], is_stable: Sequence[bool] | NDArray[np.bool_], min_quality: int
) -> NDArray[np.bool_]:
    """Tell which views (V,) may ask for a cut at all: of some quality, and with a hash that is stable."""
    return np.asarray((np.asarray(qualities) >= max(min_quality, TRUSTED_QUALITY)) & np.asarray(is_stable))


def judge(batch: ViewBatch, hits: Hits, met: MetRows, radii: Radii, min_quality: int = TRUSTED_QUALITY) -> Judged:
    """Judge what was met; `hits.query` are rows of the batch.

    * Within `radii.plain` bits a row may cut, as PDQ's authors advise, unless its second hash says that it is another
      picture; a window of a picture may only with its second test passed, since each picture has a hundred of them, and
      beyond `NEAR_WINDOW` by a better second hash.
    * With the second test passed a row may cut within `radii.share` or `radii.second`, and ask for review within
      `radii.review`. Within 31 bits every row but a window may ask for review.
    * The limit of second hashes is `radii.second_bits`; for a cut by any view but the frame as it is or mirrored, and
      for a cut beyond `radii.plain`, the less the less there is in the view.
    * A bare hash may cut the less far the less there is in the view, likewise.
    * Any row may vote within `radii.vote`; in long lists beyond 31 bits only with the second test passed at its looser
      limit.
    * A row of next to no structure may cut by the frame as it is or mirrored alone, and within `radii.plain`; a bare
      one within `PLAIN_REACH`.
    * Nothing goes beyond `UNGATED` by a view that fails a gate, and none below `min_quality` or unstable may cut: a
      farther row by a view that may is worth more.
    """
    reach = np.where(trusted_views(batch), radii.vote, min(UNGATED, radii.vote))[hits.query]
    values, structures = _second_values(batch, hits, met)
    parts = np.minimum(1.0, LEAST_PART + PART_BY_STRUCTURE * structures)
    second_limits = np.floor(radii.second_bits * parts + 1e-6).astype(np.int64)
    is_sure = values <= np.where(met.has_second, second_limits, SHARE_LIMIT)
    may_ask = values <= np.where(met.has_second, radii.second_bits, SHARE_LIMIT)
    may_vote = values <= np.where(met.has_second, SECOND_LIMIT, VOTE_SHARE_LIMIT)
    is_shown = _as_shown(batch)[hits.query]
    untested = np.where(met.is_window, NOTHING, np.int64(EXACT))
    is_refuted = met.has_second & ~np.where(is_shown, may_ask, is_sure)
    is_vague = met.is_window & (hits.distance > NEAR_WINDOW) & (values > FAR_WINDOW_LIMIT)
    tested = np.where(met.has_second, radii.second, radii.share)
    cuts = np.where(is_sure & ~is_vague, tested, np.minimum(np.where(is_refuted, NOTHING, untested), radii.plain))
    cuts = np.where(met.has_second, cuts, np.minimum(cuts, _bare_reach(radii, structures, is_shown)))
    cuts = np.where(acting_views(batch.qualities, batch.is_stable, min_quality)[hits.query], cuts, NOTHING)
    is_plain = _plain_rows(met, hits.distance, hits.distance <= np.minimum(cuts, reach))
    plain_reach = np.where(met.has_second, radii.plain, min(PLAIN_REACH, radii.plain))
    cuts = np.where(is_plain, np.where(is_shown, np.minimum(cuts, plain_reach), NOTHING), cuts)
    reviews = np.where(may_ask, radii.review, untested)
    votes = np.where(may_vote | radii.votes_untested, radii.vote, EXACT)
    ranks = np.full(len(hits), NOTHING, dtype=np.int8)
    limits = np.minimum(votes, reach)
    for rank, wanted in enumerate((votes, reviews, cuts)):  # in the order of `Strength`
        limit = np.minimum(wanted, reach)
        is_within = hits.distance <= limit
        ranks[is_within] = rank
        limits[is_within] = limit[is_within]
    return Judged(ranks, limits, values, met.has_second, is_sure, second_limits, is_plain)


def chance(distance: int, rows: int, views: int, test: SecondTest, *, is_sure: bool) -> float:
    """How many strangers as near as this the views of one frame meet in a list that counts as so many rows.

    By the measured tail (`models.false_matches`), pessimistically; a second test that was passed leaves few of them.
    """
    passed = {SecondTest.SHARE: SECOND_TEST_RATE, SecondTest.SECOND_HASH: second_hash_part(distance)}
    return pair_rate(distance) * views * rows * (passed.get(test, 1.0) if is_sure else 1.0)


def _bare_reach(radii: Radii, structures: NDArray[np.float32], is_shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How far (P,) a bare hash may be for a cut by what there is in a view: outlines on plain ground are alike."""
    parts = np.minimum(1.0, LEAST_REACH + REACH_BY_STRUCTURE * structures)
    reach = np.floor(max(radii.plain, radii.share) * parts + 1e-6).astype(np.int64)
    return np.asarray(np.where(is_shown, np.maximum(reach, radii.plain), reach))


def _as_shown(batch: ViewBatch) -> NDArray[np.bool_]:
    return np.asarray(batch.tiers == Tier.EVERY_SAMPLE)


def _plain_rows(met: MetRows, distances: NDArray[np.int64], is_asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which of the rows that are asked about (P,) are of pictures with next to no structure."""
    told = np.zeros(len(is_asked), dtype=np.bool_)
    asked = np.flatnonzero(is_asked)
    if len(asked):
        asked = asked[np.argsort(distances[asked], kind="stable")]
        hashes, first, place = np.unique(met.hashes[asked], axis=0, return_index=True, return_inverse=True)
        nearest = np.argsort(first)[:_MOST_LOOKED_AT]
        are_plain = np.ones(len(hashes), dtype=np.bool_)  # what is too many to look at may not act
        are_plain[nearest] = plain(hashes[nearest])
        told[asked] = are_plain[place.ravel()]
    return told


def _second_values(batch: ViewBatch, hits: Hits, met: MetRows) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The second test's value of each hit (P,), and the structure of its view (P,)."""
    values = np.zeros(len(hits), dtype=np.float64)
    used, place = np.unique(hits.query, return_inverse=True)
    deviations = batch.deviations[used]
    bare = ~met.has_second
    if bare.any():
        values[bare] = weighted_shares(batch.deviations, hits.query[bare], met.hashes[bare])
    if met.has_second.any():
        seconds = difference_hashes_of_views(deviations)
        values[met.has_second] = second_distances(seconds, place[met.has_second], met.seconds[met.has_second])
    return values, structures_of_views(deviations)[place]

"""What one stream showed of late: hashes of its last hour, and the frames that hit hard enough for a cut."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bank_store import INCIDENT_BANK
from models.evidence import Inspection, Opinion
from streams.frame import Frame

REMEMBERED_SECONDS: Final = 3600.0
"""How far back a stream's pictures count as its own."""

ROWS_KEPT: Final = 128
"""Hashes of the last distinct frames, and as many again spread over the hour."""

HITS_KEPT: Final = 4
"""Frames kept with their pixels, about 0.2 MB each, of streams that hit alone."""

_SPREAD_EVERY_SECONDS: Final = REMEMBERED_SECONDS / ROWS_KEPT
_DISTINCT_BITS: Final = 24
_HIT_SECONDS: Final = 60.0
_HASH_BYTES: Final = 32
_SECOND_BYTES: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class ShownRows:
    """M frames: `hashes` (M, 32) uint8, `seconds` (M, 64) uint8, and which of these there are, (M,) bool."""

    hashes: NDArray[np.uint8]
    seconds: NDArray[np.uint8]
    has_second: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class HitFrame:
    """A frame that itself hit at a cut threshold. `at_seconds` is its arrival, monotonic."""

    at_seconds: float
    fingerprint: int
    frame: Frame = field(repr=False)


class Trail:
    """The trail of one stream: a bounded sample of what its last hour showed, whichever session showed it.

    `began_at` (monotonic) is when the stream began; reconnecting does not begin it anew. `session` is the present or
    last one, `left_at` when that ended. What a stream showed that was cut is nobody's to protect: `is_cut`. `standing`
    says of an entry of the incident bank whether it may cut this stream; None: it says nothing about it.
    """

    def __init__(
        self, stream_id: str, session: str, began_at: float, standing: Callable[["Trail", str], bool | None]
    ) -> None:
        self.stream_id: Final = stream_id
        self.session = session
        self.began_at = began_at
        self.left_at: float | None = None
        self.is_cut = False
        self.hits: deque[HitFrame] = deque(maxlen=HITS_KEPT)
        self._standing = standing
        self._recent, self._spread = _Ring(), _Ring()
        self._last: int | None = None
        self._spread_at = -np.inf

    def __len__(self) -> int:
        """How many frames are remembered, an old one or two among them."""
        return len(self._recent) + len(self._spread)

    def bounded(self, inspection: Inspection) -> Inspection:
        """What was found, with matches of the incident bank held to what they may do to this stream."""
        if all(match.bank != INCIDENT_BANK for match in inspection.matches):
            return inspection
        kept = []
        for match in inspection.matches:
            may_cut = self._standing(self, match.entry) if match.bank == INCIDENT_BANK else True
            if may_cut is not None:
                kept.append(match if may_cut else replace(match, opinion=Opinion.SEED))
        return replace(inspection, matches=tuple(kept))

    def saw(self, at_seconds: float, inspection: Inspection) -> None:
        """Remember a frame, unless it looks like the one before or shows nothing."""
        if inspection.is_low_information or len(inspection.fingerprint) != _HASH_BYTES:
            return
        value = int.from_bytes(inspection.fingerprint)
        if self._last is not None and (value ^ self._last).bit_count() <= _DISTINCT_BITS:
            self._recent.touch(at_seconds)
            return
        self._last = value
        self._recent.put(at_seconds, inspection.fingerprint, inspection.second)
        if at_seconds - self._spread_at >= _SPREAD_EVERY_SECONDS:
            self._spread_at = at_seconds
            self._spread.put(at_seconds, inspection.fingerprint, inspection.second)

    def shown(self, now: float) -> ShownRows:
        """What is remembered of the last hour."""
        parts = [ring.since(now - REMEMBERED_SECONDS) for ring in (self._recent, self._spread)]
        hashes, seconds, has_second = (np.concatenate([part[place] for part in parts]) for place in range(3))
        return ShownRows(hashes, seconds, has_second)

    def hit(self, at_seconds: float, frame: Frame, fingerprint: bytes) -> None:
        """Keep a frame that hit; of frames that look alike the first."""
        value = int.from_bytes(fingerprint)
        while self.hits and at_seconds - self.hits[0].at_seconds > _HIT_SECONDS:
            self.hits.popleft()
        if all((value ^ other.fingerprint).bit_count() > _DISTINCT_BITS for other in self.hits):
            self.hits.append(HitFrame(at_seconds, value, replace(frame, shaped=None)))


class _Ring:
    """The last rows put in, with their times; the array grows as far as it is used."""

    def __init__(self) -> None:
        self._rows = np.zeros((4, _HASH_BYTES + _SECOND_BYTES), np.uint8)
        self._has_second = np.zeros(4, np.bool_)
        self._at = np.full(4, -np.inf)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._at))

    def put(self, at_seconds: float, value: bytes, second: bytes) -> None:
        if self._count == len(self._at) < ROWS_KEPT:
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
            self._has_second = np.concatenate((self._has_second, np.zeros_like(self._has_second)))
            self._at = np.concatenate((self._at, np.full_like(self._at, -np.inf)))
        place = self._count % len(self._at)
        has_second = len(second) == _SECOND_BYTES
        self._rows[place] = np.frombuffer(value + (second if has_second else bytes(_SECOND_BYTES)), np.uint8)
        self._has_second[place], self._at[place] = has_second, at_seconds
        self._count += 1

    def touch(self, at_seconds: float) -> None:
        """The last row is still shown."""
        self._at[(self._count - 1) % len(self._at)] = at_seconds

    def since(self, earliest: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        kept = self._at >= earliest
        return self._rows[kept, :_HASH_BYTES], self._rows[kept, _HASH_BYTES:], self._has_second[kept]

"""What was laid over a moving picture: the pixels that stay as they are while most of the others change.

A caption, a chat box or a logo moves a picture's hash; painted over smoothly, it moves it far less. Where it lies shows
only over time, and only while the picture below it moves. So a sample counts as evidence only where the *pattern* of at
least half of the frame's blocks is another one than at the last sample that counted, and where it is none of the last
few pictures that counted: a cut, a pan, a scene in motion. A person who moves before a fixed camera, a still, a flicker
or a fade of one scene changes too few blocks, or changes their brightness but not their pattern, and two cameras that
take turns show nothing new. They teach nothing; else the background would be taken for an overlay.

A pixel belongs to the overlay where its level stayed constant through the evidence (opaque boxes), or where the edges
through it stayed (letters and logos that are finer than the 64 pixels of a plane mix with what is below them; their
edges remain).
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE

MAX_SHARE: Final = 0.45
"""Of the area: a larger mask would leave too little of the picture, and rather shows bars or a picture in a picture."""

_LEAST_PIXELS: Final = 24
_LEAST_EVIDENCE: Final = 5
"""Distinct pictures after which a mask is told: fewer agree by chance in too many places."""

_MEMORY: Final = 12
"""Evidence weighs as an average over about so many; an overlay that came or went is learned within them."""

_RENEWED: Final = 1 / 3
"""The mask is made anew after so much more evidence, in shares of what there is."""

_PIXELS: Final = PLANE_SIDE * PLANE_SIDE
_BLOCKS: Final = 8
_MIN_MOVED: Final = 0.5
"""Share of the 8x8 blocks with a pattern in which it must have changed."""

_LEAST_MOVED: Final = 16
_LEAST_ON_A_SIDE: Final = 2
"""So many blocks at least must have moved, in all and along each of two opposite edges: else it may be a person."""

_REMEMBERED: Final = 8
_SKETCH: Final = 16
_SKETCH_STEP: Final = 6
_LEAST_NEW: Final = 0.25
"""Share of the cells of a 16x16 sketch that differ by more than six grey levels in a picture that is new."""

_MAX_LIKENESS: Final = 0.6
"""Correlation of a block's pattern with its former one, up to which it counts as another."""

_NOISE: Final = 4.0
"""Mean square of a block's pattern, in squared grey levels, up to which there is none but an encoder's noise."""

_CONSTANT: Final = 4.0
"""Mean deviation, in grey levels, up to which a pixel stayed constant."""

_MIN_EDGE: Final = 8.0
_MAX_EDGE_SPREAD: Final = 0.6
"""An edge stayed if it is at least so many grey levels high and deviates from that by at most this share of it."""

_BAR_SPREAD: Final = 10
"""In grey levels: constant lines at the frame's edge that vary less are bars, which trimming takes off."""

_CAPTION: Final = 0.3
"""Share of the lines behind a bar that belongs to the mask where the bar is a caption's."""


_NOTHING: Final = np.zeros(0, dtype=np.float32)


class OverlayMask:
    """Learns the overlay of one track of one stream from its samples; tens of microseconds a sample.

    Some 30 kB where only a part of the picture ever moves, 68 kB else.

    The streamer decides which pixels move, so a mask is only ever one more view of a frame, never a replacement.
    """

    __slots__ = (
        "_edge_spread",
        "_evidence",
        "_found_at",
        "_learned",
        "_mask",
        "_mean",
        "_pattern",
        "_power",
        "_rests",
        "_sketches",
        "_spread",
    )

    def __init__(self) -> None:
        self._evidence = 0
        self._learned = self._found_at = 0
        self._rests = False
        self._mask: NDArray[np.bool_] | None = None
        # Flat, since lines of 64 cost numpy as much as the whole plane; steps across the planes' sides mean nothing.
        self._mean = np.zeros(_PIXELS, dtype=np.float32)
        # These come with the second evidence: before a fixed camera there is never any.
        self._spread = self._edge_spread = _NOTHING
        self._pattern = np.zeros((PLANE_SIDE, PLANE_SIDE), dtype=np.int16)
        self._power = np.zeros((_BLOCKS, _BLOCKS), dtype=np.float32)
        self._sketches = np.full((_REMEMBERED, _SKETCH * _SKETCH), -256, dtype=np.int16)

    def seen(self, plane: NDArray[np.uint8]) -> None:
        """Take in the (64, 64) uint8 luma of the next sample, some tenths of a second or more after the last."""
        self._rests = self._evidence >= _MEMORY and not self._rests
        if self._rests:  # what was learned is looked after at half the price
            return
        pattern = cv2.subtract(plane, cv2.blur(plane, (5, 5)), dtype=cv2.CV_16S)
        power = _in_blocks(cv2.multiply(pattern, pattern, dtype=cv2.CV_32F))
        if self._evidence and not self._has_moved(pattern, power):
            return
        sketch = cv2.resize(plane, (_SKETCH, _SKETCH), interpolation=cv2.INTER_AREA).ravel().astype(np.int16)
        is_other = (np.abs(self._sketches - sketch) > _SKETCH_STEP).view(np.uint8)
        new_cells = cv2.reduce(is_other, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        if np.asarray(new_cells).min() < _LEAST_NEW * sketch.size:
            return
        self._sketches[self._learned % _REMEMBERED] = sketch
        self._pattern, self._power = np.asarray(pattern, dtype=np.int16), power
        self._learn(plane.astype(np.float32).ravel())

    def mask(self) -> NDArray[np.bool_] | None:
        """The (64, 64) pixels of the overlay, True where it lies; None where nothing, or too much, is constant."""
        if self._evidence >= _LEAST_EVIDENCE and self._learned - self._found_at >= _RENEWED * self._evidence:
            self._found_at = self._learned
            self._mask = self._found()
        return self._mask

    def _has_moved(self, pattern: NDArray[Any], power: NDArray[np.float32]) -> bool:
        common = _in_blocks(cv2.multiply(pattern, self._pattern, dtype=cv2.CV_32F))
        is_other = common <= _MAX_LIKENESS * np.sqrt(power * self._power)
        has_pattern = np.maximum(power, self._power) > _NOISE
        moved = is_other & has_pattern
        # Who moves before a camera leaves most of the blocks at the frame's edges alone.
        in_all = np.count_nonzero(moved)
        if in_all < _LEAST_MOVED or in_all < _MIN_MOVED * np.count_nonzero(has_pattern):
            return False
        along = _along_edges(moved)
        top, bottom, left, right = (along >= _LEAST_ON_A_SIDE) & (along >= _MIN_MOVED * _along_edges(has_pattern))
        return bool((top and bottom) or (left and right))

    def _learn(self, levels: NDArray[np.float32]) -> None:
        self._learned += 1
        self._evidence = min(self._evidence + 1, _MEMORY)
        weight = 1 / self._evidence
        away = levels - self._mean
        if self._evidence > 1:
            if len(self._spread) == 0:
                self._spread, self._edge_spread = np.zeros_like(away), np.zeros_like(away)
            cv2.accumulateWeighted(np.abs(away), self._spread, weight)
            cv2.accumulateWeighted(_edges(away), self._edge_spread, weight)
        cv2.accumulateWeighted(levels, self._mean, weight)

    def _found(self) -> NDArray[np.bool_] | None:
        # The less evidence, the likelier that what moves stayed by chance.
        strictness = (1 + self._evidence / _MEMORY) / 2
        is_constant = self._spread <= strictness * _CONSTANT
        edges = _edges(self._mean)
        stayed = (edges >= _MIN_EDGE) & (self._edge_spread <= strictness * _MAX_EDGE_SPREAD * edges)
        for kept in (stayed | is_constant, stayed):
            mask = _closed(kept.reshape(PLANE_SIDE, PLANE_SIDE))
            self._drop_bars(mask, is_constant.reshape(PLANE_SIDE, PLANE_SIDE))
            if _LEAST_PIXELS <= np.count_nonzero(mask) <= MAX_SHARE * mask.size:
                return mask
        return None

    def _drop_bars(self, mask: NDArray[np.bool_], is_constant: NDArray[np.bool_]) -> None:
        mean = self._mean.reshape(PLANE_SIDE, PLANE_SIDE)
        for inner, lines, means in ((mask, is_constant, mean), (mask.T, is_constant.T, mean.T)):
            if not (lines[0].all() or lines[-1].all()):
                continue
            is_bar = lines.all(axis=1) & (np.ptp(means, axis=1) < _BAR_SPREAD)
            for order in (slice(None), slice(None, None, -1)):
                count = int(np.argmin(is_bar[order]))
                # What follows within a line or two of a caption's bar is the caption.
                if 0 < count < PLANE_SIDE // 2 and inner[order][count + 1 : count + 4].mean() <= _CAPTION:
                    inner[order][: count + 1] = False


def _along_edges(blocks: NDArray[np.bool_]) -> NDArray[np.intp]:
    # How many at the top, the bottom, the left and the right.
    return np.asarray([np.count_nonzero(edge) for edge in (blocks[0], blocks[-1], blocks[:, 0], blocks[:, -1])])


def _edges(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    # How much neighbours on either side of a pixel differ, across and down.
    edges = np.zeros_like(levels)
    across = np.abs(levels[2:] - levels[:-2])
    edges[1:-1] = across
    edges[PLANE_SIDE:-PLANE_SIDE] += np.abs(levels[2 * PLANE_SIDE :] - levels[: -2 * PLANE_SIDE])
    return edges


def _in_blocks(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Specks go, letters grow together to their line, and the seam with what moves is covered.
    pixels = mask.view(np.uint8)
    near = cv2.blur(pixels * np.uint8(90), (3, 3))  # 10 for each of the nine
    kept = np.bitwise_and(pixels, (np.asarray(near) >= 30).view(np.uint8))
    joined = cv2.morphologyEx(kept, cv2.MORPH_CLOSE, _JOINING, borderValue=0)
    return np.asarray(cv2.dilate(joined, _SEAM), dtype=np.uint8).view(np.bool_)


_JOINING: Final = np.ones((3, 5), dtype=np.uint8)
_SEAM: Final = np.ones((3, 3), dtype=np.uint8)

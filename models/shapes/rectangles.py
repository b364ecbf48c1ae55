"""Upright rectangles within a picture: a picture in a picture, a player's window, a frame with bars of any texture.

A straight side shows as a column (or row) in which the picture steps along a long stretch. The clearest few columns and
rows are paired in every way, and a pair of pairs is as good as its four sides are steps along the whole of their
stretch and end at its corners. What stands on one plain colour is bounded by where the colour ends. The work is the
same for every picture, however many lines it holds.
"""

from dataclasses import dataclass
from operator import sub
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.shapes.dark import spread_dark, spreading

MIN_SIDE: Final = 0.28
"""Shorter rectangles are not looked for: their pictures are too coarse, and chance finds too many."""

_SIDE: Final = 128
"""Lines are looked for at half size; each side found is then moved to the best of the pixels around it."""

_MIN_STEP: Final = 6
"""In grey levels at half size. Less is noise of the encoder."""

_SPREAD: Final = spreading(2)
"""A dark step of three levels is one then; one of two, as in any soft dark ramp, is none."""

_MOST_LINES: Final = 14
_LINE_DISTANCE: Final = 2
_MIN_LINE: Final = 0.45
"""A column takes part where this share of a stretch of `MIN_SIDE` are steps; texture reaches 0.3."""

_FAIR_SUPPORT: Final = 0.6
"""Share of steps along a side from which on it speaks for a rectangle, and below which against it."""

_MIN_SUPPORT: Final = 0.35
_BEYOND: Final = 8
_BEYOND_WEIGHT: Final = 0.3
"""What speaks against a side: that the steps go on for this many pixels beyond its corners, as texture and the lines
within a picture do. Boxes that share three sides with the true one are told from it by that."""

_MIN_SCORE: Final = 0.52
"""More than the half point that the whole frame has. With 0.35 a hundredth more of 848 pictures in pictures full of
lines were found, for half as many boxes again in plain pictures of that kind."""

_BEST_SCORE: Final = 4 * (1 - _FAIR_SUPPORT) + 0.5
_MOST_PLAIN: Final = 12
"""In grey levels at half size: the frame's outermost pixels differ by no more where its surroundings are one colour."""

_LEAST_MARGIN: Final = 6
"""In half-size pixels, of all four margins together: what is left of them otherwise is noise."""

_CONSIDERED: Final = 32
_MOST_TOUCHING: Final = 3
"""Rectangles that touch the frame's edges: one place is left for those that stand free."""

_MIN_DIFFERENCE: Final = 4
"""In half-size pixels, of all four sides together: rectangles that differ less are one."""


@dataclass(frozen=True, slots=True)
class Box:
    """The pixels `[top:bottom, left:right]` of a picture; `score` is higher where its sides are clearer."""

    top: int
    bottom: int
    left: int
    right: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Candidate sides of one direction: `places` (k,) ascending, the frame's own edges first and last.

    `places[i]` is the first pixel behind the step. `sums` (_SIDE + 1, k) counts the steps along each line.
    """

    places: NDArray[np.intp]
    sums: NDArray[np.int32]


def rectangles(gray: NDArray[np.uint8], most: int = 4) -> tuple[Box, ...]:
    """Find up to `most` rectangles of at least 28 % of either side in a gray (256, 256) uint8 picture, best first.

    A rectangle may touch the picture's edges; the whole picture is none.
    """
    half = np.asarray(cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    known = _within_one_colour(half)
    columns, rows = _lines(half)
    if len(columns.places) + len(rows.places) > 4:  # more than the frame's edges
        known = _best(columns, rows, most, known)
    return _refined(gray, known[:most])


def _within_one_colour(half: NDArray[np.uint8]) -> list[tuple[float, list[int]]]:
    # What stands out of surroundings of one colour. Texture as bright as its surroundings makes few steps at its edge.
    low, high = 255, 0
    for edge in (half[0], half[-1], half[:, 0], half[:, -1]):
        low, high = min(low, int(edge.min())), max(high, int(edge.max()))
        if high - low > _MOST_PLAIN:
            return []
    level = (low + high) // 2
    is_plain = cv2.inRange(half, np.array(level - _MOST_PLAIN), np.array(level + _MOST_PLAIN))
    left, top, width, height = cv2.boundingRect(cv2.bitwise_not(is_plain))
    if min(width, height) < _SIDE * MIN_SIDE or width + height > 2 * _SIDE - _LEAST_MARGIN:
        return []
    return [(_BEST_SCORE, [top, top + height, left, left + width])]


def _lines(half: NDArray[np.uint8]) -> tuple[_Lines, _Lines]:
    # The picture and, below it, the picture turned over its diagonal: both directions cost the calls of one. Slices
    # and cv2 throughout: its morphology and numpy's cumsum cost many times as much.
    spread = spread_dark(half, _SPREAD)
    both = cv2.vconcat((spread, cv2.transpose(spread)))
    steps = cv2.absdiff(both[:, 1:], both[:, :-1])
    is_step: NDArray[Any] = cv2.compare(steps, cv2.max(_needed(steps), _LEAST_STEPS), cv2.CMP_GE)
    # Texture steps in every direction, a side only across itself.
    means = cv2.addWeighted(both[:, 1:], 0.5, both[:, :-1], 0.5, 0)
    along = cv2.absdiff(means[1:], means[:-1])
    is_step[1:-1] &= cv2.compare(steps[1:-1], cv2.max(along[1:], along[:-1]), cv2.CMP_GE)
    # A side between two pixels shows in either.
    either = is_step.copy()
    either[:, 1:] = cv2.max(is_step[:, 1:], is_step[:, :-1])
    integral: NDArray[Any] = cv2.integral(np.bitwise_and(either, 1))
    sums: NDArray[Any] = cv2.subtract(integral[:, 1:], integral[:, :-1])
    return _chosen(sums[: _SIDE + 1]), _chosen(sums[_SIDE:])


def _needed(steps: NDArray[Any]) -> NDArray[Any]:
    # The largest of two steps on either side; or several times the largest on the quieter one, if that is less.
    padded = cv2.copyMakeBorder(steps, 0, 0, 2, 2, cv2.BORDER_REPLICATE)
    two = cv2.max(padded[:, 1:], padded[:, :-1])
    before, behind = two[:, :-3], two[:, 3:]
    quiet = cv2.min(before, behind)
    return cv2.min(cv2.max(before, behind), cv2.add(quiet, cv2.add(quiet, quiet)))


_STRETCH: Final = int(_SIDE * MIN_SIDE)
_AROUND_A_LINE: Final = b"\1" * (2 * _LINE_DISTANCE + 1)
_LEAST_STEPS: Final = np.full((2 * _SIDE, _SIDE - 1), _MIN_STEP, dtype=np.uint8)


def _chosen(sums: NDArray[np.int32]) -> _Lines:
    stretches = cv2.subtract(sums[_STRETCH:], sums[:-_STRETCH], dtype=cv2.CV_8U)
    best = np.asarray(cv2.reduce(stretches, 0, cv2.REDUCE_MAX))[0] / _STRETCH
    scores = np.where(best < _MIN_LINE, 0, best + 0.5 / _SIDE * (sums[-1] - sums[0]))
    found: list[int] = []
    near = bytearray(len(scores) + 2 * _LINE_DISTANCE)  # whether a place, counted from -_LINE_DISTANCE, is near a line
    for place in np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > 0)].tolist():
        if near[place + _LINE_DISTANCE]:
            continue
        found.append(place)
        if len(found) == _MOST_LINES:
            break
        near[place : place + len(_AROUND_A_LINE)] = _AROUND_A_LINE
    found.sort()
    return _Lines(
        places=np.array([0, *(place + 1 for place in found), _SIDE], dtype=np.intp),
        sums=sums[:, [0, *found, 0]],
    )


def _best(
    columns: _Lines, rows: _Lines, most: int, kept: list[tuple[float, list[int]]]
) -> list[tuple[float, list[int]]]:
    left, right = _pairs(columns)
    top, bottom = _pairs(rows)
    if not len(left) or not len(top):
        return kept
    beside, beside_least = _supports(columns, rows.places, top, bottom)
    above, above_least = _supports(rows, columns.places, left, right)
    # (pairs of columns, pairs of rows)
    least = np.minimum(
        np.minimum(beside_least[left], beside_least[right]), np.minimum(above_least[top], above_least[bottom]).T
    )
    scores = beside[left] + beside[right] + (above[top] + above[bottom]).T + np.float32(0.5) * least
    # The whole frame has half a point for no side that speaks against it, which is less than any rectangle needs.
    flat = scores.ravel()
    order = np.flatnonzero((flat >= _MIN_SCORE) & (least.ravel() >= _MIN_SUPPORT))
    order = order[np.argpartition(-flat[order], _CONSIDERED)[:_CONSIDERED]] if len(order) > _CONSIDERED else order
    order = order[np.lexsort((order, -flat[order]))]  # equal scores in an order of their own: no chance decides
    across, down = np.unravel_index(order, scores.shape)
    sides = np.stack(
        (rows.places[top[down]], rows.places[bottom[down]], columns.places[left[across]], columns.places[right[across]])
    ).T.tolist()
    touching = 0
    for score, box in zip(flat[order].tolist(), sides, strict=True):
        if len(kept) == most:
            break
        touches = box[0] == 0 or box[2] == 0 or box[1] == _SIDE or box[3] == _SIDE
        if touches and touching == _MOST_TOUCHING:
            continue
        if all(sum(map(abs, map(sub, box, other))) > _MIN_DIFFERENCE for _, other in kept):
            kept = [*kept, (score, box)]
            touching += touches
    return kept


def _pairs(lines: _Lines) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = _PAIRS[len(lines.places)]
    is_wide = lines.places[second] - lines.places[first] >= _SIDE * MIN_SIDE
    return first[is_wide], second[is_wide]


_PAIRS: Final = [np.triu_indices(count, 1) for count in range(_MOST_LINES + 3)]


def _supports(
    lines: _Lines, places: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # Which share of each stretch between two of the places are steps, above the fair one and less what goes on beyond
    # its ends; and the same for the weakest of four sides.
    lengths = (places[ends] - places[starts]).astype(np.float32)
    sums = lines.sums[np.minimum(np.maximum(places + _AROUND, 0), _SIDE)].astype(np.float32).transpose(0, 2, 1)
    least = np.take(sums[2], ends, axis=1) - np.take(sums[2], starts, axis=1)
    least /= lengths
    before = (sums[1] - sums[0]) * np.float32(_BEYOND_PRICE)
    after = (sums[4] - sums[3]) * np.float32(_BEYOND_PRICE) + np.float32(_FAIR_SUPPORT)
    shares = least - np.take(before, starts, axis=1)
    shares -= np.take(after, ends, axis=1)
    # The frame's own edges are neither for nor against a rectangle.
    shares[0] = shares[-1] = 0
    least[0] = least[-1] = 1
    return shares, least


_AROUND: Final = np.array([-1 - _BEYOND, -1, 0, 1, 1 + _BEYOND], dtype=np.intp)[:, None]
_BEYOND_PRICE: Final = _BEYOND_WEIGHT / (2 * _BEYOND)


def _refined(gray: NDArray[np.uint8], found: list[tuple[float, list[int]]]) -> tuple[Box, ...]:
    directions = (gray, np.asarray(cv2.transpose(gray), dtype=np.uint8))
    known: dict[tuple[int, int], int] = {}  # boxes share sides
    boxes = []
    for score, (top, bottom, left, right) in found:
        for direction, place in ((0, top), (0, bottom), (1, left), (1, right)):
            start, end = (top, bottom) if direction else (left, right)
            if (direction, place) not in known:
                known[direction, place] = _best_row(directions[direction][:, 2 * start : 2 * end], 2 * place)
        boxes.append(Box(known[0, top], known[0, bottom], known[1, left], known[1, right], score))
    return tuple(boxes)


def _best_row(lines: NDArray[np.uint8], place: int) -> int:
    # The first row behind the largest step within two rows.
    if place in (0, len(lines)):
        return place
    first = max(0, place - 3)
    around = lines[first : place + 3]
    steps = cv2.reduce(cv2.absdiff(around[1:], around[:-1]), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    return first + 1 + int(np.asarray(steps).argmax())

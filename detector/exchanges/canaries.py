"""Harmless pictures that a row of a list must not match: those that every stream shows sooner or later.

They are drawn here, always the same: fades, bars, chessboards, caption cards, borders, horizons, heads before a wall,
windows on a desktop, soft patches; each in ten versions, as encoders, cameras and screens change them. A row that
matches more than one in a thousand, two versions of one picture, would find it wherever it is shown. What an operator's
negative banks hold is asked likewise.

A row is looked for as streams are looked at: whoever mirrors, turns or inverts a harmless picture before hashing it
finds the picture all the same, in that view of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Plane
from models.hashing.pdq import DCT, DCT_T, MEDIAN_RANK, MIRRORED
from models.hashing.plugins import Plugin
from models.hashing.registry import hash_algorithms
from models.radii import UNGATED

MOST_SHARE: Final = 0.001
"""A row that matches a larger part of the harmless pictures is put into quarantine."""

_PER_FAMILY: Final = 12
_VERSIONS: Final = 10
_SEED: Final = 20261123
_ROWS_AT_ONCE: Final = 128
_PDQ: Final = "pdq"

_AXIS: Final = np.linspace(-1.0, 1.0, PLANE_SIDE)
_X, _Y = np.meshgrid(_AXIS, _AXIS)

Drawing = NDArray[np.float64]


@lru_cache(maxsize=8)
def canary_hashes(algorithm: str) -> NDArray[np.uint8]:
    """The hashes of the drawn pictures, (N, bits / 8) uint8; none of another package's, which may ask for colours."""
    known = hash_algorithms()[algorithm]
    if isinstance(known, Plugin):
        return np.zeros((0, known.bits // 8), np.uint8)
    return np.array([np.frombuffer(known.hash_plane(plane).value, np.uint8) for plane in canary_planes()])


@lru_cache(maxsize=8)
def canary_views(algorithm: str) -> tuple[NDArray[np.uint8], ...]:
    """The hashes of the drawn pictures as they are, and of each view of whole pictures that streams are matched by.

    PDQ's are mirrored, turned and inverted in the spectrum; a bit beside the median may be another than the hash has.
    """
    whole = canary_hashes(algorithm)
    known = hash_algorithms()[algorithm]
    if not len(whole):
        return (whole,)
    if algorithm != _PDQ:
        mirrored = (np.ascontiguousarray(plane[:, ::-1]) for plane in canary_planes())
        return whole, np.array([np.frombuffer(known.hash_plane(plane).value, np.uint8) for plane in mirrored])
    levels = np.array(list(canary_planes())).astype(np.float32)
    upright = DCT @ levels @ DCT_T
    mirror = MIRRORED.reshape(1, -1)
    signs = (np.ones_like(mirror), mirror, mirror.T, mirror * mirror.T)
    views = [side * sign for side in (upright, upright.transpose(0, 2, 1)) for sign in signs]
    views += [-upright, -upright * mirror]
    return (whole, *(_hashes_of(view.reshape(len(view), -1)) for view in views[1:]))


def _hashes_of(coefficients: NDArray[np.float32]) -> NDArray[np.uint8]:
    medians = np.partition(coefficients, MEDIAN_RANK, axis=1)[:, MEDIAN_RANK]
    return np.packbits((coefficients > medians[:, None])[:, ::-1], axis=1)


def canary_planes() -> Iterator[Plane]:
    """The drawn pictures, (64, 64) uint8 each, always the same."""
    draw = np.random.Generator(np.random.PCG64(_SEED))
    for family in _FAMILIES:
        for number in range(_PER_FAMILY):
            drawn = family(draw, number / _PER_FAMILY)
            drawn = (drawn - drawn.min()) / max(float(np.ptp(drawn)), 1e-9)
            for version in range(_VERSIONS):
                yield _version(draw, drawn, version)


def _version(draw: np.random.Generator, drawn: Drawing, number: int) -> Plane:
    """A picture (0 to 1) as it arrives: of another contrast and brightness, softened, moved by a pixel, with noise."""
    changed = np.array(drawn)
    if number % 2:
        changed = (changed + np.roll(changed, 1, 0) + np.roll(changed, 1, 1)) / 3
    if number % 3 == 2:
        changed = np.roll(changed, 1, axis=number % 2)
    bright, contrast = draw.uniform(0.05, 0.2), draw.uniform(0.6, 0.8)
    changed = bright + contrast * changed ** draw.uniform(0.8, 1.25)
    changed += draw.normal(0, 0.004 * (number % 4), changed.shape)
    return np.asarray(np.clip(changed * 255, 0, 255), dtype=np.uint8)


def matching_too_much(rows: NDArray[np.uint8], groups: Sequence[NDArray[np.uint8]], reach: int) -> NDArray[np.bool_]:
    """Which rows (N, bits / 8) match more than `MOST_SHARE` of a group of harmless hashes within `reach` bits, (N,)."""
    words = np.ascontiguousarray(rows).view("<u8")
    found = np.zeros(len(rows), dtype=bool)
    for group in groups:
        harmless = np.asfortranarray(np.ascontiguousarray(group).view("<u8"))  # a word of all is read at once
        most = len(harmless) * MOST_SHARE
        for start in range(0, len(words), _ROWS_AT_ONCE) if len(harmless) else ():
            chunk = words[start : start + _ROWS_AT_ONCE]
            found[start : start + len(chunk)] |= _counts(chunk, harmless, reach) > most
    return found


def _counts(rows: NDArray[np.uint64], harmless: NDArray[np.uint64], reach: int) -> NDArray[np.int64]:
    half = (rows.shape[1] + 1) // 2
    apart = rows[:, 0, None] ^ harmless[None, :, 0]
    near = np.bitwise_count(apart).astype(np.uint8 if half * 64 < 256 else np.uint16, copy=False)
    for word in range(1, half):
        np.bitwise_xor(rows[:, word, None], harmless[None, :, word], out=apart)
        near += np.bitwise_count(apart)
    places, others = np.nonzero(near <= reach)  # of unrelated hashes hardly any gets so far
    rest = np.bitwise_count(rows[places, half:] ^ harmless[others, half:]).sum(axis=1)
    is_near = near[places, others] + rest <= reach
    return np.bincount(places[is_near], minlength=len(rows))


def suspicious(
    rows: Mapping[str, NDArray[np.uint8]], held: Mapping[str, Sequence[NDArray[np.uint8]]]
) -> dict[str, NDArray[np.bool_]]:
    """By signal, which rows match too much: of the drawn pictures, or of the hashes in `held` (negative banks)."""
    return {
        signal: matching_too_much(
            hashes,
            [*canary_views(signal), *held.get(signal, ())],
            UNGATED if signal == _PDQ else hash_algorithms()[signal].max_distance,
        )
        for signal, hashes in rows.items()
        if len(hashes)
    }


def named(names: Iterable[str], most: int = 5) -> str:
    """Some names and how many more there are."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def _fade(draw: np.random.Generator, at: float) -> Drawing:
    angle = 2 * np.pi * at
    return np.asarray(np.cos(angle) * _X + np.sin(angle) * _Y + draw.uniform(0.02, 0.1) * _X * _Y)


def _vignette(draw: np.random.Generator, at: float) -> Drawing:
    x, y = draw.uniform(-0.3, 0.3, 2)
    return np.asarray((-1 if at < 0.5 else 1) * np.hypot(_X - x, (_Y - y) * draw.uniform(0.7, 1.4)))


def _bars(draw: np.random.Generator, at: float) -> Drawing:
    count = 2 + int(at * 16)
    greys = np.linspace(1, 0, count) if draw.random() < 0.5 else draw.random(count)
    bars = greys[np.minimum(((_AXIS + 1) / 2 * count).astype(int), count - 1)]
    lines = np.broadcast_to(bars, (PLANE_SIDE, PLANE_SIDE))
    return np.array(lines if draw.random() < 0.5 else lines.T)


def _board(draw: np.random.Generator, at: float) -> Drawing:
    size, (x, y) = 2 + int(at * 14), draw.integers(0, 8, 2)
    places = np.arange(PLANE_SIDE)
    return np.asarray((places[:, None] + y) // size + (places[None, :] + x) // size, dtype=float) % 2


def _caption(draw: np.random.Generator, at: float) -> Drawing:
    card = np.full((PLANE_SIDE, PLANE_SIDE), draw.uniform(0, 0.3)) + 0.1 * _Y
    top = int(at * 44) + 2
    for line in range(int(draw.integers(1, 5))):
        begin, end = sorted(draw.integers(6, 58, 2))
        row = top + line * 6
        card[row : row + 3, begin : end + 6] += draw.random((len(card[row : row + 3]), len(card[0, begin : end + 6])))
    return card


def _bordered(draw: np.random.Generator, at: float) -> Drawing:
    picture, edge = _patches(draw, at), 4 + int(at * 18)
    if draw.random() < 0.5:
        picture[:edge] = picture[-edge:] = 0
    else:
        picture[:, :edge] = picture[:, -edge:] = 0
    return picture


def _patches(draw: np.random.Generator, at: float) -> Drawing:
    count = 4 + int(at * 8)
    cells, places = draw.random((count, count)), np.linspace(0, count - 1, PLANE_SIDE)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(count)[None, :]))  # linear interpolation
    return np.asarray(weights @ cells @ weights.T)


def _horizon(draw: np.random.Generator, at: float) -> Drawing:
    line = at * 1.2 - 0.6 + draw.uniform(-0.05, 0.05) * _X
    return np.where(line > _Y, 0.8 + 0.2 * _Y, 0.3 + 0.1 * draw.random((PLANE_SIDE, PLANE_SIDE)))


def _head(draw: np.random.Generator, at: float) -> Drawing:
    x, y, size = at - 0.5, draw.uniform(-0.3, 0.1), draw.uniform(0.25, 0.45)
    wall = 0.6 + 0.2 * _X * draw.uniform(-1, 1) + 0.2 * _Y * draw.uniform(-1, 1)
    wall[(np.abs(_X - x) < size * 2) & (size + y < _Y)] = draw.uniform(0.1, 0.5)
    wall[np.hypot((_X - x) / 0.8, _Y - y) < size] = draw.uniform(0.5, 1)
    return wall


def _desktop(draw: np.random.Generator, at: float) -> Drawing:
    screen = np.full((PLANE_SIDE, PLANE_SIDE), draw.uniform(0.2, 0.8)) + 0.1 * _X
    for _ in range(2 + int(at * 4)):
        top, left = draw.integers(0, 40, 2)
        bottom, right = top + draw.integers(10, 30), left + draw.integers(10, 40)
        screen[top:bottom, left:right] = draw.uniform(0.7, 1)
        screen[top : top + 3, left:right] = draw.uniform(0, 0.5)
    return screen


_FAMILIES: Final = (_fade, _vignette, _bars, _board, _caption, _bordered, _patches, _horizon, _head, _desktop)

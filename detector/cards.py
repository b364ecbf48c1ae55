"""Benign pictures for demos, tests and benchmarks, and the scripts that show them one after another.

Only numpy: whoever puts a card on a list needs no decoder.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FILTER_CARDS = ("smptebars", "testsrc", "testsrc2", "mandelbrot", "rgbtestsrc")
"""Cards that FFmpeg's video sources of the same names draw."""

_SHAPES = 28
_MAX_SECONDS = 7 * 86400.0


class ScriptError(ValueError):
    """Raised by `parse_script`: the text is no script; the message says which part and what would be right."""


@dataclass(frozen=True, slots=True)
class Showing:
    """One card, shown for `seconds`."""

    card: str
    seconds: float


def parse_script(text: str) -> tuple[Showing, ...]:
    """Return the showings in `CARD:SECONDS,CARD:SECONDS,...`; raise `ScriptError`."""
    return tuple(_parse_showing(part.strip()) for part in text.split(","))


def synthetic_card(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return the card of `seed` as (height, width, 3) uint8 RGB.

    Overlapping ellipses and boxes on a slope: strong structure at every scale, so that perceptual hashes rate it of
    high quality and hold under re-encoding. The same seed gives the same picture at every size; different seeds give
    pictures that no perceptual hash confuses.
    """
    draw = np.random.default_rng(seed)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, :]
    slope = draw.uniform(-1, 1, 2)
    base = 0.5 + 0.35 * (slope[0] * (x - 0.5) + slope[1] * (y - 0.5))
    picture = np.repeat(base[:, :, None], 3, axis=2) * draw.uniform(90, 255, 3)
    for _ in range(_SHAPES):
        center_x, center_y = draw.uniform(0, 1, 2)
        half_x, half_y = draw.uniform(0.05, 0.24, 2)
        is_box = draw.random() < 0.5
        color = draw.uniform(0, 255, 3)
        across, down = np.abs(x - center_x) / half_x, np.abs(y - center_y) / half_y
        inside = np.maximum(across, down) < 1 if is_box else across**2 + down**2 < 1
        picture[inside] = color
    return np.clip(picture, 0, 255).astype(np.uint8)


def gradient_card(width: int, height: int) -> NDArray[np.uint8]:
    """Return a smooth slope of colour as (height, width, 3) uint8 RGB."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    planes = [255 * x + 0 * y, 255 * y + 0 * x, 127.5 * (2 - x - y)]
    return np.stack(planes, axis=2).astype(np.uint8)


def drawn_card(name: str, width: int, height: int) -> NDArray[np.uint8] | None:
    """Return the numpy card called `name`, or None where FFmpeg draws it."""
    if name == "black":
        return np.zeros((height, width, 3), np.uint8)
    if name == "gradient":
        return gradient_card(width, height)
    if name.startswith("card:"):
        return synthetic_card(int(name.removeprefix("card:")), width, height)
    return None


def _parse_showing(part: str) -> Showing:
    card, colon, seconds_text = part.rpartition(":")
    if not colon:
        raise ScriptError(f"'{part}' is no CARD:SECONDS, as in 'smptebars:3'.")
    seed = card.removeprefix("card:")
    is_seeded = card.startswith("card:") and seed.isascii() and seed.isdigit()
    if not is_seeded and card not in ("black", "gradient", *FILTER_CARDS):
        known = ", ".join(("black", "gradient", "card:SEED", *FILTER_CARDS))
        raise ScriptError(f"no card is called '{card}'; there are {known}.")
    try:
        seconds = float(seconds_text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_SECONDS:
        raise ScriptError(f"'{seconds_text}' is no number of seconds above 0 to show '{card}' for.")
    return Showing(card, seconds)

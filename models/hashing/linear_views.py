"""Views of a frame that are a zoom, a shift or an extension of it along its axes, straight to PDQ's coefficients.

Cutting the edges off a known picture moves every coefficient of its hash. Zooming out again, with the edges repeated to
stand for what was cut off, brings most of them back. Averaging pixels over boxes and the cosine transform are both
matrices, so such a view is `F_y @ gray @ F_x.T` with one small matrix per axis: no picture is made for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE
from models.hashing.pdq import DCT
from models.hashing.spectrum import Spectra

GRAY_SIDE: Final = 128
"""Side of the gray picture that linear views are made of. Twice as fine moves fewer bits than a re-encode does, at four
times the price."""


@dataclass(frozen=True, slots=True)
class LinearView:
    """A view that spans `rows` and `columns` of the frame, each (from, to) in shares of it.

    0 and 1 are the frame's edges; what lies beyond them repeats them.
    """

    name: str
    rows: tuple[float, float]
    columns: tuple[float, float]


def _zoomed_out(name: str, cut: float) -> LinearView:
    # A crop by this share of the side on each side left 1 - 2 * cut of it.
    beyond = cut / (1 - 2 * cut)
    return LinearView(name, (-beyond, 1 + beyond), (-beyond, 1 + beyond))


_WHOLE: Final = (0.0, 1.0)
_ONE_SIDE: Final = 0.09

ZOOM_OUTS: Final = (_zoomed_out("zoom_3", 0.03), _zoomed_out("zoom_6", 0.06), _zoomed_out("zoom_9", 0.095))
"""For pictures that lost about 2-4, 4-8 and 8-11 % of the side on each side."""

EXTENSIONS: Final = (
    LinearView("extend_top", (-_ONE_SIDE, 1.0), _WHOLE),
    LinearView("extend_bottom", (0.0, 1.0 + _ONE_SIDE), _WHOLE),
    LinearView("extend_left", _WHOLE, (-_ONE_SIDE, 1.0)),
    LinearView("extend_right", _WHOLE, (0.0, 1.0 + _ONE_SIDE)),
)
"""For pictures that lost 5-10 % of the side on one side."""


def box_matrix(samples: int, start: float, end: float) -> NDArray[np.float32]:
    """Return the (64, samples) matrix that averages a line of `samples` pixels into 64, each over its own stretch.

    Output i covers `start + (end - start) * i / 64` to `(i + 1) / 64`, in shares of the line; pixels beyond its ends
    are those at its ends.

    Raises:
        ValueError: `end` is not above `start`.
    """
    if not end > start:
        raise ValueError(f"a view spans a stretch of the line, not {start} to {end}")
    bounds = (start + (end - start) * np.arange(PLANE_SIDE + 1) / PLANE_SIDE) * samples
    # The integral up to each bound, as weights of the pixels; the outermost pixels go on for ever.
    lower = np.arange(samples, dtype=np.float64)
    upper = lower + 1.0
    lower[0], upper[-1] = min(bounds[0], 0.0), max(bounds[-1], float(samples))
    covered = np.clip(bounds[:, None], lower, upper) - lower
    steps = np.diff(covered, axis=0)
    return np.asarray(steps / np.diff(bounds)[:, None], dtype=np.float32)


class LinearViews:
    """A fixed set of linear views, ready to be taken of gray pictures of one size."""

    def __init__(self, looks: Sequence[LinearView], *, side: int = GRAY_SIDE) -> None:
        self.names: Final = tuple(look.name for look in looks)
        self._count = len(looks)
        self._side = side
        rows = [DCT @ box_matrix(side, *look.rows) for look in looks]
        columns = [(DCT @ box_matrix(side, *look.columns)).T for look in looks]
        self._rows = np.concatenate(rows).astype(np.float32)
        self._columns = np.ascontiguousarray(np.stack(columns), dtype=np.float32)

    def spectra(self, gray: NDArray[np.float32]) -> Spectra:
        """Return the (views, 16, 16) coefficients of a (side, side) float32 gray picture."""
        return np.asarray((self._rows @ gray).reshape(self._count, -1, self._side) @ self._columns)

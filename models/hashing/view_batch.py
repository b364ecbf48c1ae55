"""All PDQ views of one frame, as arrays: what is looked up in one call."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ViewBatch:
    """V views of one frame; row 0 is the frame as it is, `identity`.

    `names` are the views' names in matches and alerts. `values` (V, 32) uint8 are their PDQ hashes. `deviations`
    (V, 256) float32 are coefficient minus the view's median, in the order of `np.unpackbits(values, axis=1)`: a bit is
    set where its deviation is above 0, and the nearer to 0, the likelier an edit turned it over. `qualities` (V,) int16
    are PDQ's 0-100: a view made of pixels has its own, one computed from the frame's coefficients the frame's.
    `is_stable` (V,) bool as in `Fingerprint`; `passes_shape` (V,) bool tells where a wide limit may be trusted
    (`shape_gate`); `tiers` (V,) int8 how often a view is run (`models.hashing.view_table.Tier`).
    """

    names: tuple[str, ...]
    values: NDArray[np.uint8]
    deviations: NDArray[np.float32]
    qualities: NDArray[np.int16]
    is_stable: NDArray[np.bool_]
    passes_shape: NDArray[np.bool_]
    tiers: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.names)

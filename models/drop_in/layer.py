"""What one description of a model states: values by the keys of a manifest, or why one cannot be honoured."""

import math
from collections.abc import Mapping
from typing import Any, Final

from models.manifest_yaml import Fact, ManifestError

MAX_NUMBER: Final = 1e6
"""No mean, deviation or factor of 8-bit pixels is larger."""

Layer = Mapping[str, Fact | ManifestError]
"""Keys are those of a manifest (`model_info.labels`). An error is raised only if nobody above states the value."""


def three(value: Any) -> list[float] | None:
    """Three finite numbers, from three or from one that stands for all; None for anything else."""
    values = [value] * 3 if _is_number(value) else value
    if isinstance(values, list) and len(values) == 3 and all(map(_is_number, values)):
        return [float(one) for one in values]
    return None


def whole(value: Any) -> int | None:
    """A positive whole number; None for anything else."""
    return value if type(value) is int and 0 < value < 2**31 else None


def number(value: Any) -> float | None:
    """A finite number that a pixel may be scaled by; None for anything else."""
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= MAX_NUMBER and math.isfinite(value)


def indexed(names: Any) -> list[Any] | None:
    """The values of a mapping whose keys are 0, 1, 2... in any order, as numbers or texts; None for anything else."""
    if not isinstance(names, dict) or not names:
        return None
    values = [names.get(str(index), names.get(index)) for index in range(len(names))]
    return None if any(value is None for value in values) else values

"""Models of eight bits for the inference benchmark, as `stopframe models quantise` makes them."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.inference_pictures import Picture, PicturesMissing, pictures, squeezed
from detector.eight_bits import TooMuchLost, make_eight_bits
from models.classifier import ModelError
from models.frame_shape import PICTURE_SIDE
from models.manifest import Manifest
from models.manifest_yaml import ManifestError
from models.quantised import DEFAULT_LIMIT, WIDEST_LIMIT
from models.quantising import CannotQuantise


def eight_bits(models: Mapping[str, Manifest], folder: Path, wanted: str) -> tuple[dict[str, str], dict[str, Any]]:
    """By name, where the model of eight bits lies; and of each what was lost, or the sentence that refused it.

    Of the `wanted` one there is to be one all the same, to be timed: up to the widest limit that can be asked for.
    """
    try:
        shown = calibrating()
    except PicturesMissing as missing:
        return {}, {"all": str(missing)}
    made: dict[str, str] = {}
    told: dict[str, Any] = {}
    for manifest in models.values():
        limits = (DEFAULT_LIMIT, WIDEST_LIMIT) if manifest.name == wanted else (DEFAULT_LIMIT,)
        for limit in limits:
            try:
                drift = make_eight_bits(manifest, shown, folder / manifest.name, limit)
            except (TooMuchLost, CannotQuantise, ManifestError, ModelError) as error:
                told[f"{manifest.name} at {limit:g}"] = str(error)
                continue
            made[manifest.name] = str(folder / manifest.name)
            told[f"{manifest.name} at {limit:g}"] = {
                "frames": drift.frames,
                "largest": round(drift.largest, 4),
                "same_top": round(drift.same_top, 3),
            }
            break
    return made, told


def calibrating() -> list[Picture]:
    """Crops: those of every other picture set the ranges, those of the rest are compared, in turns.

    Raises:
        PicturesMissing: as `pictures`.
    """
    crops = [_crops(picture) for picture in pictures().values()]
    return list(chain.from_iterable(zip(chain(*crops[::2]), chain(*crops[1::2]), strict=False)))


def _crops(picture: Picture) -> list[Picture]:
    height, width = picture.shape[:2]
    parts = [picture]
    for top in (0, height // 3):
        for left in (0, width // 3):
            parts.append(picture[top : top + 2 * height // 3, left : left + 2 * width // 3])  # noqa: PERF401 - plainer
    return [squeezed(part, PICTURE_SIDE, PICTURE_SIDE) for part in parts]

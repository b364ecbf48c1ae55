"""Benign pictures for the inference benchmark: photographs and drawings that scikit-image carries, no people but one.

The package is not imported; its files are read. They are public domain or under CC0, CC-BY and BSD licences, each named
in the package's `data/README.txt`. No threshold or tolerance was chosen on them.
"""

import importlib.metadata
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""

NAMES: Final = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "chessboard_RGB.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "phantom.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)


class PicturesMissing(Exception):
    """Raised by `pictures`: the package is not installed. One sentence with the remedy."""


def pictures() -> dict[str, Picture]:
    """Every picture by its name, at its own size.

    Raises:
        PicturesMissing: scikit-image is not installed, or has none of these files.
    """
    try:
        distribution = importlib.metadata.distribution("scikit-image")
    except importlib.metadata.PackageNotFoundError:
        raise PicturesMissing("scikit-image is not installed; run `make references`") from None
    found = {}
    for name in NAMES:
        read = cv2.imread(str(Path(str(distribution.locate_file("skimage/data"))) / name), cv2.IMREAD_COLOR)
        if read is not None:
            found[Path(name).stem] = np.ascontiguousarray(read[:, :, ::-1], np.uint8)
    if not found:
        raise PicturesMissing("scikit-image holds none of its pictures; install its wheel anew")
    return found


def squeezed(picture: Picture, width: int, height: int) -> Picture:
    """The picture in another size and shape; areas are averaged where it becomes smaller."""
    becomes_smaller = picture.shape[0] > height
    way = cv2.INTER_AREA if becomes_smaller else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)

"""Which models are known by name. A new one is a folder with `model.yaml` beside this file and one line here.

Out of tree: an entry point in the group `stopframe.models` whose object is the path of such a folder.
"""

import importlib.metadata
from pathlib import Path
from typing import Final

ENTRY_POINT_GROUP: Final = "stopframe.models"

_HERE = Path(__file__).resolve().parent

SHIPPED: Final[dict[str, Path]] = {
    "standin-cards": _HERE / "standin-cards",
    "opennsfw": _HERE / "opennsfw",
    "image-safety-s": _HERE / "image-safety-s",
}
"""Folder by name. What ships wins over an entry point of the same name."""


def zoo_names() -> tuple[str, ...]:
    """Every name that `zoo_folder` knows, the shipped ones first."""
    outside = {entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)} - SHIPPED.keys()
    return (*SHIPPED, *sorted(outside))


def zoo_folder(name: str) -> Path:
    """The folder that holds the model's manifest.

    Raises:
        KeyError: No model of that name ships or is installed.
        TypeError: The entry point of that name is no path.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
        folder = entry.load()
        if not isinstance(folder, str | Path):
            raise TypeError(f"the entry point {entry.value} of {ENTRY_POINT_GROUP} is no path of a folder")
        return Path(folder)
    raise KeyError(name)

"""A harmless violation for a real network: a cup of espresso, and the network that knows it (`make references`)."""

import importlib.metadata
from pathlib import Path

from benchmarks.model_cache import cached_model

NETWORK = cached_model("efficientnet-lite0")


def coffee() -> Path:
    """The picture of a cup of coffee that scikit-image carries (600x400, CC0); the package is not imported."""
    return Path(str(importlib.metadata.distribution("scikit-image").locate_file("skimage/data/coffee.png")))


def has_espresso() -> bool:
    """Whether both are on this machine."""
    try:
        return coffee().is_file() and (NETWORK / "model.onnx").is_file()
    except importlib.metadata.PackageNotFoundError:
        return False

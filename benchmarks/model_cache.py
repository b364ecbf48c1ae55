"""Where models that are made or converted for tests and benchmarks are kept, outside the repository."""

import os
from pathlib import Path


def cached_model(name: str) -> Path:
    """The folder of the model `name` in the user's cache, whether it is there or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "stopframe" / name

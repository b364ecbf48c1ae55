"""Which version of Stopframe runs, installed or from its source."""

import functools
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@functools.cache
def product_version() -> str | None:
    """The installed package's version, else that of the checkout that this file lies in; None where neither says it."""
    try:
        return version("stopframe")
    except PackageNotFoundError:
        return source_version()


def source_version() -> str | None:
    """What `pyproject.toml` beside the packages says."""
    try:
        with (Path(__file__).resolve().parent.parent / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        return str(project["version"]) if project["name"] == "stopframe" else None
    except (OSError, ValueError, KeyError):
        return None

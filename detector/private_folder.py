"""Folders that their owner alone opens: whoever comes first makes `state_dir`, be it the service or a command."""

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, each for its owner alone; those that are there stay.

    Raises:
        OSError: It cannot be made.
    """
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)

"""Folders for their owner alone."""

import os
from pathlib import Path

import pytest

from detector.private_folder import make_private


def test_each_folder_that_was_missing_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Who comes first makes `state_dir` for its owner alone, and leaves a folder that was there as it is."""
    before = os.umask(0o002)
    try:
        (tmp_path / "there").mkdir(mode=0o755)
        make_private(tmp_path / "there" / "state" / "banks")
        make_private(tmp_path / "there" / "state" / "banks")
    finally:
        os.umask(before)

    modes = [tmp_path / "there" / name for name in ("", "state", "state/banks")]
    assert [mode.stat().st_mode & 0o777 for mode in modes] == [0o755, 0o700, 0o700]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    """A file where a folder should be is an OSError, as everywhere."""
    (tmp_path / "state").touch()
    with pytest.raises(OSError, match="state"):
        make_private(tmp_path / "state")

"""Folders of arrays: what cannot be written says why."""

import errno
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.arrays import open_arrays, save_arrays

MOST_BYTES = 1 << 20


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    """Arrays longer than one write, of several axes and of none, come back as they were."""
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.arange(20 << 20, dtype=np.uint32).astype(np.uint8).reshape(-1, 32),
        "none": np.zeros((0, 4), np.int32),
    }
    save_arrays(tmp_path / "arrays", arrays, {"form": 1})

    opened = open_arrays(tmp_path / "arrays", {"rows": "uint8", "none": "int32"})

    assert opened.facts == {"form": 1}
    assert all(np.array_equal(opened.arrays[name], array) for name, array in arrays.items())
    assert opened.arrays["none"].shape == (0, 4)


def test_a_file_that_cannot_grow_says_why(tmp_path: Path) -> None:
    """A full disk or a limit is the reason in the error, and not only how many items of an array went in."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            save_arrays(tmp_path / "arrays", {"rows": np.ones(2 * MOST_BYTES, np.uint8)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.errno == errno.EFBIG

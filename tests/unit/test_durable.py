"""Files that are put in another's place: whole or not at all, and nothing beside them."""

import os
from pathlib import Path
from typing import Any

import pytest

from models.durable import replace_synced


def test_a_file_is_put_there_and_replaced(tmp_path: Path) -> None:
    """Whoever opens it reads one content or the other; the mode is the one that is asked for; no draft stays."""
    path = tmp_path / "pointer"
    for content in (b"one", b"another", b""):
        replace_synced(path, content, mode=0o600)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["fsync", "open", "replace"])
def test_what_fails_on_the_way_changes_nothing(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any step leaves the file that was there, alone in its folder."""
    path = tmp_path / "pointer"
    path.write_bytes(b"as it was")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path if what == "replace" else os, what, full)
        with pytest.raises(OSError, match="No space left"):
            replace_synced(path, b"as it was to be")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"as it was", [path])

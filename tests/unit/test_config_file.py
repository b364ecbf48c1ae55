"""The config file on disk: every way in which it is replaced is noticed once, and none in which it is only touched."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.config_file import ConfigFile

Change = Callable[[Path], None]


def _looks(file: ConfigFile, count: int = 2) -> list[bool]:
    return [file.has_changed() for _ in range(count)]


def _rewrite(path: Path) -> None:
    path.write_text("node: two\n")


def _replace(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text("node: two\n")
    fresh.replace(path)


def _replace_with_kept_time(path: Path) -> None:
    status = path.stat()
    _rewrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [_rewrite, _replace, _replace_with_kept_time, _remove])
def test_a_change_counts_once_it_has_settled(tmp_path: Path, change: Change) -> None:
    """Whether rewritten, replaced or removed: the second look that sees the same says so, until it is read."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("node: one\n")
    file = ConfigFile(path)
    assert file.read().config is not None
    assert _looks(file) == [False, False]
    change(path)
    assert _looks(file) == [False, True]
    file.read()
    assert _looks(file) == [False, False]


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """While it grows between two looks it is not read: half a config is a valid config that means something else."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("node: one\n")
    file = ConfigFile(path)
    file.read()
    for number in range(4):
        path.write_text("# written\n" * number)
        assert not file.has_changed()
    assert file.has_changed()


def test_a_switched_symlink_is_a_change(tmp_path: Path) -> None:
    """A mounted ConfigMap: the file is a link into a folder that is a link itself, and that is switched."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stopframe.yaml").write_text(f"node: {name}\n")
    (tmp_path / "..data").symlink_to("v1")
    path = tmp_path / "stopframe.yaml"
    path.symlink_to("..data/stopframe.yaml")
    file = ConfigFile(path)
    file.read()
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert _looks(file) == [False, True]
    config = file.read().config
    assert config is not None
    assert config.node == "v2"


@pytest.mark.parametrize("touch", [os.utime, lambda path: path.chmod(0o600)])
def test_what_leaves_the_content_alone_is_no_change(tmp_path: Path, touch: Change) -> None:
    """A new date, other rights: looked at, and passed over."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("node: one\n")
    file = ConfigFile(path)
    file.read()
    touch(path)
    assert _looks(file, 3) == [False, False, False]


def test_a_secret_that_is_renewed_is_a_change(tmp_path: Path) -> None:
    """The files that the config names are followed like the config itself, also one that was missing at first."""
    path, secret = tmp_path / "stopframe.yaml", tmp_path / "token"
    path.write_text("http: {token: {file: token}}\n")
    file = ConfigFile(path)
    assert file.read().config is None
    secret.write_text("a" * 40 + "\n")
    secret.chmod(0o600)
    assert _looks(file) == [False, True]
    first = file.read().config
    secret.write_text("b" * 40 + "\n")
    assert _looks(file) == [False, True]
    second = file.read().config
    assert first is not None
    assert second is not None
    assert first.http.token is not None
    assert second.http.token is not None
    assert (first.http.token.reveal(), second.http.token.reveal()) == ("a" * 40, "b" * 40)
    assert first != second


def test_a_pipe_in_the_place_of_the_file_holds_nobody_up(tmp_path: Path) -> None:
    """Opening it would wait for a writer for ever; it is a fault, and a file that comes back is read again."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("node: one\n")
    file = ConfigFile(path)
    file.read()
    path.unlink()
    os.mkfifo(path)
    assert _looks(file) == [False, True]
    assert "is no regular file" in file.read().faults[0].message
    path.unlink()
    path.write_text("node: two\n")
    assert _looks(file) == [False, True]
    assert file.read().config is not None


def test_a_folder_that_was_closed_is_a_fault_and_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without its x bit or a mount that went stale: nothing can be seen, which reading tells."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("node: one\n")
    file = ConfigFile(path)
    file.read()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert _looks(file) == [False, True]
    assert "cannot be read (Permission denied)" in str(file.read().faults[0])
    assert _looks(file) == [False, False]

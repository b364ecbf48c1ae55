"""Files that a crash or a power cut leaves as they were or as they were to be, never in between."""

import os
from pathlib import Path
from typing import BinaryIO


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until its bytes are on disk (its name is not: see `sync_folder`)."""
    with path.open("wb") as file:
        _write_through(file, content)


def replace_synced(path: Path, content: bytes, *, mode: int = 0o666, draft_prefix: str = ".") -> None:
    """Put a file there, or another in its place, in one step that is on disk when this returns.

    `mode` is that of a new file, before the umask. Only a crash leaves a draft behind, whose name begins with
    `draft_prefix`. Raises OSError; then nothing has changed.
    """
    draft = path.with_name(f"{draft_prefix}{path.name}-{os.urandom(4).hex()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            _write_through(file, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_through(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())

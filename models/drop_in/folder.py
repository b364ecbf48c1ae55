"""Reads files inside one folder and nowhere else: no links, no pipes, nothing larger than the caller allows."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from models.manifest_yaml import ManifestError

MAX_ENTRIES: Final = 10_000
"""A folder with more entries is no model's folder."""


class Folder:
    """A folder whose content nobody vouches for. The path of the folder itself is the operator's and may hold links."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is an entry of that relative name, whatever it is: a link counts, and is refused when read."""
        return os.path.lexists(self.path / name)

    def names(self, below: str = "") -> tuple[str, ...]:
        """Names in the folder, or in its sub-folder `below`; none where that is no folder of its own.

        Raises:
            ManifestError: It cannot be read, or holds more than 10,000 entries.
        """
        where = self.path / below
        if below and (where.is_symlink() or not where.is_dir()):
            return ()
        found: list[str] = []
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    if len(found) >= MAX_ENTRIES:
                        raise ManifestError(
                            where, None, f"holds more than {MAX_ENTRIES} files; keep one model in a folder"
                        )
                    found.append(entry.name)
        except OSError as error:
            raise ManifestError(where, None, f"cannot be read ({error.strerror}); check its permissions") from None
        return tuple(sorted(found))

    def read(self, name: str, limit_bytes: int) -> bytes:
        """The whole content of the file `name`, which may lie in sub-folders.

        Raises:
            ManifestError: It is missing, too large, no plain file, or a link of either kind.
        """
        path = self.path / name
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise ManifestError(path, None, "lies outside the model's folder; put the file into it")
        try:
            with _opened(self.path, parts) as descriptor:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ManifestError(path, None, "is no plain file; put the file itself there")
                if status.st_nlink > 1:
                    # Which other names it has cannot be known: one of them may be a secret of this machine.
                    raise ManifestError(path, None, "has a second name (hard link); put a copy there (`cp`)")
                if status.st_size > limit_bytes:
                    raise ManifestError(path, None, f"is larger than {limit_bytes} bytes; it is no file of a model")
                with os.fdopen(os.dup(descriptor), "rb") as file:
                    content = file.read(limit_bytes + 1)
        except OSError as error:
            raise ManifestError(path, None, _why(path, error)) from None
        if len(content) > limit_bytes:
            raise ManifestError(path, None, f"is larger than {limit_bytes} bytes; it is no file of a model")
        return content

    def read_text(self, name: str, limit_bytes: int) -> str:
        """The file `name` as UTF-8 text.

        Raises:
            ManifestError: As `read`, or it is no UTF-8 text.
        """
        try:
            return self.read(name, limit_bytes).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ManifestError(self.path / name, None, "is not UTF-8 text; save it as UTF-8") from None


@contextmanager
def _opened(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the file, reached step by step, so that no step follows a link."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            # O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
            flags = os.O_NONBLOCK if is_last else os.O_DIRECTORY
            following = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def _why(path: Path, error: OSError) -> str:
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return "is or lies behind a symbolic link; put a copy there (`cp -L`)"
    if error.errno == errno.ENOENT:
        return f"is missing; put {path.name} there"
    return f"cannot be read ({error.strerror}); check its permissions"

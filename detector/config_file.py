"""The config file that a service runs from, as it changes on disk: rewritten, replaced, behind a switched link."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from detector.config.document import MAX_BYTES
from detector.config.faults import Fault
from detector.config.loading import Reading, read_file

_Stamp = tuple[int, int, int, int, int]


class ConfigFile:
    """A config file and the secret files that it names. Synchronous: a mount that hangs hangs who looks here.

    `environment` is where `${NAME}` is looked up, by default the process's own.
    """

    def __init__(self, path: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.path = path.absolute()
        self._shown = path
        self._environment = environment
        self._files: tuple[Path, ...] = (self.path,)
        self._stamps: dict[Path, _Stamp | None] = {}
        self._unsettled: dict[Path, _Stamp | None] | None = None
        self._digest = b""
        self._is_regular = True

    def read(self) -> Reading:
        """Read it; `has_changed` counts from here."""
        if self._stamps and self._is_regular and _is_regular(self.path) is False:
            self._note()  # opening a pipe that took its place would wait for ever
            what = "is no regular file any more; put the config back there"
            return Reading(None, (Fault(str(self._shown), 1, "(file)", what),))
        for _ in range(2):
            # Noted before it is read: what changes meanwhile is read once more.
            self._note()
            reading = read_file(self._shown, environment=self._environment)
            files = (self.path, *sorted(reading.secret_files))
            if files == self._files:
                break
            self._files = files
        return reading

    def has_changed(self) -> bool:
        """Whether another content stands there than was read, and has for two looks: a file is not written at once."""
        stamps = _look(self._files)
        if stamps == self._stamps:
            self._unsettled = None
            return False
        if stamps != self._unsettled:
            self._unsettled = stamps
            return False
        if _digest(self._files) == self._digest:
            self._stamps = stamps
            return False
        return True

    def _note(self) -> None:
        self._stamps = _look(self._files)
        self._digest = _digest(self._files)
        self._is_regular = _is_regular(self.path) is True


def _look(files: tuple[Path, ...]) -> dict[Path, _Stamp | None]:
    return {file: _stamp(file) for file in files}


def _is_regular(file: Path) -> bool | None:
    """None where nothing can be seen: no file, a folder that was closed, links in a circle, a mount that is gone."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (OSError, ValueError):
        return None


def _stamp(file: Path) -> _Stamp | None:
    """What changes with a file or what its links lead to; None where nothing can be seen."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # a name that no file can have is a fault, which reading tells
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _digest(files: tuple[Path, ...]) -> bytes:
    whole = hashlib.sha256()
    for file in files:
        content = _content(file)
        whole.update(b"-" if content is None else hashlib.sha256(content).digest())
    return whole.digest()


def _content(file: Path) -> bytes | None:
    """Its first bytes; None where there is no regular file. Never waits for who writes into a pipe."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)

"""What a disk or a file did, as errors that name the remedy."""

import errno
import sqlite3
from pathlib import Path
from typing import Final

_REMEDIES: Final = {
    "SQLITE_FULL": "the disk is full: free space where state_dir lies",
    "SQLITE_CORRUPT": "the file is damaged: move it away, keep it for repair with `sqlite3 FILE .recover`, and restart",
    "SQLITE_NOTADB": "the file is no SQLite database: move it away and restart",
    "SQLITE_READONLY": "the file cannot be written: give the service's user write access to state_dir",
    "SQLITE_CANTOPEN": "the file cannot be opened: check that state_dir exists and belongs to the service's user",
    "SQLITE_BUSY": "another process holds the file: end the other service that uses this state_dir",
    "SQLITE_LOCKED": "another process holds the file: end the other service that uses this state_dir",
    "SQLITE_IOERR": "the disk reports an error: check it and its mount",
}

_NEED_SOMEBODY: Final = frozenset({"SQLITE_READONLY", "SQLITE_CANTOPEN"})
"""What only whoever set the service up can mend: at the start better said at once than in health."""


class StoreUnavailable(Exception):
    """Raised by the database when the disk did not take or give a row.

    Nothing of a refused write is in the file; one that the disk did not answer in time may still get there.
    """


class StoreRefused(StoreUnavailable):
    """As `StoreUnavailable`, of a file that neither time nor space makes usable: permissions, or a newer version's."""


def named_fault(error: BaseException, path: Path) -> BaseException:
    """Turn what the disk did into `StoreUnavailable` with a remedy; leave mistakes of the caller as they are."""
    if isinstance(error, OSError):
        may_pass = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}
        kind = StoreUnavailable if may_pass else StoreRefused
        remedy = "free space where state_dir lies" if may_pass else "check state_dir and its permissions"
        return kind(f"{path} cannot be used ({error.strerror}): {remedy}")
    if not isinstance(error, sqlite3.Error) or isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        return error
    name = getattr(error, "sqlite_errorname", None) or "SQLITE_IOERR"
    if name == "SQLITE_ERROR":  # a faulty statement is a bug, not a state of the disk
        return error
    primary = "_".join(name.split("_")[:2])  # extended codes carry a suffix: SQLITE_IOERR_WRITE
    remedy = _REMEDIES.get(primary, f"SQLite says {error}")
    kind = StoreRefused if primary in _NEED_SOMEBODY else StoreUnavailable
    return kind(f"{path.name} cannot be used: {remedy}")

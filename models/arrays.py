"""Folders of plain arrays: `.npy` files beside a `manifest.json` with the SHA-256 of each. No pickle, ever.

Written once and never changed; read by memory map, so that every process of a machine shares one copy.
"""

import hashlib
import json
import mmap  # noqa: F401 - numpy imports it with the first map it makes; a process in a cage could not then
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from models.durable import sync_folder, write_synced

MANIFEST: Final = "manifest.json"

_MOST_MANIFEST_BYTES: Final = 1 << 20
"""A manifest lists a handful of files; what is larger was not written here."""


class IndexCorrupt(Exception):
    """Raised when a folder of arrays is not what its manifest says. Nothing was loaded."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(
            f"{folder}: {what}; import the list again when the bank's folder is moved away, or restore the folder from "
            "a backup"
        )
        self.folder = folder


@dataclass(frozen=True, slots=True)
class ArrayFolder:
    """An opened folder: the `facts` of its manifest, and its arrays by name, read-only and memory-mapped."""

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class _Writer:
    """Numpy writes past a file's own `write` where it knows the type of the file, and then tells not why it failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.write: Final = file.write


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write the arrays and their manifest to a new folder, and wait until they are on disk.

    Raises:
        FileExistsError: The folder exists; arrays are never changed in place.
    """
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(_Writer(file), np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    write_synced(folder / MANIFEST, json.dumps({"facts": dict(facts), "files": files}, indent=1).encode())
    sync_folder(folder)


def open_arrays(
    folder: Path, dtypes: Mapping[str, str], *, optional: Collection[str] = (), is_verified: bool = True
) -> ArrayFolder:
    """Open a folder that must hold exactly the arrays named in `dtypes`, each of its dtype and of its recorded bytes.

    Those in `optional` may be absent: earlier releases did not write them. Not `is_verified`: the bytes are not read
    and only their number is checked, for who adds to what others verify.

    Raises:
        FileNotFoundError: There is no such folder.
        IndexCorrupt: A file is missing, changed or of another type than its place demands.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist")
    manifest = _read_manifest(folder)
    files = manifest["files"]
    if not set(dtypes) - set(optional) <= set(files) <= set(dtypes):
        raise IndexCorrupt(folder, f"its manifest lists {sorted(files)}, expected {sorted(dtypes)}")
    arrays = {
        name: _open_array(folder, name, dtypes[name], recorded, is_verified=is_verified)
        for name, recorded in files.items()
    }
    return ArrayFolder(facts=manifest["facts"], arrays=arrays)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MOST_MANIFEST_BYTES:
            raise IndexCorrupt(folder, f"its {MANIFEST} is longer than any that is written here")
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise IndexCorrupt(folder, f"its {MANIFEST} is missing") from None
    except (ValueError, RecursionError):
        raise IndexCorrupt(folder, f"its {MANIFEST} is no JSON") from None
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(key), dict) for key in ("facts", "files")):
        raise IndexCorrupt(folder, f"its {MANIFEST} lacks `facts` or `files`")
    return manifest


def _open_array(folder: Path, name: str, dtype: str, recorded: object, *, is_verified: bool) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    if not isinstance(recorded, dict) or not isinstance(recorded.get("sha256"), str):
        raise IndexCorrupt(folder, f"its {MANIFEST} has no sha256 of {path.name}")
    try:
        if path.stat().st_size != recorded.get("bytes") or (is_verified and _sha256(path) != recorded["sha256"]):
            raise IndexCorrupt(folder, f"{path.name} is not the file that was written")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise IndexCorrupt(folder, f"{path.name} is missing") from None
    except ValueError:
        raise IndexCorrupt(folder, f"{path.name} is no plain array") from None
    if array.dtype != np.dtype(dtype):
        raise IndexCorrupt(folder, f"{path.name} holds {array.dtype}, expected {dtype}")
    # A plain view: numpy's memmap subclass makes every small slice several times slower.
    return np.asarray(array)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Where TensorRT keeps what it compiled: a folder of this user's own for each model, runtime and GPU.

Such a file is code for the GPU that nobody can verify, so nothing but the process that owns the GPU writes there, and
what was compiled for another model, runtime, driver or GPU is never read.
"""

import hashlib
import importlib.metadata
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from models.providers import is_installed

ENGINES_FOLDER: Final = "engines"
_PRIVATE: Final = 0o700
_DRIVER: Final = Path("/proc/driver/nvidia")
_RUNTIME: Final = "onnxruntime-gpu"


class EnginesRefused(Exception):
    """Raised by `engines_for`: the folder is not this user's alone; one sentence with the remedy."""


def engines_for(root: Path, model_sha256: str, gpu: str) -> Path:
    """The folder for a model on this GPU, made where it is missing. `root` is the service's own, in its `state_dir`.

    Raises:
        EnginesRefused: The folder is a link, somebody else's, or open to others.
        OSError: It cannot be made.
    """
    folder = root / engines_key(model_sha256, gpu)
    for one in (root, folder):
        one.mkdir(mode=_PRIVATE, exist_ok=True)
        found = one.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise EnginesRefused(f"{one} is not a folder of this user alone; remove it, it is made anew")
    return folder


def engines_key(model_sha256: str, gpu: str, runtime: str | None = None) -> str:
    """The folder's name: it changes with the model's file, the runtime's version, the GPU and its driver."""
    runtime = runtime if runtime is not None else _runtime_version()
    return hashlib.sha256(f"{model_sha256}\n{runtime}\n{gpu}".encode()).hexdigest()[:40]


def forget_others(root: Path, kept: Iterable[Path]) -> None:
    """Remove what was compiled for models, runtimes and GPUs that are not in use any more."""
    names = {folder.name for folder in kept}
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name not in names and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def gpu_in_words(driver: Path = _DRIVER) -> str:
    """The first GPU's make and its driver's version, as the driver tells them; empty where there is none."""
    try:
        cards = sorted((driver / "gpus").iterdir())
        told = (cards[0] / "information").read_text() if cards else ""
        version = (driver / "version").read_text().partition("\n")[0]
    except OSError:
        return ""
    models = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("Model:")]
    return f"{models[0]}, {' '.join(version.split())}" if models else ""


def _runtime_version() -> str:
    return importlib.metadata.version(_RUNTIME) if is_installed(_RUNTIME) else ""

"""The process of `watched_files`, from outside: errands in, what they cost out."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from benchmarks.watched_files import Account, Errand
from models.bank_store import add_entries

BANK_ROWS: Final = 1_000_000

_STOP_SECONDS = 20.0
_ROOT = Path(__file__).resolve().parents[1]


class WatchFailed(RuntimeError):
    """Raised where a file was not watched to its end."""


class FileWatcher:
    """`with FileWatcher(folder) as watcher`: against a bank of `rows`, with `models` (YAML) or hashes alone."""

    def __init__(self, folder: Path, rows: int = BANK_ROWS, *, models: str = "[]") -> None:
        self._folder = folder
        self._rows = rows
        self._models = models
        self._state = folder / "state"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        fill_large_bank(self._state, self._rows)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watched_files"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def watch(self, paths: Sequence[Path], sampling: str, *, speed: float, matching: str = "{}") -> Account:
        """Watch files under sections `sampling` and `matching` (YAML, one line each); raises `WatchFailed`."""
        config = self._folder / "stopframe.yaml"
        config.write_text(
            f"state_dir: {self._state}\nmodels: {self._models}\nreader: {{cpu_limit: 100%}}\n"
            f"sampling: {sampling}\nmatching: {matching}\n"
        )
        errand = Errand(str(config), [str(path) for path in paths], speed)
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(errand)) + "\n")
            self._process.stdin.flush()
            account = Account(**json.loads(self._process.stdout.readline()))
        except (BrokenPipeError, ValueError):
            raise WatchFailed("the process that watches files ended") from None
        if account.ends != {"end_of_stream": len(paths)}:
            raise WatchFailed(f"readers did not read to the end: {account.ends}")
        return account


def fill_large_bank(state_dir: Path, rows: int = BANK_ROWS) -> None:
    """Make a bank of random hashes, which no clip matches."""
    banks = state_dir / "banks"
    banks.mkdir(mode=0o700, parents=True)
    hashes = np.random.default_rng(1).integers(0, 256, (rows, 32), dtype=np.uint8)
    add_entries(banks / "LARGE", hashes, [f"entry-{number}" for number in range(rows)])

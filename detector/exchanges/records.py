"""What is written down of each list: with its bank, where that comes from; beside the banks, how the last try went.

`banks/<BANK>/source.json` goes when the bank goes, so that a bank that was removed is filled anew.
`exchanges/<NAME>.json` is for people and for the schedule. Both are replaced whole, in one step.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum, unique
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from detector.exchanges.changes import DayChange
from detector.exchanges.client import Checkpoint
from detector.exchanges.kinds import ExchangeKind
from detector.private_folder import make_private
from models.durable import replace_synced

SOURCE: Final = "source.json"
STATES_FOLDER: Final = "exchanges"

_MOST_BYTES: Final = 64 << 10


@unique
class Outcome(StrEnum):
    """What a sync came to; the values are labels of metrics."""

    SYNCED = "synced"
    FAILED = "failed"
    REFUSED = "refused"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a bank's rows come from. `usual` is how much came and went on the last days that changed anything.

    `version` is what the list in force is called; it is written before a list comes into force, the checkpoint after.
    `place` tells one server of an exchange from another: a checkpoint is of one of them alone. The bank has been that
    one's since `since` (Unix time).
    """

    exchange: str
    kind: str
    collection: str = ""
    checkpoint: Checkpoint | None = None
    usual: tuple[DayChange, ...] = ()
    version: str = ""
    place: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class SyncState:
    """How an exchange's last sync went; times are Unix seconds, 0 for never.

    `came` and `went` are what a refused sync would have changed, which `stopframe lists accept` takes over. `rows` is
    what the bank held after the last good one; `totals` count hashes over all of them.
    """

    exchange: str
    bank: str
    outcome: str = ""
    sentence: str = ""
    tried_at: float = 0.0
    fresh_at: float = 0.0
    retry_at: float = 0.0
    version: str = ""
    rows: int = 0
    came: int = 0
    went: int = 0
    added: int = 0
    changed: int = 0
    withdrawn: int = 0
    bad: int = 0
    quarantined: int = 0
    failures: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def waits_for_word(self) -> bool:
        """Whether somebody has to accept what came; also where it could not be had again since."""
        return self.came + self.went > 0

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """What `asdict` gave; raises TypeError or ValueError where it is none."""
        kinds = {one.name: one.type for one in fields(cls)}
        values = {name: value for name, value in raw.items() if name in kinds}
        casts: dict[Any, Callable[[Any], Any]] = {float: float, int: int, str: str}
        return cls(**{name: casts.get(kinds[name], dict)(value) for name, value in values.items()})


def place_of(kind: ExchangeKind, url: str) -> str:
    """One server of an exchange in words that give nothing of its URL away; an own list may lie anywhere."""
    if kind in (ExchangeKind.FILE, ExchangeKind.HTTPS):
        return ""
    parts = urlsplit(url)
    path = "" if kind is ExchangeKind.THREATEXCHANGE else parts.path.rstrip("/")  # a version is no other server
    return hashlib.sha256(f"{parts.scheme}://{parts.netloc}{path}".encode()).hexdigest()[:16]


def read_source(bank_dir: Path) -> Source | None:
    """Where a bank comes from; None where it is nobody's list, or where the record is none: then all is fetched."""
    raw = _read(bank_dir / SOURCE)
    try:
        if raw is None or not isinstance(raw["exchange"], str):
            return None
        told = raw.get("checkpoint")
        checkpoint = (
            Checkpoint(str(told["position"]), str(told["version"]), float(told["at_seconds"])) if told else None
        )
        usual = tuple((int(day), int(came), int(went)) for day, came, went in raw.get("usual", ()))
        collection, version, place = (str(raw.get(name, "")) for name in ("collection", "version", "place"))
        since = float(raw.get("since", 0.0))
        return Source(raw["exchange"], str(raw["kind"]), collection, checkpoint, usual, version, place, since)
    except (KeyError, TypeError, ValueError):
        return None


def write_source(bank_dir: Path, source: Source) -> None:
    """Replace a bank's record. Raises OSError."""
    _write(bank_dir / SOURCE, asdict(source))


def read_state(state_dir: Path, name: str) -> SyncState | None:
    """How the last sync went; None where there was none."""
    raw = _read(_state_path(state_dir, name))
    try:
        return None if raw is None else SyncState.of(raw)
    except (KeyError, TypeError, ValueError):
        return None


def write_state(state_dir: Path, state: SyncState) -> None:
    """Replace it. Raises OSError."""
    path = _state_path(state_dir, state.exchange)
    make_private(path.parent)
    _write(path, asdict(state))


@contextlib.contextmanager
def turn(state_dir: Path, name: str) -> Iterator[bool]:
    """One sync of an exchange at a time, whoever asks; gives False where another has its turn. It ends with us."""
    folder = state_dir / STATES_FOLDER
    make_private(folder)
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _state_path(state_dir: Path, name: str) -> Path:
    return state_dir / STATES_FOLDER / f"{name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    replace_synced(path, json.dumps(content, ensure_ascii=False).encode())

"""What HMA's look-ups find in our banks: its limit, its content ids, its enabled ratio and coin flip.

HMA is facebook/ThreatExchange's hasher-matcher-actioner. What is answered follows its `blueprints/matching.py` and
`storage/interface.py`, and the PDQ index of python-threatexchange (`signal_type/pdq/pdq_utils.py`: up to 31 bits).
"""

import hashlib
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.config.banks import BankKind, BankSection
from detector.config.config import Config
from detector.events import Step
from models.annotations import NO_NOTE
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, bank_names, open_bank
from models.banks import Bank
from models.evidence import Opinion
from models.generations import POINTER
from models.shelves import NotRead, Trust

PDQ: Final = "pdq"
"""The one signal type that is served: HMA knows no other perceptual hash of pictures by default."""

PDQ_BITS: Final = 256
MOST_BITS: Final = 31
"""`PDQ_CONFIDENT_MATCH_THRESHOLD`: a client of HMA counts on it, whatever a bank's own limit is for streams."""

STALE_SECONDS: Final = 65.0
"""HMA's default for `INDEX_CACHE_MAX_STALE_SEC`."""

_LOOK_SECONDS: Final = 0.5
_MOST_ROWS: Final = 10_000
"""Rows of one bank that an answer is made of, the nearest: one hash may stand a million times in a careless list."""

_ID_BITS: Final = 53
"""What every JSON reader holds exactly."""


def content_id(bank: str, entry: str) -> int:
    """The number by which HMA's clients know an entry: 53 bits of its name's hash, the same on every node for ever.

    Among ten million entries the chance that any two share a number is one in 180.
    """
    digest = hashlib.blake2b(entry.encode(), digest_size=8, key=bank.encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> (64 - _ID_BITS)


def coin(seed: str | None) -> float:
    """HMA's flip, 0 or more and less than 1: `random.Random(seed).random()`, by chance where there is no seed."""
    return random.Random(seed).random()  # noqa: S311 - a client with a seed counts on this very number


def enabled_ratio(section: BankSection, now_seconds: float) -> float:
    """`matching_enabled_ratio`, as HMA has it: 0 for a bank that may do nothing, or nothing that anybody notices."""
    until = section.disabled_until_seconds
    is_quiet = section.step <= Step.SHADOW or (until is not None and now_seconds < until)
    return 0.0 if is_quiet else section.ratio.ratio


@dataclass(frozen=True, slots=True)
class Found:
    """An entry within reach. `is_enabled`: it may act; HMA's raw look-ups alone show what may not."""

    bank: str
    entry: str
    distance: int
    is_enabled: bool

    @property
    def content_id(self) -> int:
        """As `content_id`."""
        return content_id(self.bank, self.entry)


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """HMA's index of one signal type: how many hashes, and when the newest came (Unix seconds, -1 for none)."""

    size: int
    built_to: int
    is_loaded: bool
    is_stale: bool


@dataclass(slots=True)
class _Held:
    """One bank as it was last opened, and since when what is on disk is another."""

    bank: Bank | None = None
    state: tuple[int, int] = (0, 0)
    changed_at: float = 0.0
    waits_since: float | None = None


@dataclass(slots=True)
class HmaBanks:
    """The banks of one folder, memory-mapped. For one thread alone: every method may read files.

    `sound_bases` tells which long lists another process has read and found sound (`detector.banks.readings`): no others
    are opened here, so that no look-up waits for seconds.
    """

    folder: Path
    config: Callable[[], Config]
    sound_bases: Callable[[], Iterable[str]] = tuple
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    _held: dict[str, _Held] = field(default_factory=dict)
    _looked_at: float = float("-inf")

    def ratios(self) -> Mapping[str, float]:
        """Every bank that a client may see, with its enabled ratio."""
        self._look()
        now, config = self.wall_clock(), self.config()
        return {name: enabled_ratio(config.bank(name), now) for name in self._positive()}

    def status(self) -> IndexStatus:
        """How much is indexed, and whether it is what is on disk."""
        self._look()
        held = [self._held[name] for name in self._positive()]
        banks = [one.bank for one in held if one.bank is not None]
        since = [one.waits_since for one in held if one.waits_since is not None]
        return IndexStatus(
            size=sum(bank.rows_of(PDQ) for bank in banks),
            built_to=max((int(one.changed_at) for one in held), default=-1),
            is_loaded=len(banks) == len(held),
            is_stale=any(self.clock() - one > STALE_SECONDS for one in since),
        )

    def find(self, value: bytes, banks: Collection[str] | None = None) -> list[Found]:
        """Every entry whose hash lies within 31 bits, the nearest of each first; those that may not act as well.

        Rows that show a part of their picture are passed over: HMA has none such. What a negative entry, or bank, is as
        near to may not act.
        """
        self._look()
        now = self.wall_clock()
        names = [name for name in self._positive() if banks is None or name in banks]
        found = [one for name in names for one in self._in_bank(name, value, now)]
        enabled = [one.distance for one in found if one.is_enabled]
        harmless = self._nearest_harmless(value, max(enabled), now) if enabled else MOST_BITS + 1
        judged = [
            Found(one.bank, one.entry, one.distance, is_enabled=False) if one.distance >= harmless else one
            for one in found
        ]
        return sorted(judged, key=lambda one: (one.distance, one.bank, one.entry))

    def _in_bank(self, name: str, value: bytes, now: float) -> list[Found]:
        bank = self._held[name].bank
        near = None if bank is None else bank.near(PDQ)
        if bank is None or near is None:
            return []
        numbers, distances = near.search_all([value], MOST_BITS)[0]
        rows = near.rows_at(numbers[:_MOST_ROWS])
        nearest: dict[str, Found] = {}
        for number, (entry, distance) in enumerate(zip(rows.names, distances[:_MOST_ROWS].tolist(), strict=True)):
            if rows.shows_window(number):
                continue
            note = bank.notes.get(entry, NO_NOTE)
            acts = rows.opinion(number) is Opinion.POSITIVE and not note.quarantined and not note.is_disabled(now)
            before = nearest.get(entry)
            if before is None or (acts and not before.is_enabled):
                nearest[entry] = Found(name, entry, distance, is_enabled=acts)
        return list(nearest.values())

    def _nearest_harmless(self, value: bytes, radius: int, now: float) -> int:
        values: NDArray[np.uint8] = np.frombuffer(value, np.uint8).reshape(1, -1)
        found = radius + 1
        for name, held in self._held.items():
            if held.bank is None:
                continue
            section = self.config().bank(name)
            is_negative = section.kind is BankKind.NEGATIVE
            until = section.disabled_until_seconds
            if is_negative and (until is None or now >= until):
                found = min(found, int(held.bank.nearest(PDQ, values, radius, now)[0]))
            elif not is_negative:
                found = min(found, int(held.bank.nearest_negative(PDQ, values, radius, now)[0]))
        return found

    def _positive(self) -> list[str]:
        config = self.config()
        return [name for name in self._held if config.bank(name).kind is BankKind.POSITIVE]

    def _look(self) -> None:
        """Take up what changed on disk; a bank that cannot be opened stays as it was."""
        now = self.clock()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        names = bank_names(self.folder)
        for gone in self._held.keys() - set(names):
            del self._held[gone]
        for name in names:
            self._take_up(name, self._held.setdefault(name, _Held()), now)

    def _take_up(self, name: str, held: _Held, now: float) -> None:
        try:
            status = (self.folder / name / POINTER).stat()
            state = (status.st_ino, status.st_mtime_ns)
            if state == held.state:
                return
            bank = open_bank(self.folder / name, Trust(frozenset(self.sound_bases()), has_no_time=True))
        except (NotRead, IndexCorrupt, BankMissing, OSError):  # the service's own care of banks says which and why
            held.waits_since = now if held.waits_since is None else held.waits_since
            return
        held.bank, held.state, held.changed_at, held.waits_since = bank, state, status.st_mtime, None

"""What banks hold that is like a file, and why each view of it did or did not match."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.banks.budget import BudgetWatch
from detector.banks.files import Spacing, picture_of, plane_of
from detector.config.banks import BankKind
from detector.config.config import Config
from models.arrays import IndexCorrupt
from models.bank_store import INCIDENT_BANK
from models.banks import Bank, BankLimits, Beside, Negatives
from models.explaining import Reason, ViewVerdict
from models.gate import has_colour_detail, low_information
from models.generations import own_radius, read_pointer
from models.hashing.pdq import Pdq
from models.hashing.plugins import PluginFailed
from models.hashing.registry import hash_algorithms
from models.hashing.view_batch import ViewBatch
from models.hashing.viewing import Viewer
from models.hashing.views import EVERY_TIER, named_fingerprints, views
from models.matching import PDQ
from models.naming import ViewHash
from models.radii import counted_rows
from models.shelves import Base, Shelf
from streams.frame import Frame


@dataclass(frozen=True, slots=True)
class Explained:
    """What one bank came to for the frame of a file that came nearest to it, seen at `time_seconds` of the file.

    `views` hold one verdict per view, the strongest and nearest first. `gate` says that the frame shows hardly anything
    (flat, black), None where it shows something.
    """

    bank: str
    time_seconds: float
    views: tuple[ViewVerdict, ...]
    gate: str | None

    @property
    def best(self) -> ViewVerdict:
        """The view that came nearest to a match."""
        return self.views[0]

    @property
    def is_match(self) -> bool:
        """Whether any view matched."""
        return self.best.reason is Reason.MATCH


class Banks:
    """The banks that files are held against, as the running service would.

    Args:
        banks: All of them, since their lengths count together.
        config: What an operator says of each.
        asked: Of which banks to tell; None for all.
        entry: Of which entry alone to tell; None for all.
        now_seconds: Unix time.
    """

    def __init__(
        self,
        banks: Sequence[Bank],
        config: Config,
        *,
        asked: str | None = None,
        entry: str | None = None,
        now_seconds: float,
    ) -> None:
        self.now_seconds = now_seconds
        held = BudgetWatch().look(config, {bank.name: bank.rows_of(PDQ) for bank in banks})
        self.limits = {bank.name: bank_limits(config, bank.name, held.get(bank.name)) for bank in banks}
        positive = {bank.name: bank.rows_of(PDQ) for bank in banks if not self.limits[bank.name].is_negative}
        if banks:
            positive[INCIDENT_BANK] = _incident_rows(banks[0].folder.parent)
        negative = [
            bank
            for bank in banks
            if self.limits[bank.name].is_negative and not self.limits[bank.name].is_disabled(now_seconds)
        ]
        negatives = Negatives(negative, now_seconds) if negative else None
        self.beside = {
            name: Beside(counted_rows(rows, (positive[other] for other in positive if other != name)), negatives)
            for name, rows in positive.items()
        }
        shown = [bank for bank in banks if asked in (None, bank.name)]
        self.banks = shown if entry is None else [with_only(bank, entry) for bank in shown if _holds(bank, entry)]


def bank_limits(config: Config, name: str, held: int | None = None) -> BankLimits:
    """What an operator says of a bank, as matching takes it; `held` is the limit in bits that its budget allows."""
    bank = config.bank(name)
    chosen = [most for most in (None if bank.max_distance == "auto" else bank.max_distance, held) if most is not None]
    return BankLimits(
        max_distances={PDQ: min(chosen)} if chosen else {},
        min_quality=bank.min_quality,
        is_negative=bank.kind is BankKind.NEGATIVE,
        disabled_until_seconds=bank.disabled_until_seconds,
    )


def with_only(bank: Bank, entry: str) -> Bank:
    """The same bank as if it held one entry alone; its limits must still be those of the whole."""
    shelves = {}
    for algorithm in bank.algorithms:
        rows = bank.rows(algorithm)
        if rows is not None:
            numbers = rows.names.find(entry)
            if len(numbers):
                shelves[algorithm] = Shelf(Base.build(rows.taken(numbers), own_radius(algorithm)))
    # What the rest of the bank takes back is taken back all the same.
    return Bank(bank.folder, bank.generation, shelves, bank.notes, harmless=bank.harmless)


def _incident_rows(banks_dir: Path) -> int:
    """How many rows of what was just cut the lists count beside their own."""
    with contextlib.suppress(IndexCorrupt, OSError):
        pointer = read_pointer(banks_dir / INCIDENT_BANK)
        return pointer.rows.get(PDQ, 0) if pointer is not None else 0
    return 0


def _holds(bank: Bank, entry: str) -> bool:
    return any(name == entry for name, _, _ in bank.entries())


class FileMatches:
    """What banks hold that is like one file's frames, or why there is no match."""

    def __init__(self, banks: Banks) -> None:
        self.frames = 0
        self._banks = banks
        self._viewer = Viewer(None, lambda: 0.0)
        self._spacing = Spacing()
        self._pdq = Pdq()
        self._best: dict[str, tuple[float, Callable[[], Explained]]] = {}

    def take(self, frame: Frame) -> None:
        """Look up one frame through every view, and remember it where it is the nearest to a bank so far."""
        plane, picture = plane_of(frame), picture_of(frame)
        if not self._spacing.takes(frame, self._pdq.hash_plane(plane).value):
            return
        self.frames += 1
        low = low_information(plane)
        gate = None if low is None or has_colour_detail(picture) else low.value
        batch = self._viewer.view(plane, picture, frame.width, frame.height).batch
        others = list(self._other_hashes(frame))
        for bank in self._banks.banks:
            weight = self._weight(bank, batch, others)
            known = self._best.get(bank.name)
            if known is None or weight < known[0]:
                self._best[bank.name] = (weight, self._later(bank, batch, others, frame.arrived_at, gate))

    def explained(self) -> list[Explained]:
        """One for each bank that holds anything within reach to compare with, matches first, then the nearest."""
        found = [make() for _, make in self._best.values()]
        return sorted((one for one in found if one.views), key=lambda one: (not one.is_match, one.best.distance))

    def out_of_reach(self, explained: Sequence[Explained]) -> list[str]:
        """The banks that hold nothing to compare a file with: empty ones, and hashes that only measure what is near."""
        return [name for name in self._best if name not in {one.bank for one in explained}]

    def _later(
        self, bank: Bank, batch: ViewBatch, others: Sequence[ViewHash], at: float, gate: str | None
    ) -> Callable[[], Explained]:
        """Explaining reads every row several times, so it is done once a file."""

        def make() -> Explained:
            verdicts = bank.explain(
                batch,
                others,
                self._banks.limits[bank.name],
                now_seconds=self._banks.now_seconds,
                beside=self._banks.beside.get(bank.name),
            )
            return Explained(bank.name, at, tuple(sorted(verdicts, key=_nearest_first)), gate)

        return make

    def _weight(self, bank: Bank, batch: ViewBatch, others: Sequence[ViewHash]) -> float:
        """How far a frame is from a bank: below 1 for a match, by its strength and distance."""
        found = bank.match(
            batch,
            others,
            self._banks.limits[bank.name],
            now_seconds=self._banks.now_seconds,
            beside=self._banks.beside.get(bank.name),
        ).matches
        if found:
            return min(match.distance / match.bits - match.strength.rank for match in found)
        radius = batch.values.shape[1] * 4
        nearest = bank.nearest(PDQ, batch.values[:1], radius, self._banks.now_seconds)
        return 1.0 + int(nearest[0]) / (8 * int(batch.values.shape[1]))

    def _other_hashes(self, frame: Frame) -> Iterator[ViewHash]:
        known = hash_algorithms()
        wanted = dict.fromkeys(name for bank in self._banks.banks for name in bank.algorithms if name != PDQ)
        looks = views(plane_of(frame), picture_of(frame), EVERY_TIER) if wanted else []
        for name in wanted:
            if name in known:
                with contextlib.suppress(PluginFailed):  # health tells of it; here its hash is none
                    for view, fingerprint in named_fingerprints(known[name], looks, picture_of(frame)):
                        yield ViewHash(view, name, fingerprint)


def _nearest_first(verdict: ViewVerdict) -> tuple[int, float]:
    rank = -1 if verdict.strength is None else verdict.strength.rank
    return -rank, verdict.distance / verdict.bits

"""The false-match budget of a config and the banks on disk.

A config that asks for more is refused; a bank that grows beyond it while the service runs is held to what it allows.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from detector.analysis.pool import PoolSettings
from detector.analysis.setup import BANKS_FOLDER, pool_settings
from detector.config.banks import BankKind
from detector.config.config import Config
from detector.events import Step
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, bank_names, bank_stats
from models.false_matches import VIEWS_PER_FRAME, Traffic, expected_per_day, ways, widest_radius
from models.manifest import Manifest
from models.radii import Radii, chosen, counted_rows, radii_for

_SIGNAL = "pdq"
"""The curve is one of 256-bit hashes; shorter ones may never act alone."""


_LARGEST_BUDGET = 1_000_000
"""What `matching.false_matches_per_day` takes at most."""


class BudgetExceeded(Exception):
    """Raised by `refuse_excess`: a bank may act on more false matches than is bearable; the arithmetic, the remedy."""


@dataclass(frozen=True, slots=True)
class BankLoad:
    """What one bank costs in false matches.

    `radii` are the limits that the config asks for, `expected_per_day` the false matches that may act under them.
    `most_bits` is the limit that the budget allows where that is less than the config asks for, else None; -1 where
    the budget allows no match at all.
    """

    name: str
    rows: int
    radii: Radii
    traffic: Traffic
    expected_per_day: float
    budget_per_day: float
    most_bits: int | None

    @property
    def is_over(self) -> bool:
        """Whether it is more than the budget bears."""
        return self.most_bits is not None

    def arithmetic(self) -> str:
        """How the figure comes about."""
        way = max(ways(self.radii), key=lambda one: one.rate)
        return (
            f"{self.rows:,} rows x {VIEWS_PER_FRAME} views x {figure(self.traffic.frames_per_day)} frames a day of "
            f"{figure(self.traffic.streams)} streams x {way.rate:.2g} (the chance of strangers within {way.radius} "
            f"bits, {way.test}) is {figure(self.expected_per_day)} false matches a day"
        )

    def remedy(self) -> str:
        """What an operator can do."""
        needed = math.ceil(self.expected_per_day)
        raised = f", or set matching.false_matches_per_day to {needed} or more" if needed <= _LARGEST_BUDGET else ""
        if self.most_bits is None or self.most_bits < 0:
            return f"part the list{raised}"
        return f"write max_distance: {self.most_bits} for it{raised}"


def figure(number: float) -> str:
    """A number as people read it: three digits count, and no power of ten."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def bank_sizes(state_dir: Path) -> dict[str, int]:
    """Rows of each bank on disk that can be read, by name: of hashes that may act alone."""
    folder = state_dir / BANKS_FOLDER
    found = {}
    for name in bank_names(folder):
        try:
            found[name] = bank_stats(folder / name).rows.get(_SIGNAL, 0)
        except (BankMissing, IndexCorrupt, OSError):  # what is wrong with it is told by whoever needs its rows
            continue
    return found


def traffic_of(config: Config) -> Traffic:
    """How much a config has looked at: the densest of its samplings, for all streams."""
    sections = [config.sampling, *(stream.sampling.over(config.sampling) for stream in config.streams)]
    interval = min(min(one.interval, one.detect_within).seconds for one in sections)
    return Traffic(config.matching.streams, 1 / interval)


def bank_load(config: Config, name: str, sizes: Mapping[str, int]) -> BankLoad:
    """What one bank of `sizes` costs. One that may not act at all costs nothing."""
    bank, rows = config.bank(name), sizes[name]
    # As the inspector counts: what takes matches back is no list in which a stranger could be met.
    others = (size for other, size in sizes.items() if other != name and config.bank(other).kind is BankKind.POSITIVE)
    radii = radii_for(counted_rows(rows, others))
    if bank.max_distance != "auto":
        radii = chosen(radii, bank.max_distance)
    traffic, budget = traffic_of(config), config.matching.false_matches_per_day
    acts = bank.kind is BankKind.POSITIVE and bank.step >= Step.REVIEW and bank.ratio.ratio > 0
    if acts and bank.ratio.ratio < 1:
        traffic = Traffic(traffic.streams * bank.ratio.ratio, traffic.frames_per_second)
    cost = expected_per_day(radii, rows, traffic) if acts else 0.0
    most = None
    if cost > budget:
        widest = widest_radius(radii, rows, traffic, budget)
        most = -1 if widest is None else widest
    return BankLoad(name, rows, radii, traffic, cost, budget, most)


def excesses(config: Config, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each bank that costs more than the config's budget, with the sentences that say so."""
    for name in sorted(sizes):
        load = bank_load(config, name, sizes)
        if load.is_over:
            over = f"more than the {load.budget_per_day:g} of matching.false_matches_per_day"
            yield name, f"bank {name}: {load.arithmetic()}, {over}; {load.remedy()}"


def refuse_excess(config: Config) -> None:
    """Refuse a config under which a bank on disk may act on more false matches than it calls bearable.

    Raises:
        BudgetExceeded: with the arithmetic and the remedy of each such bank, a line for each.
    """
    sentences = [sentence for _, sentence in excesses(config, bank_sizes(config.state_dir))]
    if sentences:
        raise BudgetExceeded("\n".join(sentences))


class BudgetWatch:
    """Holds banks of a running service that grow beyond the budget to what it allows."""

    def __init__(self) -> None:
        self._held: dict[str, BankLoad] = {}

    async def pool_settings(self, config: Config, manifests: Iterable[Manifest]) -> PoolSettings:
        """What the analysis processes go by under a config and with the banks as they are on disk now."""
        sizes = await asyncio.to_thread(bank_sizes, config.state_dir)
        return pool_settings(config, manifests, held=self.look(config, sizes))

    def look(self, config: Config, sizes: Mapping[str, int]) -> dict[str, int]:
        """Take note of the banks as they are; gives the limit in bits of each that is held, 0 at least."""
        loads = (bank_load(config, name, sizes) for name in sizes)
        self._held = {load.name: load for load in loads if load.is_over}
        return {name: max(load.most_bits or 0, 0) for name, load in self._held.items()}

    def notes(self) -> list[str]:
        """One sentence for each bank that is held."""
        return [
            f"bank {load.name} is held to {max(load.most_bits or 0, 0)} bits, since at its configured limit "
            f"{load.arithmetic()}; {load.remedy()}"
            for load in self._held.values()
        ]

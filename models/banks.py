"""Banks: named lists of known hashes, kept on disk in generations and matched against the views of a frame.

A bank is the folder `<NAME>/` with `bank.json`, which names the generation in force, and `gen-<number>/<algorithm>/`
folders of plain arrays (see `models.generations`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.bank_rows import BankRows
from models.evidence import HashMatch, Opinion
from models.generations import Shelf
from models.hashing.algorithm import Fingerprint
from models.hashing.registry import hash_algorithms
from models.index import Found


@dataclass(frozen=True, slots=True)
class BankLimits:
    """How near is near enough, per bank.

    `max_distances` overrides the algorithms' own limits by name (PDQ: 31). A view below `min_quality` whose hash is
    unstable too is noise and is not looked up; one that fails only one of the two tests is, and its matches say so.
    """

    max_distances: Mapping[str, int] = field(default_factory=dict)
    min_quality: int = 50


@dataclass(frozen=True, slots=True)
class ViewHash:
    """The fingerprint of one view of a frame under one algorithm."""

    view: str
    algorithm: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class BankMatches:
    """The closest matches, one per entry with the view that came nearest, and how many entries more there were."""

    matches: tuple[HashMatch, ...] = ()
    left_out: int = 0


class Bank:
    """One generation of a bank, memory-mapped and unchanging. `load_bank` makes it."""

    def __init__(self, folder: Path, generation: str, shelves: Mapping[str, Shelf]) -> None:
        self.folder: Final = folder
        self.name: Final = folder.name
        self.generation: Final = generation
        self._shelves = dict(shelves)
        known = hash_algorithms()
        self._distances = {name: known[name].max_distance for name in shelves if name in known}

    def __len__(self) -> int:
        return sum(len(shelf.index) for shelf in self._shelves.values())

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Whose hashes it holds."""
        return tuple(self._shelves)

    def match(self, hashes: Sequence[ViewHash], limits: BankLimits | None = None, *, most: int = 16) -> BankMatches:
        """Look up every view; give at most `most` entries, the closest first, each with its nearest view.

        Views of algorithms that the bank does not hold are passed over.
        """
        limits = limits or BankLimits()
        nearest: dict[tuple[str, str], HashMatch] = {}
        crowd = 0
        for item, shelf, radius, (numbers, distances) in self._search(hashes, limits):
            # A hostile or careless list can hold one hash a million times: name a bounded part, count the rest.
            named = most * _NAMED_PER_MATCH
            crowd = max(crowd, len(numbers) - named)
            for number, distance in zip(numbers[:named].tolist(), distances[:named].tolist(), strict=True):
                match = self._hash_match(item, shelf, number, distance, radius)
                known = nearest.get((match.entry, match.algorithm))
                if known is None or match.distance < known.distance:
                    nearest[match.entry, match.algorithm] = match
        found = sorted(nearest.values(), key=lambda match: (match.distance / match.bits, match.entry))
        return BankMatches(tuple(found[:most]), max(len(found) - most, 0) + max(crowd, 0))

    def _search(self, hashes: Sequence[ViewHash], limits: BankLimits) -> Iterator[tuple[ViewHash, Shelf, int, Found]]:
        """Look up all views of one algorithm at once; noise is not looked up."""
        for algorithm, shelf in self._shelves.items():
            asked = [item for item in hashes if item.algorithm == algorithm and not _is_noise(item.fingerprint, limits)]
            if not asked:
                continue
            radius = limits.max_distances.get(algorithm, self._distances.get(algorithm, 0))
            answers = shelf.index.search_all([item.fingerprint.value for item in asked], radius)
            for item, found in zip(asked, answers, strict=True):
                yield item, shelf, radius, found

    def entries(self) -> Iterator[tuple[str, str, Opinion]]:
        """Every row's (entry, algorithm, opinion)."""
        for algorithm, shelf in self._shelves.items():
            for number in range(len(shelf.index)):
                yield shelf.rows.names[number], algorithm, shelf.rows.opinion(number)

    def rows(self, algorithm: str) -> BankRows | None:
        """The rows of one algorithm, or None."""
        shelf = self._shelves.get(algorithm)
        return shelf.rows if shelf else None

    def _hash_match(self, item: ViewHash, shelf: Shelf, number: int, distance: int, radius: int) -> HashMatch:
        return HashMatch(
            bank=self.name,
            entry=shelf.rows.names[number],
            algorithm=item.algorithm,
            bits=shelf.index.bits,
            distance=distance,
            max_distance=radius,
            view=item.view,
            quality=item.fingerprint.quality,
            opinion=shelf.rows.opinion(number),
            generation=self.generation,
        )


_NAMED_PER_MATCH: Final = 8
"""Rows looked at per entry wanted: a video's entry has many rows alike."""


def _is_noise(fingerprint: Fingerprint, limits: BankLimits) -> bool:
    return fingerprint.quality < limits.min_quality and not fingerprint.is_stable

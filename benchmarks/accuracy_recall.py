"""How many edited copies of known pictures are found, by edit, by kind and length of list, and through which view."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.accuracy_edits import ASIDE, PROMISED, Edit, encoded
from benchmarks.accuracy_lists import ListRows, processes, sample_of, store
from benchmarks.accuracy_material import Frame, read_picture
from detector.policy import MIN_QUALITY_TO_CUT
from models.banks import Bank
from models.evidence import HashMatch, Strength
from models.hashing.view_batch import ViewBatch
from models.hashing.view_plan import view_batch

LINES: Final = 720
"""Height of an edited frame before it is re-encoded; a stream shows known pictures no larger than it is."""

_WIDEST: Final = 1280
_PLAIN_BITS: Final = 31
_NAMED: Final = 12


@dataclass(slots=True)
class Tally:
    """What became of some edited copies held against one list.

    `cut` and `review` count copies whose own picture may ask for that much or more; `wrong_cut` and `wrong_review`
    those where another picture may, whatever the own one does; `wrong` describes some of these.
    """

    asked: int = 0
    cut: int = 0
    review: int = 0
    wrong_cut: int = 0
    wrong_review: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    views: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count the other's in."""
        self.asked += other.asked
        self.cut += other.cut
        self.review += other.review
        self.wrong_cut += other.wrong_cut
        self.wrong_review += other.wrong_review
        self.wrong = [*self.wrong, *other.wrong][:_NAMED]
        self.views += other.views


@dataclass(frozen=True, slots=True)
class Found:
    """By edit: `plain`, copies within 31 bits of their picture with no view but the frame itself, and `lists`."""

    edit: Edit
    asked: int
    plain: int
    lists: Mapping[str, Tally]


def banks_of(folder: Path, known: ListRows, filling: ListRows, sizes: Mapping[str, int]) -> dict[str, Bank]:
    """Banks of pictures and of bare hashes in several sizes, each with all known pictures.

    `sizes` are pictures by name, or rows where it is over 100,000: lists that long are told by rows.
    """
    made: dict[str, Bank] = {}
    count = int(known.owners.max()) + 1
    for name, size in sizes.items():
        is_long = size > 100_000
        rows = known.joined(
            filling.taken(slice(0, size - len(known))) if is_long else filling.first_pictures(size - count)
        )
        made[f"pictures {name}"] = store(folder / f"PICTURES_{size}", rows, is_bare=False)
        bare = _bare(known).joined(filling.taken(_whole_first(filling)[: size - count]))
        made[f"hashes {name}"] = store(folder / f"HASHES_{size}", bare, is_bare=True)
    return made


def recall(
    pictures: Sequence[Path], scenes: Sequence[Path], banks: Mapping[str, Bank], seed: int, aside: int
) -> list[Found]:
    """Edit every picture in every promised way, and the first `aside` of them in all others; hold it against the banks.

    Picture number n is entry `picture-n` of each bank.
    """
    _STATE.update(pictures=pictures, scenes=scenes, banks=banks, seed=seed, aside=aside)
    edits = (*PROMISED, *ASIDE)
    asked: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    tallies: dict[str, dict[str, Tally]] = {edit.name: {name: Tally() for name in banks} for edit in edits}
    with processes() as pool:
        for counted in pool.map(_of_one, range(len(pictures)), chunksize=2):
            for edit, is_plain, lists in counted:
                asked[edit] += 1
                plain[edit] += is_plain
                for name, tally in lists.items():
                    tallies[edit][name].add(tally)
    return [Found(edit, asked[edit.name], plain[edit.name], tallies[edit.name]) for edit in edits if asked[edit.name]]


def shown_size(picture: Frame) -> Frame:
    """A picture as large as it is shown: 720 lines, and 1280 columns at most."""
    height, width = picture.shape[:2]
    scale = min(LINES / height, _WIDEST / width)
    size = (round(width * scale), round(height * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=kind), dtype=np.uint8)


_STATE: dict[str, Any] = {}
"""What the processes inherit: banks are memory-mapped, and pictures are read where they are needed."""


def _of_one(number: int) -> list[tuple[str, bool, dict[str, Tally]]]:
    picture = shown_size(read_picture(_STATE["pictures"][number]))
    own = view_batch(sample_of(picture)).values[0]
    edits = (*PROMISED, *ASIDE) if number < _STATE["aside"] else PROMISED
    counted = []
    for place, edit in enumerate(edits):
        rng = np.random.default_rng([_STATE["seed"], number, place])
        other = int(rng.integers(0, len(_STATE["scenes"])))
        scene = read_picture(_STATE["scenes"][other]) if edit.has_scene else picture
        batch = view_batch(sample_of(encoded(edit.make(picture, rng, scene), rng)))
        is_plain = int(np.bitwise_count(batch.values[0] ^ own).sum()) <= _PLAIN_BITS
        lists = {name: _tally(bank, batch, f"picture-{number}") for name, bank in _STATE["banks"].items()}
        counted.append((edit.name, is_plain, lists))
    return counted


def asks(match: HashMatch) -> Strength:
    """What a frame may ask for, as the policy sees it: no cut by a view of which little can be seen."""
    is_seen = match.quality >= MIN_QUALITY_TO_CUT and match.is_stable
    return match.strength if is_seen or match.strength is not Strength.CUT else Strength.REVIEW


def described(match: HashMatch) -> dict[str, Any]:
    """What matters of a match that should not be."""
    return {
        "asks": asks(match).value,
        "distance": match.distance,
        "view": match.view,
        "second": round(match.second_value or 0.0, 3),
        "quality": match.quality,
        "entry": match.entry,
        "list": match.bank,
    }


def _tally(bank: Bank, batch: ViewBatch, entry: str) -> Tally:
    tally = Tally(asked=1)
    for match in bank.match(batch, most=64).matches:
        is_cut, is_review = asks(match) is Strength.CUT, asks(match) is not Strength.VOTE
        if match.entry == entry:
            tally.cut, tally.review = int(is_cut), int(is_review)
            if is_review:
                tally.views[match.view] += 1
        else:
            tally.wrong_cut |= is_cut
            tally.wrong_review |= is_review
            if is_cut:
                tally.wrong.append({"of": entry, **described(match)})
    return tally


def _bare(known: ListRows) -> ListRows:
    """The pictures' own hashes alone."""
    return known.taken(np.flatnonzero(~known.is_window))


def _whole_first(filling: ListRows) -> Any:
    """The order in which rows fill a list of hashes: whole pictures, then windows."""
    return np.argsort(filling.is_window, kind="stable")

"""`stopframe hashes match`: what in the banks a file matches, and view by view why or why not."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.banks import bank_faults, banks_folder, in_cage, many, tell_no_bank
from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, table
from detector.config.config import Config
from detector.events import Step
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, EntryMissing, bank_names, check_bank_name, load_bank
from models.banks import Bank
from models.evidence import Strength

if TYPE_CHECKING:
    from detector.banks.matches import Explained, FileMatches
    from models.explaining import ViewVerdict
    from streams.job import Job
    from streams.keeper import Nursery


_BEST_VIEWS = 3
"""Views of each file and bank that the table shows: enough to see what decided, and not sixty lines for each."""


def match(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pictures, videos, folders of them, URLs.")],
    config: ConfigFile = None,
    bank: Annotated[str | None, typer.Option("--bank", metavar="BANK", help="Tell of this bank alone.")] = None,
    entry: Annotated[str | None, typer.Option("--entry", metavar="ENTRY", help="Tell of this entry alone.")] = None,
    has_all: Annotated[
        bool, typer.Option("--all", help=f"A line for every view, not the best {_BEST_VIEWS} of each bank alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what in the banks a file matches.

    And through which view and at which distance, under which limit and second test, or why it does not: lines for the
    views of the frame that comes nearest, the best first. Exit 2 if a file or a bank could not be read, else 0.
    """
    from detector.banks.files import read_all
    from detector.banks.matches import Banks, FileMatches
    from detector.media_files import NO_FILE, find_media

    settings = read_config_quietly(config)
    with bank_faults():
        folder = banks_folder(settings)
        if bank is not None and check_bank_name(bank) not in bank_names(folder):
            raise BankMissing(folder / bank)
        found, damaged = _readable(folder, bank)
        if not found:
            raise CommandFailed("\n".join(damaged) or tell_no_bank(folder))
        banks = Banks(found, settings, asked=bank, entry=entry, now_seconds=time.time())
        if entry is not None and not banks.banks:
            raise EntryMissing(folder / (bank or found[0].name), entry)
        media = find_media(files)
        if not media:
            raise CommandFailed(NO_FILE)
        looks = [FileMatches(banks) for _ in media]
        inputs = [(medium, one.take) for medium, one in zip(media, looks, strict=True)]

        async def work(nursery: "Nursery", job: "Job", tell: Callable[[], None]) -> list[str | None]:
            at_once = settings.analysis.worker_count
            return await read_all(inputs, nursery, job, at_once, with_intervals=True, tell=tell)

        answers = in_cage(settings, work, "match", len(media))
        explained = [pair for medium, look in zip(media, looks, strict=True) for pair in _explained(medium.name, look)]
    if as_json:
        for name, one in explained:
            line(_summary(name, one) | {"views": [_view(verdict) for verdict in one.views]})
    elif explained:
        _show(explained, settings, None if has_all else _BEST_VIEWS)
    faults = damaged + [f"{medium.name}: {why}" for medium, why in zip(media, answers, strict=True) if why is not None]
    if faults:
        raise CommandFailed("\n".join(faults))


def _show(explained: "list[tuple[str, Explained]]", settings: Config, most: int | None) -> None:
    headings = (
        "media", "is_match", "bank", "entry", "hash", "distance", "max_distance", "view", "quality", "second test",
        "why",
    )  # fmt: skip
    rows = [cells for name, one in explained for cells in _cells(name, one, settings, most)]
    table(headings, rows)
    left_out = sum(len(one.views) for _, one in explained) - len(rows)
    if left_out:
        note(f"{many(left_out, 'view is', 'views are')} not shown; --all shows every one")


def _readable(folder: Path, asked: str | None) -> tuple[list[Bank], list[str]]:
    """The banks that can be read, and a sentence for each other one unless one is asked for, which has to be."""
    found, damaged = [], []
    for name in bank_names(folder):
        try:
            found.append(load_bank(folder / name))
        except IndexCorrupt as error:
            if name == asked:
                raise
            if asked is None:
                damaged.append(f"bank {name} is left out: {error}")
            else:  # the rows of all banks count for the limits of each
                note(f"bank {name} cannot be read, so that limits may be wider than they were: {error}")
    return found, damaged


def _explained(name: str, look: "FileMatches") -> "list[tuple[str, Explained]]":
    found = look.explained()
    for bank in look.out_of_reach(found):
        note(f"{name}: bank {bank} holds nothing within reach of it")
    return [(name, one) for one in found]


def _summary(name: str, one: "Explained") -> dict[str, Any]:
    """What stands for a file and a bank: the view that came nearest."""
    best = one.best
    return {
        "media": name,
        "is_match": one.is_match,
        "bank": best.bank,
        "entry": best.entry,
        "hash": best.algorithm,
        "distance": best.distance,
        "max_distance": best.limit,
        "view": best.view,
        "quality": best.quality,
        "strength": best.strength.value if best.strength is not None else None,
        "time_s": round(one.time_seconds, 3),
        "gate": one.gate,
        "why": None if one.is_match else best.told,
    }


def _view(verdict: "ViewVerdict") -> dict[str, Any]:
    return {
        "view": verdict.view,
        "hash": verdict.algorithm,
        "entry": verdict.entry,
        "distance": verdict.distance,
        "max_distance": verdict.limit,
        "quality": verdict.quality,
        "is_stable": verdict.is_stable,
        "passes_shape": verdict.passes_shape,
        "opinion": verdict.opinion.value,
        "second_test": verdict.second_test.value,
        "second_value": verdict.second_value,
        "second_limit": verdict.second_limit,
        "expected_false": verdict.expected_false,
        "strength": verdict.strength.value if verdict.strength is not None else None,
        "reason": verdict.reason.value,
        "told": verdict.told,
    }


def _cells(name: str, one: "Explained", settings: Config, most: int | None) -> Iterator[tuple[object, ...]]:
    step = settings.bank(one.bank).step
    for verdict in one.views[:most]:
        is_held = verdict.strength is Strength.CUT and step < Step.CUT
        second = None
        if verdict.second_value is not None:
            second = f"{verdict.second_test.value} {verdict.second_value:.3g} of {verdict.second_limit:g}"
        yield (
            name,
            verdict.strength is not None,
            verdict.bank,
            verdict.entry,
            verdict.algorithm,
            verdict.distance,
            verdict.limit,
            verdict.view,
            verdict.quality,
            second,
            verdict.told + (f"; the bank's step is {step.word}" if is_held else ""),
        )

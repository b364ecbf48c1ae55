"""`stopframe hashes match`: what in the banks a file matches, and view by view why or why not."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.banks import bank_faults, banks_folder, in_cage
from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, table
from models.bank_store import BankMissing, EntryMissing, bank_names, check_bank_name, load_bank

if TYPE_CHECKING:
    from detector.bank_matches import Explained, FileMatches
    from models.explaining import ViewVerdict
    from streams.job import Job
    from streams.keeper import Nursery


def match(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pictures, videos, folders of them, URLs.")],
    config: ConfigFile = None,
    bank: Annotated[str | None, typer.Option("--bank", metavar="BANK", help="Tell of this bank alone.")] = None,
    entry: Annotated[str | None, typer.Option("--entry", metavar="ENTRY", help="Tell of this entry alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what in the banks a file matches.

    And through which view and at which distance, under which limit and second test, or why it does not: a line for
    each view of the frame that comes nearest, the best first. Exit 2 if a file could not be read, else 0.
    """
    from detector.bank_files import read_all
    from detector.bank_matches import Banks, FileMatches
    from detector.media_files import NO_FILE, find_media

    settings = read_config_quietly(config)
    with bank_faults():
        folder = banks_folder(settings)
        if bank is not None and check_bank_name(bank) not in bank_names(folder):
            raise BankMissing(folder / bank)
        found = [load_bank(folder / name) for name in bank_names(folder)]
        if not found:
            raise CommandFailed(f"there is no bank in {folder}; make one with 'stopframe hashes add BANK FILE'")
        banks = Banks(found, settings, asked=bank, entry=entry, now_seconds=time.time())
        if entry is not None and not banks.banks:
            raise EntryMissing(folder / (bank or found[0].name), entry)
        media = find_media(files)
        if not media:
            raise CommandFailed(NO_FILE)
        looks = [FileMatches(banks) for _ in media]
        inputs = [(medium, one.take) for medium, one in zip(media, looks, strict=True)]

        async def work(nursery: "Nursery", job: "Job") -> list[str | None]:
            return await read_all(inputs, nursery, job, settings.analysis.worker_count, with_intervals=True)

        answers = in_cage(settings, work, "match")
        explained = [pair for medium, look in zip(media, looks, strict=True) for pair in _explained(medium.name, look)]
    if as_json:
        for name, one in explained:
            line(_summary(name, one) | {"views": [_view(verdict) for verdict in one.views]})
    else:
        headings = (
            "media", "is_match", "bank", "entry", "hash", "distance", "max_distance", "view", "quality", "second test",
            "why",
        )  # fmt: skip
        table(headings, [cells for name, one in explained for cells in _cells(name, one)])
    faults = [f"{medium.name}: {why}" for medium, why in zip(media, answers, strict=True) if why is not None]
    if faults:
        raise CommandFailed("\n".join(faults))


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


def _cells(name: str, one: "Explained") -> Iterator[tuple[object, ...]]:
    for verdict in one.views:
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
            verdict.told,
        )

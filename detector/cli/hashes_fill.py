"""`stopframe hashes add, remove`: what people put into a bank and take out of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.banks import (
    BankArgument,
    EntryArgument,
    SignalOption,
    algorithm_of,
    bank_faults,
    bank_folder,
    fold,
    in_cage,
    many,
    tell_excess,
    tell_new,
    tell_source,
)
from detector.cli.options import ConfigFile, note_owner, read_config_quietly
from detector.cli.output import CommandFailed, note
from models.bank_store import BankMissing, bank_names, bank_stats, remove_entry
from models.lists.contents import DEFAULT_SIGNAL

if TYPE_CHECKING:
    from detector.banks.files import Added, FileHashes
    from detector.media_files import Medium
    from streams.job import Job
    from streams.keeper import Nursery


def add(
    bank: BankArgument,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pictures, videos, folders of them.")],
    config: ConfigFile = None,
    entry: Annotated[
        str | None,
        typer.Option(
            "--entry",
            metavar="ENTRY",
            help="The name of the one entry for all; else each file's name without its ending.",
        ),
    ] = None,
    signal: SignalOption = DEFAULT_SIGNAL,
    is_bare: Annotated[
        bool, typer.Option("--bare", help="The hash of each frame alone, without the windows that find crops of it.")
    ] = False,
) -> None:
    """Hash pictures and videos into a bank.

    It is created if it is new. What is added to an entry that is there joins its hashes. Of a video frames half a
    second apart are kept, with their places in it. Beside each hash stand those of windows of its picture, up to
    190, so that crops are found, and a second, longer one, so that chance hits are told from copies.
    """
    from detector.banks.files import add_files
    from detector.media_files import NO_FILE, find_media

    settings = read_config_quietly(config)
    note_owner(settings.state_dir)
    algorithm = algorithm_of(signal)
    with bank_faults():
        bank_dir = bank_folder(settings, bank)
        is_new = bank not in bank_names(bank_dir.parent)
        media = find_media(files)
        before = _row_count(bank_dir)

        async def work(nursery: "Nursery", job: "Job", tell: Callable[[], None]) -> "Added":
            return await add_files(
                media,
                entry=entry,
                bank_dir=bank_dir,
                algorithm=algorithm,
                nursery=nursery,
                job=job,
                at_once=settings.analysis.worker_count,
                is_bare=is_bare,
                tell=tell,
            )

        added = in_cage(settings, work, "hash", len(media))
        fold(bank_dir)
        known = added.rows - (_row_count(bank_dir) - before)
    _tell_left_out(media, added.files)
    if added.rows:
        entries = len({one.entry for one in added.files if one.rows})
        windows = sum(row.is_window for one in added.files for row in one.rows.values())
        hashes = many(added.rows - windows, "hash", "hashes")
        more = f", and those of {many(windows, 'window', 'windows')} in them" if windows else ""
        said = _no_news(added.rows - windows) if known >= added.rows else f"added{more}{_known(known, added.rows)}"
        note(f"bank {bank}: {hashes} of {many(entries, 'entry', 'entries')} {said}")
        tell_new(bank, settings, is_new=is_new)
        tell_source(bank_dir)
        tell_excess(settings, bank)
    if added.faults:
        raise CommandFailed("\n".join(added.faults))
    if not media:
        raise CommandFailed(NO_FILE)
    if not added.rows:
        raise CommandFailed(
            f"bank {bank} is unchanged: no file gave a hash of sufficient quality; add clearer pictures"
        )


def remove(
    bank: BankArgument,
    entry: EntryArgument,
    config: ConfigFile = None,
) -> None:
    """Remove an entry and all its hashes from a bank."""
    settings = read_config_quietly(config)
    with bank_faults():
        count = remove_entry(bank_folder(settings, bank), entry)
        fold(bank_folder(settings, bank))
    if not count:
        raise CommandFailed(f"bank {bank} has no entry of this name; 'stopframe hashes list {bank}' shows them")
    note(f"bank {bank}: {many(count, 'hash', 'hashes')} removed")
    tell_source(bank_folder(settings, bank))


def _tell_left_out(media: "Sequence[Medium]", hashes: "Sequence[FileHashes]") -> None:
    from detector.banks.files import MIN_QUALITY

    for medium, one in zip(media, hashes, strict=True):
        if one.left_out:
            note(
                f"{medium.name}: {one.left_out} frames were left out for a quality below {MIN_QUALITY} "
                f"(best: {one.best_quality}); such hashes match what they should not"
            )


def _row_count(bank_dir: Path) -> int:
    """Hashes of all kinds in a bank; none where there is no bank yet."""
    try:
        return sum(bank_stats(bank_dir).rows.values())
    except BankMissing:
        return 0


def _no_news(count: int) -> str:
    return f"{'was' if count == 1 else 'were'} there already"


def _known(known: int, of: int) -> str:
    """How many were no news, as far as nobody else wrote to the bank meanwhile."""
    return f"; {known} of the {of} rows were there already" if known > 0 else ""

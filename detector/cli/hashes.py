"""`stopframe hashes ...`: banks and what is in them."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, progress, run_async, table
from detector.config.config import Config
from models.arrays import IndexCorrupt
from models.bank_store import (
    BankMissing,
    BankNameError,
    add_entries,
    bank_names,
    bank_stats,
    check_bank_name,
    list_entries,
    load_bank,
    remove_entry,
)
from models.banks import BankLimits
from models.hashing.registry import hash_algorithms
from models.lists.contents import DEFAULT_SIGNAL, ListFormat, ListTooLong
from models.lists.registry import list_formats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from detector.bank_files import Added, FileHashes
    from detector.media_files import Medium
    from models.hashing.algorithm import HashAlgorithm
    from streams.job import Job
    from streams.keeper import Nursery

_Answer = TypeVar("_Answer")

app = typer.Typer(help="Banks of known hashes.", no_args_is_help=True, rich_markup_mode=None)

BankArgument = Annotated[str, typer.Argument(metavar="BANK", help="Capitals, digits and _, such as KNOWN_CARDS.")]
SignalOption = Annotated[str, typer.Option("--signal", help="The hash: pdq, phash, dhash or whash.")]
FormatOption = Annotated[str, typer.Option("--format", help="The list's format: plain.")]

_LISTED_ENTRIES = 10_000


@app.command("add")
def add(
    bank: BankArgument,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pictures, videos, folders of them.")],
    config: ConfigFile = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="The name of the one entry for all; else each file's name without its ending."),
    ] = None,
    signal: SignalOption = DEFAULT_SIGNAL,
) -> None:
    """Hash pictures and videos into a bank.

    It is created if it is new. What is added to an entry that is there joins its hashes.
    """
    from detector.bank_files import add_files
    from detector.media_files import NO_FILE, find_media

    settings = read_config_quietly(config)
    algorithm = _algorithm(signal)
    with _bank_faults():
        bank_dir = _bank_dir(settings, bank)
        is_new = bank not in bank_names(bank_dir.parent)
        media = find_media(files)

        async def work(nursery: "Nursery", job: "Job") -> "Added":
            return await add_files(
                media,
                entry=entry,
                bank_dir=bank_dir,
                algorithm=algorithm,
                nursery=nursery,
                job=job,
                at_once=settings.analysis.worker_count,
            )

        added = _in_cage(settings, work, "hash")
    _tell_left_out(media, added.files)
    if added.rows:
        entries = len({one.entry for one in added.files if one.rows})
        note(f"bank {bank}: {_many(added.rows, 'hash', 'hashes')} of {_many(entries, 'entry', 'entries')} added")
        _tell_new(bank, settings, is_new=is_new)
    if added.faults:
        raise CommandFailed("\n".join(added.faults))
    if not media:
        raise CommandFailed(NO_FILE)
    if not added.rows:
        raise CommandFailed(
            f"bank {bank} is unchanged: no file gave a hash of sufficient quality; add clearer pictures"
        )


@app.command("import")
def import_list(
    bank: BankArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list.")],
    config: ConfigFile = None,
    form: FormatOption = "plain",
    signal: SignalOption = DEFAULT_SIGNAL,
) -> None:
    """Take the hashes of a list into a bank.

    It is created if it is new. Bad rows are counted and passed over. Entries are called after the file and the place
    in it, such as list:1.
    """
    settings = read_config_quietly(config)
    reader, algorithm = _format(form), _algorithm(signal)
    with _bank_faults():
        if file.is_char_device() or file.is_block_device():
            raise CommandFailed(f"{file} is a device; name the file of a list")
        bank_dir = _bank_dir(settings, bank)
        is_new = bank not in bank_names(bank_dir.parent)
        with progress(f"read {file.name}", None):
            contents = reader.read(file, signal=algorithm.name)
        bad = contents.bad
        if bad.count:
            note(
                f"{file}: {bad.count} bad rows were passed over, the first in line {bad.first_line_number}: "
                f"{bad.first_reason}"
            )
        if not len(contents):
            raise CommandFailed(
                f"{file} holds no valid hash, so bank {bank} is unchanged; name a list of format {form}"
            )
        bank_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with progress(f"write {bank}", None):
            for name, rows in contents.rows.items():
                add_entries(bank_dir, rows.hashes, list(rows.entry_names(_stem(file))), algorithm=name)
    note(f"bank {bank}: {_many(len(contents), 'hash', 'hashes')} added")
    _tell_new(bank, settings, is_new=is_new)


@app.command("export")
def export(
    bank: BankArgument,
    config: ConfigFile = None,
    form: FormatOption = "plain",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Else stdout.")] = None,
) -> None:
    """Write a bank's hashes as a list.

    The format plain holds the hashes alone, neither entries nor opinions: to back a bank up, copy its folder.
    """
    settings, writer = read_config_quietly(config), _format(form)
    with _bank_faults():
        found = load_bank(_bank_dir(settings, bank))
        with contextlib.ExitStack() as stack:
            file = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
            for name in found.algorithms:
                rows = found.rows(name)
                if rows is not None:
                    writer.write(file, name, rows.hashes)
            file.flush()


@app.command("match")
def match(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pictures, videos, folders of them, URLs.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what in the banks a file matches.

    And through which view and at which distance, or why it does not. Exit 2 if a file could not be read, else 0.
    """
    from detector.bank_files import FileMatches, read_all
    from detector.media_files import NO_FILE, find_media

    settings = read_config_quietly(config)
    with _bank_faults():
        folder = _banks_folder(settings)
        banks = [load_bank(folder / name) for name in bank_names(folder)]
        if not banks:
            raise CommandFailed(f"there is no bank in {folder}; make one with 'stopframe hashes add BANK FILE'")
        wanted = {bank.name: settings.bank(bank.name).max_distance for bank in banks}
        limits = {name: BankLimits({} if most == "auto" else {"pdq": most}) for name, most in wanted.items()}
        media = find_media(files)
        if not media:
            raise CommandFailed(NO_FILE)
        looks = [FileMatches(banks, limits, hash_algorithms()) for _ in media]
        inputs = [(medium, one.take) for medium, one in zip(media, looks, strict=True)]

        async def work(nursery: "Nursery", job: "Job") -> list[str | None]:
            return await read_all(inputs, nursery, job, settings.analysis.worker_count)

        answers = _in_cage(settings, work, "match")
    rows: list[dict[str, Any]] = []
    for medium, look in zip(media, looks, strict=True):
        rows += [
            {
                "media": medium.name,
                "is_match": near.is_match,
                "bank": near.match.bank,
                "entry": near.match.entry,
                "hash": near.match.algorithm,
                "distance": near.match.distance,
                "max_distance": near.match.max_distance,
                "view": near.match.view,
                "quality": near.match.quality,
                "time_s": round(near.time_seconds, 3),
                "gate": max(look.gates, key=lambda gate: look.gates[gate]) if look.gates else None,
                "why": _why_not(near.is_match, near.match.distance, near.match.max_distance, near.match.quality),
            }
            for near in look.nearest()
        ]
    if as_json:
        for row in rows:
            line(row)
    else:
        headings = ("media", "is_match", "bank", "entry", "hash", "distance", "max_distance", "view", "quality", "why")
        table(headings, [[row[name] for name in headings] for row in rows])
    faults = [f"{medium.name}: {why}" for medium, why in zip(media, answers, strict=True) if why is not None]
    if faults:
        raise CommandFailed("\n".join(faults))


@app.command("list")
def list_banks(
    bank: Annotated[str | None, typer.Argument(metavar="[BANK]", help="Whose entries to list.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the banks, or the entries of one."""
    settings = read_config_quietly(config)
    if bank is None:
        _show_stats(settings, as_json=as_json)
        return
    with _bank_faults():
        entries = list_entries(_bank_dir(settings, bank), _LISTED_ENTRIES + 1)
    shown = entries[:_LISTED_ENTRIES]
    if as_json:
        for one in shown:
            line({"entry": one.entry, "hashes": dict(one.rows), "opinions": [o.value for o in one.opinions]})
    else:
        table(
            ("entry", "hashes", "opinion"),
            [(one.entry, _counts(one.rows), ", ".join(o.value for o in one.opinions)) for one in shown],
        )
    if len(entries) > len(shown):
        note(f"only the first {_LISTED_ENTRIES} entries are shown; 'stopframe hashes stats' counts them all")


@app.command("remove")
def remove(
    bank: BankArgument,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The entry's whole name.")],
    config: ConfigFile = None,
) -> None:
    """Remove an entry and all its hashes from a bank."""
    settings = read_config_quietly(config)
    with _bank_faults():
        count = remove_entry(_bank_dir(settings, bank), entry)
    if not count:
        raise CommandFailed(f"bank {bank} has no entry of this name; 'stopframe hashes list {bank}' shows them")
    note(f"bank {bank}: {_many(count, 'hash', 'hashes')} removed")


@app.command("stats")
def stats(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what each bank holds and what it may do."""
    _show_stats(read_config_quietly(config), as_json=as_json)


def _show_stats(settings: Config, *, as_json: bool) -> None:
    folder = _banks_folder(settings)
    with _bank_faults():
        found = [bank_stats(folder / name) for name in bank_names(folder)]
    if as_json:
        for one in found:
            line(
                {
                    "bank": one.name,
                    "step": settings.bank(one.name).step.word,
                    "entries": one.entries,
                    "hashes": dict(one.rows),
                    "opinions": dict(one.opinions),
                    "size_bytes": one.size_bytes,
                    "generation": one.generation,
                    "changed_at": _moment(one.changed_at),
                }
            )
        return
    table(
        ("bank", "step", "entries", "hashes", "opinions", "MiB", "generation", "changed"),
        [
            (
                one.name,
                settings.bank(one.name).step.word,
                one.entries,
                _counts(one.rows),
                _counts(one.opinions),
                f"{one.size_bytes / (1 << 20):.1f}",
                one.generation,
                _moment(one.changed_at),
            )
            for one in found
        ],
    )


def _in_cage(settings: Config, work: "Callable[[Nursery, Job], Coroutine[Any, Any, _Answer]]", what: str) -> _Answer:
    """Run `work` with a nursery of caged readers and the job that says how they read."""
    from detector.settings import reader_job
    from streams.job import SourceKind
    from streams.keeper import Nursery, NurseryBroken

    job = reader_job(settings, "", SourceKind.FILE, "", live=False)

    async def in_nursery() -> _Answer:
        async with Nursery("streams.reader:main", silences_children=True) as nursery:
            return await work(nursery, job)

    try:
        with progress(what, None):
            return run_async(in_nursery())
    except NurseryBroken as error:
        raise CommandFailed(str(error)) from None


@contextlib.contextmanager
def _bank_faults() -> Iterator[None]:
    try:
        yield
    except (BankNameError, BankMissing, IndexCorrupt, ListTooLong, TypeError, ValueError) as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandFailed(f"{where}{error.strerror}; name a file or a state_dir that this user may use") from None


def _algorithm(signal: str) -> "HashAlgorithm":
    known = hash_algorithms()
    if signal not in known:
        raise CommandFailed(f"there is no hash called {signal!r}; write one of {', '.join(known)}")
    return known[signal]


def _format(name: str) -> ListFormat:
    known = list_formats()
    if name not in known:
        raise CommandFailed(f"there is no list format called {name!r}; write one of {', '.join(known)}")
    return known[name]


def _banks_folder(settings: Config) -> Path:
    from detector.analysis.setup import BANKS_FOLDER

    return settings.state_dir / BANKS_FOLDER


def _bank_dir(settings: Config, bank: str) -> Path:
    return _banks_folder(settings) / check_bank_name(bank)


def _tell_left_out(media: "Sequence[Medium]", hashes: "Sequence[FileHashes]") -> None:
    from detector.bank_files import MIN_QUALITY

    for medium, one in zip(media, hashes, strict=True):
        if one.left_out:
            note(
                f"{medium.name}: {one.left_out} frames were left out for a quality below {MIN_QUALITY} "
                f"(best: {one.best_quality}); such hashes match what they should not"
            )


def _tell_new(bank: str, settings: Config, *, is_new: bool) -> None:
    if is_new and bank not in settings.banks:
        note(
            f"bank {bank} is new and at step review; to let it cut, write in the config: "
            f"banks: {{{bank}: {{step: cut}}}}"
        )


def _why_not(is_match: bool, distance: int, limit: int, quality: int) -> str | None:  # noqa: FBT001
    if is_match:
        return None
    if distance > limit:
        return f"the nearest entry is {distance} bits away, the limit is {limit}"
    return f"left out as noise: quality {quality} and an unstable hash"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "0"


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _moment(unix_seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_seconds))


def _stem(file: Path) -> str:
    """A list's name as its rows' entries begin with it: printable and short."""
    return "".join(char if char.isprintable() else "?" for char in file.stem)[:40]

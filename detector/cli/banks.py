"""What the commands about banks share: folders, names, the words for counts, and faults as sentences."""

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from detector.cli.output import CommandFailed, counted, note, progress, run_async
from detector.config.config import Config
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, BankNameError, EntryMissing, bank_names, check_bank_name
from models.hashing.plugins import PluginFailed
from models.hashing.registry import hash_algorithms, refused_algorithms
from models.lists.contents import ListFormat, ListTooLong
from models.lists.registry import FORMATS, list_formats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from models.hashing.algorithm import HashAlgorithm
    from streams.job import Job
    from streams.keeper import Nursery

_Answer = TypeVar("_Answer")

BankArgument = Annotated[str, typer.Argument(metavar="BANK", help="Capitals, digits and _, such as KNOWN_CARDS.")]
EntryArgument = Annotated[str, typer.Argument(metavar="ENTRY", help="The entry's whole name.")]
SignalOption = Annotated[
    str, typer.Option("--signal", metavar="HASH", help="The hash: pdq, phash, dhash, whash or an installed one.")
]
FormatOption = Annotated[
    str,
    typer.Option("--format", metavar="FORMAT", help=f"The list's format: {', '.join(FORMATS)} or an installed one."),
]


def in_cage(
    settings: Config,
    work: "Callable[[Nursery, Job, Callable[[], None]], Coroutine[Any, Any, _Answer]]",
    what: str,
    total: int,
) -> _Answer:
    """Run `work` with a nursery of caged readers, the job that says how they read, and what to call for each file done.

    There are `total` files.
    """
    from detector.settings import reader_job
    from streams.job import SourceKind
    from streams.keeper import Nursery, NurseryBroken

    job = reader_job(settings, "", SourceKind.FILE, "", live=False)

    async def in_nursery(tell: "Callable[[], None]") -> _Answer:
        async with Nursery("streams.reader:main", silences_children=True) as nursery:
            return await work(nursery, job, tell)

    try:
        with counted(what, total) as tell:
            return run_async(in_nursery(tell))
    except NurseryBroken as error:
        raise CommandFailed(str(error)) from None


@contextlib.contextmanager
def bank_faults() -> Iterator[None]:
    """Turn what banks raise into one sentence and exit 2."""
    try:
        yield
    except (
        BankNameError,
        EntryMissing,
        IndexCorrupt,
        ListTooLong,
        PluginFailed,
        TypeError,
        ValueError,
    ) as error:
        raise CommandFailed(str(error)) from None
    except BankMissing as error:
        there = bank_names(error.bank_dir.parent)
        raise CommandFailed(f"{error}{'; there are ' if there else ''}{', '.join(there)}") from None
    except BrokenPipeError:  # whoever read our output has left: `main` ends without a word
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = (
            "free space, then try again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "name a file or a state_dir that this user may use"
        )
        raise CommandFailed(f"{where}{error.strerror or error}; {remedy}") from None


def algorithm_of(signal: str) -> "HashAlgorithm":
    """The hash of that name, or a sentence with those that there are."""
    known = hash_algorithms()
    if signal not in known:
        refused = [sentence for sentence in refused_algorithms() if f"hash plug-in {signal} " in sentence]
        raise CommandFailed(
            refused[0] if refused else f"there is no hash called {signal!r}; write one of {', '.join(known)}"
        )
    return known[signal]


def format_of(name: str) -> ListFormat:
    """The list format of that name, or a sentence with those that there are."""
    known = list_formats()
    if name not in known:
        raise CommandFailed(f"there is no list format called {name!r}; write one of {', '.join(known)}")
    return known[name]


def banks_folder(settings: Config) -> Path:
    """Where the banks lie."""
    from detector.analysis.setup import BANKS_FOLDER

    return settings.state_dir / BANKS_FOLDER


def bank_folder(settings: Config, bank: str) -> Path:
    """Where one bank lies. Raises `BankNameError`."""
    return banks_folder(settings) / check_bank_name(bank)


def tell_excess(settings: Config, bank: str) -> None:
    """Say where a list has become too long for its limits: the service holds it to what the budget allows."""
    from detector.banks.budget import bank_load, bank_sizes

    load = bank_load(settings, bank, bank_sizes(settings.state_dir))
    if load.is_over:
        bits = max(load.most_bits or 0, 0)
        note(
            f"bank {bank} is too long for its limits: {load.arithmetic()}, and {load.budget_per_day:g} are bearable; a "
            f"running service holds it to {bits} bits and a start is refused, so {load.remedy()}"
        )


def fold(bank_dir: Path) -> None:
    """Write a bank anew that much has come into since it last was, where no service runs that will; all is in force."""
    from detector.banks.rebuilding import rebuild_unless_served
    from models.rebuild import is_due

    if is_due(bank_dir):
        with progress(f"fold {bank_dir.name}", None):
            rebuild_unless_served(bank_dir)


def tell_new(bank: str, settings: Config, *, is_new: bool) -> None:
    """Say what a bank that was just made may do, and how to let it do more."""
    if is_new and bank not in settings.banks:
        note(
            f"bank {bank} is new and at step review; to let it cut, write in the config: "
            f"banks: {{{bank}: {{step: cut}}}}"
        )


def tell_source(bank_dir: Path) -> None:
    """Say that a bank is a list's, which does not know what somebody changes in it by hand."""
    from detector.exchanges.records import read_source

    source = read_source(bank_dir)
    if source is not None:
        note(
            f"bank {bank_dir.name} is filled by the list {source.exchange}, which may undo this when it is had again: "
            "'stopframe hashes disable' and 'deconfirm' last, and so does what is in a bank of your own"
        )


def tell_no_bank(folder: Path) -> str:
    """What to say where no bank is."""
    return f"there is no bank in {folder}; make one with 'stopframe hashes add BANK FILE'"


def counts(found: Any) -> str:
    """Counts by name in words."""
    return ", ".join(f"{name} {count}" for name, count in found.items()) or "0"


def many(count: int, one: str, several: str) -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else several}"


def moment(unix_seconds: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_seconds))

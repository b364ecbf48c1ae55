"""`stopframe hashes import, export`: lists that come into a bank and that leave it."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer

from detector.banks.intake import Intake, take_in
from detector.cli.banks import (
    BankArgument,
    FormatOption,
    SignalOption,
    algorithm_of,
    bank_faults,
    bank_folder,
    fold,
    format_of,
    many,
    tell_excess,
    tell_new,
    tell_source,
)
from detector.cli.options import ConfigFile, note_owner, read_config_quietly
from detector.cli.output import CommandFailed, note, progress
from models.bank_store import bank_names, load_bank
from models.lists.contents import DEFAULT_SIGNAL, ListContents, ListedRows, ListFormat, StreamFormat, stem_of

_TOLD_BYTES: Final = 1 << 20
"""How much is read between two moves of the bar."""


def import_list(
    bank: BankArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list.")],
    config: ConfigFile = None,
    form: FormatOption = "plain",
    signal: SignalOption = DEFAULT_SIGNAL,
) -> None:
    """Take a list into a bank: what is new, changed or taken back.

    The bank is created if it is new. All of the list comes into force at once; bad rows are counted and passed over.
    Entries without a name of their own are called after the file and the line, such as list:1. What people said of an
    entry ('hashes confirm', 'deconfirm', 'disable') stands, whatever the list says.
    """
    settings = read_config_quietly(config)
    note_owner(settings.state_dir)
    reader, algorithm = format_of(form), algorithm_of(signal)
    with bank_faults():
        if file.is_char_device() or file.is_block_device():
            raise CommandFailed(f"{file} is a device; name the file of a list")
        bank_dir = bank_folder(settings, bank)
        is_new = bank not in bank_names(bank_dir.parent)
        contents = _read(reader, file, algorithm.name)
        _tell_not_taken(file, contents)
        if not len(contents) and not contents.withdrawn:
            raise CommandFailed(
                f"{file} holds no valid hash, so bank {bank} is unchanged; name a list of format {form}, or another "
                "with --format"
            )
        with progress(f"write {bank}", None):
            intake = take_in(bank_dir, contents, stem=stem_of(file))
        if intake.generation:
            fold(bank_dir)
    note(f"bank {bank}: {_said(intake)}")
    if intake.generation:
        tell_new(bank, settings, is_new=is_new)
        tell_source(bank_dir)
        tell_excess(settings, bank)


def export(
    bank: BankArgument,
    config: ConfigFile = None,
    form: FormatOption = "plain",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Else stdout.")] = None,
) -> None:
    """Write a bank's hashes as a list.

    The format csv carries all that is known of each hash; what the others leave out is told, and docs/exchanges.md says
    why. None carries notes, or which entries are disabled: to back a bank up, copy its folder.
    """
    settings, writer = read_config_quietly(config), format_of(form)
    with bank_faults():
        found = load_bank(bank_folder(settings, bank))
        by_name = {name: found.rows(name) for name in found.algorithms}
        listed = {name: ListedRows.of_bank(rows) for name, rows in by_name.items() if rows is not None}
        contents = ListContents(listed, as_of_seconds=time.time())
        with contextlib.ExitStack() as stack:
            file = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
            written = writer.write(file, contents)
            file.flush()
    if written < len(contents):
        note(
            f"{len(contents) - written} of the {len(contents)} hashes of bank {bank} are left out: format {form} "
            "cannot carry them; csv carries all"
        )


class _Watched(io.RawIOBase):
    """A file that says how far it has been read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], object]) -> None:
        self._file = file
        self._tell = tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.readv(self._file.fileno(), [buffer])
        self._tell(count)
        return count


def _read(reader: ListFormat, path: Path, signal: str) -> ListContents:
    """Read a list; on a terminal a bar shows how much of the file there is still to come."""
    if not isinstance(reader, StreamFormat):
        with progress(f"read {path.name}", None):
            return reader.read(path, signal=signal)
    with path.open("rb", buffering=0) as file, progress(f"read {path.name}", None, bytes_of=path.stat().st_size) as bar:
        watched = _Watched(file, lambda count: bar.advance(bar.task_ids[0], count))
        return reader.read_file(io.BufferedReader(watched, _TOLD_BYTES), path, signal=signal)


def _tell_not_taken(file: Path, contents: ListContents) -> None:
    bad = contents.bad
    if bad.count:
        rows = "1 bad row was" if bad.count == 1 else f"{bad.count} bad rows were"
        note(f"{file}: {rows} passed over, the first in line {bad.first_line_number}: {bad.first_reason}")
    if contents.left_out:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(contents.left_out.items()))
        note(f"{file}: left out, since nothing here matches them: {kinds}")


def _said(intake: Intake) -> str:
    parts = [
        (intake.added, "added"),
        (intake.changed, "changed"),
        (intake.withdrawn, "withdrawn"),
        (intake.known, "were there already" if intake.known != 1 else "was there already"),
    ]
    said = [f"{many(count, 'hash', 'hashes')} {what}" for count, what in parts if count]
    return ", ".join(said) or "nothing that it holds is on the list, and nothing changed"

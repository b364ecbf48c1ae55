"""What commands print: results on stdout, notes on stderr, tables for people, aligned text for pipes."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from detector.redaction import printable, without_secrets

_Answer = TypeVar("_Answer")

NEWS_SECONDS = 30.0
"""Between two notes of what takes long, where there is no terminal to draw a bar on."""


class CommandFailed(Exception):
    """Raised by a command that cannot do what it was asked; `main` prints the text and exits with `exit_code`."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def note(text: str) -> None:
    """Say something to whoever sits in front: stderr, so that it never mixes with results. No secret, no escapes."""
    typer.echo("\n".join(printable(one) for one in without_secrets(text).split("\n")), err=True)


def line(content: Any) -> None:
    """Print one JSON line, at once."""
    typer.echo(json.dumps(content, allow_nan=False))
    sys.stdout.flush()


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows: a table on a terminal, aligned plain text in a pipe. Nothing is ever cut short."""
    texts = [["-" if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(cells[column]) for cells in [list(headings), *texts]) for column in range(len(headings))]
    if sys.stdout.isatty():
        shown = Table(*(Column(name, no_wrap=True) for name in headings), box=None, header_style="bold", pad_edge=False)
        for row in texts:
            shown.add_row(*(Text(cell) for cell in row))
        # As wide as the rows are: a narrow terminal wraps them, but an identifier is never cut short.
        Console(width=sum(widths) + 2 * len(widths)).print(shown)
        return
    for row in [list(headings), *texts]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def progress(
    what: str, total: int | None, *, is_quiet: bool = False, bytes_of: int | None = None
) -> Iterator[Progress]:
    """A bar on a terminal's stderr, nothing in a pipe. It has one task, number 0; `total` None is of unknown length.

    With `bytes_of` it goes by the bytes of a file, in place of `total`; 0 bytes are of unknown length.
    """
    console = Console(stderr=True)
    counts: list[ProgressColumn] = [] if total is None else [MofNCompleteColumn()]
    if bytes_of:
        total, counts = bytes_of, [DownloadColumn()]
    columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn())
    disable = is_quiet or not sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=disable) as bar:
        bar.add_task(what, total=total)
        yield bar


@contextlib.contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what is to be called for each of `total` that is done: a bar on a terminal, else a note now and then."""
    done, told_at = 0, time.monotonic()
    with progress(what, total if total > 1 else None) as bar:

        def tell() -> None:
            nonlocal done, told_at
            done += 1
            bar.advance(bar.task_ids[0])
            if not sys.stderr.isatty() and time.monotonic() - told_at >= NEWS_SECONDS:
                told_at = time.monotonic()
                note(f"{what}: {done:,} of {total:,}")

        yield tell


def run_async(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Run a command's work to its end; SIGINT and SIGTERM cancel it, so that everything it opened is closed."""

    async def cancellable() -> _Answer:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None


def _printable(text: str) -> str:
    """A name from a stream or a list must not move the cursor of whoever looks at it."""
    return "".join(char if char.isprintable() else "?" for char in text)

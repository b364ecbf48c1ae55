"""`stopframe top`: every stream at a glance, live on a terminal."""

import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from detector.cli.options import AsJson, ConfigFile, read_service_folder
from detector.cli.output import CommandFailed, line, table
from detector.redaction import printable

if TYPE_CHECKING:
    from detector.api.view import Health, StreamRow

_REFRESH_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_NAME_WIDTH = 18
_ID_CHARACTERS = 6
_HEADINGS = (
    "id",
    "name",
    "state",
    "video",
    "gop",
    "looked at",
    "risk",
    "burst",
    "blind",
    "last",
    "gap",
    "seen/skip/blind %",
    "cpu",
    "an.",
    "n/s",
)
_SHORTER = {"seen/skip/blind %": "s/s/b %"}
"""What a heading is called where the terminal is narrow."""
_LEFT_OUT = ("an.", "n/s", "video", "blind", "name", "burst", "last", "gop", "risk")
"""What goes, one after the other, until the rest fits: a figure that is cut short would be another figure."""
_SPACE = 2
_LINES_AROUND = 4


@unique
class Order(StrEnum):
    """What the rows go by; the first of `cpu`, `gap` and `risk` is the largest."""

    CPU = "cpu"
    GAP = "gap"
    RISK = "risk"
    NAME = "name"


def top(
    config: ConfigFile = None,
    sort: Annotated[Order, typer.Option("--sort", help="What the rows go by.")] = Order.CPU,
    once: Annotated[bool, typer.Option("--once", help="Show one state and end, as in a pipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what every stream costs and how closely it is looked at.

    Each second anew on a terminal until Ctrl-C; once in a pipe. A service that restarts is found again.
    """
    from detector.api.client import ControlError

    folder = read_service_folder(config)
    if as_json or once or not sys.stdout.isatty():
        try:
            health, rows = _ask(folder)
        except ControlError as error:
            raise CommandFailed(str(error)) from None
        if as_json:
            line(_as_json(health, rows))
            return
        typer.echo("\n".join(totals(health, rows)))
        table(_HEADINGS, [cells(row, None) for row in ordered(rows, sort)])
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(folder, sort)


def _as_json(health: "Health", rows: "Sequence[StreamRow]") -> dict[str, object]:
    return {"load": health.load, "streams": [asdict(row) for row in rows]}


def _ask(folder: Path) -> "tuple[Health, list[StreamRow]]":
    from detector.api.client import ControlClient

    with ControlClient(folder, timeout_seconds=_ANSWER_SECONDS) as service:
        return service.status(), service.streams()


def _watch(folder: Path, sort: Order) -> None:
    from detector.api.client import ControlError

    console = Console()
    before: dict[str, int] | None = None
    asked_at = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                health, rows = _ask(folder)
            except ControlError as error:
                live.update(Text(printable(f"{error} Asking again each second; Ctrl-C ends.")), refresh=True)
                before = None
            else:
                now = time.monotonic()
                elapsed = max(0.1, now - asked_at)
                rates = (
                    None
                    if before is None
                    else {
                        row.stream_id: max(0, row.judged - before.get(row.stream_id, row.judged)) / elapsed
                        for row in rows
                    }
                )
                before, asked_at = {row.stream_id: row.judged for row in rows}, now
                live.update(screen(health, ordered(rows, sort), rates, shutil.get_terminal_size()), refresh=True)
            time.sleep(_REFRESH_SECONDS)


def ordered(rows: "Sequence[StreamRow]", sort: Order) -> "list[StreamRow]":
    """The rows in the order asked for; ties by name."""
    tiers = {"high": 0, "normal": 1, "low": 2}
    by_name = sorted(rows, key=lambda row: (row.path, row.stream_id))
    match sort:
        case Order.NAME:
            return by_name
        case Order.CPU:
            return sorted(by_name, key=lambda row: -(row.reader_cores + row.analysis_cores))
        case Order.GAP:
            return sorted(by_name, key=lambda row: -row.max_gap_seconds)
        case Order.RISK:
            return sorted(by_name, key=lambda row: (tiers.get(row.risk, 1), not row.hints))


def totals(health: "Health", rows: "Sequence[StreamRow]") -> tuple[str, str]:
    """Two lines about all of them."""
    load = health.load
    used = sum(load.get(part, 0.0) for part in ("readers", "analysis", "service"))
    slowed = sum(row.ration == "slowed" for row in rows)
    many = f"{len(rows)} stream{'s' * (len(rows) != 1)}"
    problems = len(health.problems)
    state = f"{problems} problem{'s' * (problems != 1)} ('stopframe health' names them)" if problems else "ok"
    short = f"slowed {slowed}, refused {load.get('refused', 0.0):.0f}"
    frames = f"frames waiting {load.get('waiting', 0.0):.0f}, dropped {load.get('dropped', 0.0):.0f}"
    return f"{many}, {state}", f"cores {used:.2f} of {load.get('budget', 0.0):.2f}; {short}; {frames}"


def cells(row: "StreamRow", rate: float | None) -> tuple[str | None, ...]:
    """One row as text, nothing in it that moves a cursor. `rate` is frames decided about a second, None if unknown."""
    alive = row.seen_seconds + row.skipped_seconds + row.blind_seconds
    shares = (
        "/".join(f"{100 * part / alive:.0f}" for part in (row.seen_seconds, row.skipped_seconds, row.blind_seconds))
        if alive
        else None
    )
    last = row.last_sample_age_seconds
    return (
        row.stream_id[:_ID_CHARACTERS],
        _short(row.path),
        printable(row.blind_cause or row.state),
        None if row.codec is None else printable(f"{row.codec} {row.width}x{row.height}"),
        f"{row.gop_seconds:.1f}" if row.gop_seconds else None,
        looked_at(row),
        printable(row.risk) + ("+hint" if row.hints else ""),
        None if row.ration == "refused" else f"{row.burst_share:.0%}",
        "yes" if row.is_spikes_blind else "no",
        None if last is None else f"{last:.1f}",
        f"{row.max_gap_seconds:.1f}",
        shares,
        f"{row.reader_cores:.3f}",
        f"{row.analysis_cores:.3f}",
        None if rate is None else f"{rate:.1f}",
    )


def looked_at(row: "StreamRow") -> str:
    """How a stream is looked at now, in a word."""
    if row.ration == "slowed":
        return f"slowed {row.slowed_to_seconds:.1f}s"
    if any(hint.is_looked_at for hint in row.hints):
        return "closer"
    return printable(row.sampling if row.ration in {"full", "slowed"} else row.ration.replace("_", " "))


def screen(
    health: "Health",
    rows: "Sequence[StreamRow]",
    rates: dict[str, float] | None,
    size: tuple[int, int],
) -> Group:
    """What fits on a terminal of so many columns and lines; what does not is counted."""
    columns, lines = size
    room = max(1, lines - _LINES_AROUND)
    texts = [
        [text or "-" for text in cells(row, None if rates is None else rates.get(row.stream_id))] for row in rows[:room]
    ]
    headings, kept = _fitting(texts, columns)
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _SPACE, 0, 0))
    for place in kept:
        shown.add_column(headings[place], no_wrap=True, overflow="ellipsis")
    for row, line_of_texts in zip(rows, texts, strict=False):
        style = "red" if row.blind_cause else "yellow" if row.ration != "full" else ""
        shown.add_row(*(Text(line_of_texts[place]) for place in kept), style=style)
    parts: list[Text | Table] = [*map(Text, totals(health, rows)), shown]
    if len(rows) > room:
        parts.append(Text(f"... and {len(rows) - room} more"))
    return Group(*parts)


def _fitting(texts: Sequence[Sequence[str]], columns: int) -> tuple[list[str], list[int]]:
    """The headings, and the places of those that are shown whole on so many columns."""
    headings = list(_HEADINGS)
    kept = list(range(len(headings)))

    def width() -> int:
        widest = (max(len(headings[place]), *(len(row[place]) for row in texts), 0) for place in kept)
        return sum(widest) + _SPACE * (len(kept) - 1)

    if width() > columns:
        headings = [_SHORTER.get(name, name) for name in headings]
    for name in _LEFT_OUT:
        if width() <= columns:
            break
        kept.remove(_HEADINGS.index(name))
    return headings, kept


def _short(name: str) -> str:
    """A publisher's name, made harmless and short enough."""
    clean = printable(name)
    return clean if len(clean) <= _NAME_WIDTH else clean[: _NAME_WIDTH - 1] + "~"

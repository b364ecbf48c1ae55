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
_NARROW = frozenset({"an.", "n/s", "blind", "video"})
"""Left out where the terminal is narrow."""


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
        typer.echo(totals(health, rows))
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


def totals(health: "Health", rows: "Sequence[StreamRow]") -> str:
    """One line about all of them."""
    load = health.load
    used = sum(load.get(part, 0.0) for part in ("readers", "analysis", "service"))
    slowed = sum(row.ration == "slowed" for row in rows)
    many = f"{len(rows)} stream{'s' * (len(rows) != 1)}"
    state = "ok" if health.ok else f"{len(health.problems)} problem{'s' * (len(health.problems) != 1)}"
    return (
        f"{many}, {state}; cores {used:.2f} of {load.get('budget', 0.0):.2f}; slowed {slowed}, "
        f"refused {load.get('refused', 0.0):.0f}; waiting {load.get('waiting', 0.0):.0f}, "
        f"dropped {load.get('dropped', 0.0):.0f}"
    )


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
        f"{row.burst_share:.0%}",
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
    wide = columns >= 130
    kept = [place for place, name in enumerate(_HEADINGS) if wide or name not in _NARROW]
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for place in kept:
        shown.add_column(_HEADINGS[place], no_wrap=True, overflow="ellipsis")
    room = max(1, lines - 4)
    for row in rows[:room]:
        texts = cells(row, None if rates is None else rates.get(row.stream_id))
        style = "red" if row.blind_cause else "yellow" if row.ration != "full" else ""
        shown.add_row(*(Text(texts[place] or "-") for place in kept), style=style)
    parts: list[Text | Table] = [Text(totals(health, rows)), shown]
    if len(rows) > room:
        parts.append(Text(f"... and {len(rows) - room} more"))
    return Group(*parts)


def _short(name: str) -> str:
    """A publisher's name, made harmless and short enough."""
    clean = printable(name)
    return clean if len(clean) <= _NAME_WIDTH else clean[: _NAME_WIDTH - 1] + "~"

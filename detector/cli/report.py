"""`stopframe report`: what is kept for ever, read from the database itself, whether the service runs or not."""

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, table

if TYPE_CHECKING:
    from detector.store.days import DayFigures

app = typer.Typer(help="Figures over time, for people and for reports.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def report() -> None:
    """Figures over time, for people and for reports."""


@app.command("days")
def days(
    config: ConfigFile = None,
    number: Annotated[int, typer.Option("--days", min=1, max=36500, help="So many days (UTC) up to today.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show each day's figures.

    Streams, time seen and not seen, incidents, cuts, alerts.

    They stay when the incidents behind them are removed after `keep`. A session counts on the day on which its account
    was last written, an incident and its cut on the day on which it opened.
    """
    settings = read_config_quietly(config)
    since = datetime.now(UTC).date() - timedelta(days=number - 1)
    found = _read(settings.state_dir / "stopframe.db", since)
    if as_json:
        for day in found:
            line({"day": day.day.isoformat(), **_nested(day)})
        return
    table(
        (
            *("day", "streams", "sessions", "hours", "seen", "skipped", "blind"),
            *("reviews", "cuts", "confirmed", "undone", "refused", "to_cut_ms", "alerts", "expired"),
        ),
        [_row(day) for day in found],
    )


def _row(day: "DayFigures") -> tuple[object, ...]:
    seen, skipped, blind = day["seen_us"], day.total("skipped_us"), day.total("blind_us")
    alive = seen + skipped + blind
    count = day["time_to_cut_count"]
    return (
        day.day.isoformat(),
        day["streams"],
        day["sessions"],
        f"{alive / 3.6e9:.1f}",
        *(f"{part / alive:.2%}" if alive else None for part in (seen, skipped, blind)),
        day.total("incidents/review"),
        day.total("cuts"),
        day["cuts/confirmed"],
        day["undone"],
        day["breaker_refusals"],
        round(day["time_to_cut_sum_ms"] / count) if count else None,
        day.total("alerts"),
        day["alerts/expired"],
    )


def _nested(day: "DayFigures") -> dict[str, object]:
    """The figures of one day, those with a common beginning together; times in seconds."""
    count = day["time_to_cut_count"]
    return {
        "streams": day["streams"],
        "sessions": day["sessions"],
        "seen_s": day["seen_us"] / 1e6,
        "skipped_s": {cause: us / 1e6 for cause, us in day.under("skipped_us").items()},
        "blind_s": {cause: us / 1e6 for cause, us in day.under("blind_us").items()},
        "incidents": {
            action: found for action in ("shadow", "review", "cut") if (found := day.under(f"incidents/{action}"))
        },
        "cuts": day.under("cuts"),
        "undone": day["undone"],
        "breaker_refusals": day["breaker_refusals"],
        "time_to_cut_ms": {"count": count, "sum": day["time_to_cut_sum_ms"], "max": day["time_to_cut_max_ms"]},
        "alerts": day.under("alerts"),
    }


def _read(path: Path, since: date) -> "list[DayFigures]":
    from detector.store.days import read_days
    from detector.store.schema import STEPS

    if not path.exists():
        raise CommandFailed(f"there is no {path}: name the config of a service that has run with -c")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            connection.execute("BEGIN")
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version != len(STEPS):
                which = "a newer Stopframe: upgrade this one" if version > len(STEPS) else "an older one: start it once"
                raise CommandFailed(f"{path} was written by {which}")
            return read_days(connection, since)
    except sqlite3.Error as error:
        raise CommandFailed(
            f"{path} cannot be read ({error}); use the service's own account, and see that the file is whole"
        ) from None

"""`stopframe report`: what is kept for ever, read from the database itself, whether the service runs or not."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, table
from detector.instants import rfc3339

if TYPE_CHECKING:
    from detector.config.config import Config
    from detector.store.days import DayFigures

app = typer.Typer(help="Figures over time, for people and for reports.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def report() -> None:
    """Figures over time, for people and for reports."""


@app.command("days")
def days(
    config: ConfigFile = None,
    number: Annotated[
        int, typer.Option("--days", metavar="NUMBER", min=1, max=36500, help="So many days (UTC) up to today.")
    ] = 30,
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


@app.command("shadow")
def shadow(
    config: ConfigFile = None,
    since: Annotated[
        str, typer.Option("--since", metavar="DAY", help="A day (UTC), such as 2026-12-01; the last 7 days without.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show what live mode would have done.

    With what shadow mode saw: cuts, reviews, what the breaker had refused.

    Read from the alerts on disk, in their order, through the breaker as the config has it now. Whoever would have been
    cut counts no more after that.
    """
    settings = read_config_quietly(config)
    try:
        first = date.fromisoformat(since) if since else datetime.now(UTC).date() - timedelta(days=7)
    except ValueError:
        raise CommandFailed("--since is no day; write such as 2026-12-01") from None
    told = _shadow(settings, first)
    if as_json:
        line(told)
        return
    table(
        ("bank or class", "cuts", "reviews", "at cut", "of streams", "of hours", "entries", "earliest"),
        [
            (
                *(one["name"], one["cuts"], one["reviews"], one["would_cut_at_step_cut"]),
                *(f"{one[part]:.2%}" for part in ("share_of_streams", "share_of_stream_hours")),
                one["entries"],
                one["earliest"][0]["at"] if one["earliest"] else None,
            )
            for one in told["groups"]
        ],
    )
    table(
        ("streams", "hours", "cut", "reviewed", "breaker would refuse", "kept by the allow-list", "held otherwise"),
        [
            (
                *(told["streams"], f"{told['stream_hours']:.1f}", len(told["cuts"]), told["reviewed"]),
                *(sum(told["breaker_refused"].values()), told["allowed"], sum(told["held"].values())),
            )
        ],
    )


def _shadow(settings: "Config", first: date) -> dict[str, Any]:
    from detector.settings import breaker_settings
    from detector.shadow import replay
    from detector.store.shadow import read_alerts, read_lives

    since_ms = (first - date(1970, 1, 1)).days * 86_400_000
    with _opened(settings.state_dir / "stopframe.db") as connection:
        lives = read_lives(connection, since_ms)
        report = replay(read_alerts(connection, since_ms), breaker_settings(settings), lives.at)
    hours = sum(lives.seconds_by_stream.values())
    groups = [
        {
            "name": group.name,
            "cuts": len(group.cuts),
            "reviews": len(group.reviews),
            "would_cut_at_step_cut": len(group.would_cut),
            "streams": len(touched := group.cuts | group.reviews | group.would_cut),
            "share_of_streams": len(touched) / max(1, len(lives.seconds_by_stream)),
            "share_of_stream_hours": sum(lives.seconds_by_stream.get(each, 0.0) for each in touched) / (hours or 1.0),
            "entries": len(group.entries),
            "earliest": [
                {"at": rfc3339(round(at * 1000)), "incident": incident, "stream": stream, "entry": entry}
                for at, incident, stream, entry in group.examples
            ],
        }
        for group in sorted(report.groups.values(), key=lambda one: (-len(one.cuts), -len(one.reviews), one.name))
    ]
    return {
        "since": first.isoformat(),
        "streams": len(lives.seconds_by_stream),
        "stream_hours": hours / 3600,
        "groups": groups,
        "cuts": [
            {
                "at": rfc3339(round(cut.at_seconds * 1000)),
                "stream": cut.stream_id,
                "incident": cut.incident_id,
                "by": cut.sources,
            }
            for cut in report.cuts
        ],
        "reviewed": len(report.reviewed),
        "breaker_refused": {source: len(streams) for source, streams in sorted(report.breaker_refused.items())},
        "allowed": len(report.allowed),
        "held": dict(sorted(report.held.items())),
    }


def _read(path: Path, since: date) -> "list[DayFigures]":
    from detector.store.days import read_days

    with _opened(path) as connection:
        return read_days(connection, since)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Read a service's database at one instant, whether it runs or not."""
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
            yield connection
    except sqlite3.Error as error:
        raise CommandFailed(
            f"{path} cannot be read ({error}); use the service's own account, and see that the file is whole"
        ) from None

"""What an operator asks of the running service: streams, incidents, cut, undo. All through the control socket."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli import incidents_judge
from detector.cli.cutter import health_of_cutter
from detector.cli.options import AsJson, ConfigFile, read_service_folder
from detector.cli.output import CommandFailed, line, note, table
from detector.cutter.config import is_cutters
from detector.events import CutState

if TYPE_CHECKING:
    from detector.api.client import ControlClient
    from detector.api.view import Health, StreamRow

incidents_app = typer.Typer(help="What happened.", rich_markup_mode=None)


@contextlib.contextmanager
def _service(config: Path | None) -> "Iterator[ControlClient]":
    from detector.api.client import ControlClient, ControlError

    folder = read_service_folder(config)
    try:
        with ControlClient(folder) as service:
            yield service
    except ControlError as error:
        raise CommandFailed(str(error)) from None


def _status(config: Path | None) -> "Health":
    with _service(config) as service:
        return service.status()


def health(
    config: ConfigFile = None,
    is_live: Annotated[
        bool, typer.Option("--live", help="Ask only whether the service answers, whatever its problems are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether the service, or a cutter, does its job.

    Exit 0 if it does; 1 with every problem and its remedy, or if no service answers. Made for health checks, too: with
    --live for one that restarts what fails it, as a restart mends no broker that is away.
    """
    try:
        found = health_of_cutter(config) if config is not None and is_cutters(config) else _status(config)
    except CommandFailed as failure:
        raise CommandFailed(str(failure), 1) from None
    if as_json:
        line(asdict(found))
    else:
        for problem in found.problems:
            typer.echo(f"problem: {problem}")
        for remark in found.notes:
            typer.echo(f"note: {remark}")
    if not found.ok and not is_live:
        raise CommandFailed(f"not healthy: {len(found.problems)} problem{'s' * (len(found.problems) > 1)}", 1)


def streams(
    config: ConfigFile = None,
    as_json: AsJson = False,
    keys: Annotated[bool, typer.Option("--keys", help="Show whole paths: they hold the publishers' keys.")] = False,
) -> None:
    """Show what is live.

    A path ends in the publisher's key, so that it is not shown unless --keys asks for it.
    """
    with _service(config) as service:
        rows = service.streams(keys=keys)
    if as_json:
        for row in rows:
            line(asdict(row))
        return
    table(
        (
            "stream",
            "path",
            "state",
            "since",
            "video",
            "risk",
            "ration",
            "sampled",
            "seen_s",
            "skipped_s",
            "blind_s",
            "bursts",
            "spikes",
            "cpu_s",
            "decision",
        ),
        [
            (
                row.stream_id,
                row.path,
                row.state if row.blind_cause is None else f"{row.state} ({row.blind_cause})",
                row.since,
                _video(row),
                f"{row.risk} ({len(row.hints)} hint{'s' * (len(row.hints) != 1)})" if row.hints else row.risk,
                f"{row.ration} ({row.slowed_to_seconds:.1f} s)" if row.slowed_to_seconds else row.ration,
                None if row.last_sample_age_seconds is None else f"{row.last_sample_age_seconds:.1f} s ago",
                f"{row.seen_seconds:.0f}",
                f"{row.skipped_seconds:.0f}",
                f"{row.blind_seconds:.0f}",
                str(row.bursts),
                f"{row.spikes} (blind)" if row.is_spikes_blind else str(row.spikes),
                f"{row.cpu_seconds:.1f}",
                row.decision,
            )
            for row in rows
        ],
    )


def _video(row: "StreamRow") -> str | None:
    """What a stream's pictures are, and what is odd about its choice of them or its times."""
    if row.codec is None:
        return None
    what = f"{row.codec} {row.width}x{row.height}"
    if row.rendition:
        what += f", rendition {row.rendition}"
    elif row.tracks and row.tracks > 1:
        what += f", {row.tracks} tracks"
    if row.time_jumps:
        what += f", times jumped {row.time_jumps}x"
    return f"{what}, times off {row.time_skew_seconds:+.0f} s" if abs(row.time_skew_seconds) >= 1.0 else what


@incidents_app.callback(invoke_without_command=True)
def incidents(
    context: typer.Context,
    config: ConfigFile = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="At most so many, the newest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what happened, the newest first."""
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    with _service(config) as service:
        rows = service.incidents(limit)
    if as_json:
        for row in rows:
            line(asdict(row))
        return
    table(
        ("incident", "stream", "opened", "action", "mode", "cut", "to_cut_ms", "refused_by", "signals"),
        [
            (
                row.incident_id,
                row.stream_id,
                row.opened_at,
                row.action,
                row.mode,
                row.cut_state.value,
                row.time_to_cut_ms,
                row.refused_by,
                row.signals,
            )
            for row in rows
        ],
    )


incidents_app.command("confirm")(incidents_judge.confirm)
incidents_app.command("deconfirm")(incidents_judge.deconfirm)


@incidents_app.command("release")
def release(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="BANK/entry or model/label.")],
    config: ConfigFile = None,
) -> None:
    """Let a list entry or class cut again.

    For what the breaker held: what it was refused and is still live is cut now.
    """
    with _service(config or context.obj) as service:
        is_released = service.release(source)
    if not is_released:
        raise CommandFailed("the breaker holds nothing of this source; 'stopframe incidents' shows what was refused", 1)
    note(f"{source} may cut again")


def cut(
    stream: Annotated[
        str, typer.Argument(metavar="STREAM", help="The stream's id, or its first 4 characters or more.")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Cut a live stream by hand.

    Revokes its key, drops the publisher and proves that it is gone. Exit 1 if the cut is not confirmed.
    """
    with _service(config) as service:
        report = service.cut(stream)
    if as_json:
        line(asdict(report))
    else:
        taken = "" if report.time_to_cut_ms is None else f" after {report.time_to_cut_ms} ms"
        table(
            ("stream", "incident", "cut", "detail"),
            [(report.stream_id, report.incident_id, report.cut_state.value + taken, report.detail or None)],
        )
    if report.cut_state is not CutState.CONFIRMED:
        raise CommandFailed(
            f"the cut is not confirmed: {report.detail or report.cut_state.value}; "
            "'stopframe incidents' shows how it goes on",
            1,
        )


def hint(  # noqa: PLR0913 - one for each word of the command line
    stream: Annotated[
        str, typer.Argument(metavar="STREAM", help="The stream's id, or its first 4 characters or more.")
    ],
    *,
    score: Annotated[
        float, typer.Option("--score", metavar="NUMBER", min=0.0, max=1.0, help="How much it deserves a look, 0 to 1.")
    ],
    source: Annotated[str, typer.Option("--source", metavar="WORD", help="Who says so: a-z 0-9 _ . - only.")],
    reason: Annotated[str, typer.Option("--reason", metavar="WORD", help="Why, in a word: a-z 0-9 _ . - only.")],
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it holds, such as 10m; 1h at most.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a live stream looked at more closely for a while.

    From a score of 0.5 on it is decoded through and sampled every sampling.hint_interval, as far as CPU time allows.
    A hint never cuts, and takes nobody below the floor.
    """
    from detector.api.control import HINT_WORD
    from detector.api.view import HintRequest
    from detector.config.units import Duration
    from detector.hints import LONGEST_SECONDS

    for option, word in (("--source", source), ("--reason", reason)):
        if not re.fullmatch(HINT_WORD, word):
            raise CommandFailed(f"{option} is no word of 1 to 64 of a-z 0-9 _ . -; write such as user_reports")
    try:
        seconds = Duration.parse(lasts).seconds
    except ValueError as error:
        raise CommandFailed(f"--for: {error}") from None
    if not 0 < seconds <= LONGEST_SECONDS:
        raise CommandFailed("--for: a hint holds for 1h at most, and longer than 0s; give it again later")
    with _service(config) as service:
        report = service.hint(stream, HintRequest(score, source, reason, seconds))
    if as_json:
        line(asdict(report))
    else:
        note(f"the hint holds for {lasts}; 'stopframe streams' shows what comes of it")


def undo(
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="The incident's id, or how it begins.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take back a cut: the key may publish again."""
    with _service(config) as service:
        report = service.undo(incident)
    if as_json:
        line(asdict(report))
    else:
        table(("incident", "stream", "detail"), [(report.incident_id, report.stream_id, report.detail)])
    if not report.is_restored:
        raise CommandFailed(f"the key was not restored: {report.detail}", 1)

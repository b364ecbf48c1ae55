"""`stopframe lists`: the lists from elsewhere, how old they are, and having them now."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.banks import bank_faults, format_of, many
from detector.cli.lists_feedback import feedback
from detector.cli.options import AsJson, ConfigFile, note_owner, read_config, read_config_quietly
from detector.cli.output import CommandFailed, line, note, progress, run_async, table
from detector.config.units import Duration
from detector.exchanges.records import Outcome, SyncState, read_state
from detector.exchanges.schedule import is_stale
from detector.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detector.config.config import Config
    from detector.config.exchanges import ExchangeSection

app = typer.Typer(help="Lists of known hashes from elsewhere.", rich_markup_mode=None)

ListName = Annotated[str, typer.Argument(metavar="NAME", help="The list's name under exchanges in the config.")]

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_LIFE = "30d"
_LONGEST_LIFE = Duration.parse("3650d")


@app.callback(invoke_without_command=True)
def lists(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the lists from elsewhere, and how their last syncs went.

    Exit 1 where one is too old, or waits for somebody's word.
    """
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    settings = read_config_quietly(config)
    with contextlib.suppress(FileNotFoundError):
        (settings.state_dir / "exchanges").stat()  # raises where it is closed to us: how a list is, nobody here knows
    now = time.time()
    rows = [_row(section, read_state(settings.state_dir, section.name), now) for section in settings.exchanges]
    if as_json:
        for row in rows:
            line(row)
    elif rows:
        table(
            ("list", "kind", "bank", "rows", "version", "age", "last", "withdrawn", "bad", "quarantined"),
            [
                (
                    row["list"],
                    row["kind"],
                    row["bank"],
                    f"{row['rows']:,}",
                    row["version"] or None,
                    None if row["age_s"] is None else _age(row["age_s"]) + (" (old)" if row["is_stale"] else ""),
                    row["last"] or None,
                    row["withdrawn"],
                    row["bad"],
                    row["quarantined"],
                )
                for row in rows
            ],
        )
    if not rows:
        note("there is no list under exchanges in the config; docs/exchanges.md says how one is added")
    for row in rows:
        if row["why"] and not as_json:
            note(f"{row['list']}: {row['why']}")
    if any(row["is_stale"] or row["waits"] or row["last"] == Outcome.REFUSED for row in rows):
        raise typer.Exit(1)


app.command("feedback")(feedback)


@app.command("sync")
def sync(context: typer.Context, name: ListName, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Have a list now.

    What comes is in force within a second, in a running service too. Exit 1 where it was not to be had, or was refused.
    """
    settings = _settings(config or context.obj)
    _end(_synced(settings, _section(settings, name), None), as_json=as_json)


@app.command("accept")
def accept(context: typer.Context, name: ListName, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take a list over that was refused for what it changes.

    It is fetched anew, and taken if it changes no more than what was refused.
    """
    settings = _settings(config or context.obj)
    section = _section(settings, name)
    state = read_state(settings.state_dir, name)
    if state is None or not state.waits_for_word:
        raise CommandFailed(f"nothing of {name} waits to be accepted; 'stopframe lists' shows how it stands", 1)
    note(f"accepting up to {state.came:,} rows that come and {state.went:,} that go")
    _end(_synced(settings, section, (state.came, state.went)), as_json=as_json)


@app.command("sign")
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list.")],
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", envvar="STOPFRAME_KEY", help="Your key, of `keys new`.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The list's name under exchanges.")],
    list_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="What the list is written in.")
    ] = "plain",
    version: Annotated[
        int | None,
        typer.Option(
            "--version", metavar="NUMBER", min=0, help="Its number, higher than the last; without it, the time."
        ),
    ] = None,
    life: Annotated[str, typer.Option("--life", metavar="DURATION", help="How long it is good for.")] = _LIFE,
) -> None:
    """Write the signed manifest of an own list.

    Beside the list, as FILE.manifest.json. Nodes that trust the key for lists take the list over while it is good.
    """
    from detector.credentials import CredentialsError
    from detector.exchanges.manifest import file_digest, is_file_name, is_list_name, write_manifest
    from detector.trust.keyring import read_key

    if not is_list_name(name):
        raise CommandFailed(f"--name {name!r} is no list's name: letters, digits, _ and -, as under exchanges")
    if not is_file_name(file.name):
        raise CommandFailed(f"{file.name}: a list's name has letters, digits, . _ and -, and does not begin with a dot")
    try:
        signer = read_key(key)
        seconds = Duration.parse(life)
    except (CredentialsError, ValueError) as error:
        raise CommandFailed(str(error)) from None
    if not Duration.parse("1m") <= seconds <= _LONGEST_LIFE:
        raise CommandFailed(f"--life {life} is out of range; write between 1m and {_LONGEST_LIFE}")
    now_ms = time.time_ns() // 1_000_000
    with bank_faults(), progress("reading", None):
        contents = format_of(list_format).read(file)
        if not len(contents) and not contents.withdrawn and (contents.bad.count or contents.left_out):
            why = contents.bad.first_reason or f"nothing here matches {', '.join(contents.left_out)}"
            raise CommandFailed(f"{file} holds no valid hash of format {list_format} ({why}); --format names another")
        digest = file_digest(file)
        made = write_manifest(
            file,
            signer,
            name=name,
            list_format=list_format,
            sha256=digest,
            rows=len(contents),
            version=now_ms if version is None else version,
            issued_ms=now_ms,
            expires_ms=now_ms + seconds.ms,
        )
    if contents.bad.count:
        rows = "1 row is" if contents.bad.count == 1 else f"{contents.bad.count:,} rows are"
        note(f"{rows} bad ({contents.bad.first_reason}) and will be passed over")
    if contents.left_out:
        note(_left_out(contents.left_out))
    hashes = many(len(contents), "hash", "hashes")
    note(f"{made}: version {now_ms if version is None else version}, {hashes}, good for {life}")


def _settings(config: Path | None) -> "Config":
    """The config with its secrets: exchanges ask for them."""
    configure_logs("warning", "auto")
    settings = read_config(config)
    note_owner(settings.state_dir)
    return settings


def _section(settings: "Config", name: str) -> "ExchangeSection":
    for section in settings.exchanges:
        if section.name == name:
            return section
    known = ", ".join(section.name for section in settings.exchanges)
    raise CommandFailed(f"there is no list {name!r} under exchanges; there {'is ' + known if known else 'are none'}")


def _synced(settings: "Config", section: "ExchangeSection", accepted: tuple[int, int] | None) -> SyncState:
    from detector.banks.rebuilding import rebuild_unless_served
    from detector.exchanges.order import job_of
    from detector.exchanges.sync import sync as run_sync

    job = job_of(settings, section, accepted)
    try:
        with progress(f"fetching {section.name}", None):
            state = run_async(run_sync(job.client(), job.adoption(), time.time))
            if state.outcome == Outcome.SYNCED and state.rows:
                rebuild_unless_served(Path(job.bank_dir))
            return state
    except OSError as error:
        raise CommandFailed(
            f"{settings.state_dir}: {error.strerror}; free space, or name a state_dir that this user may write"
        ) from None


def _end(state: SyncState, *, as_json: bool) -> None:
    """Say how a sync went; exit 1 where nothing was had."""
    if as_json:
        line(asdict(state))
    if state.outcome != Outcome.SYNCED:
        raise CommandFailed(state.sentence, 1)
    hashes = many(state.rows, "hash", "hashes")
    bad = f"; {many(state.bad, 'bad row', 'bad rows')} passed over so far" if state.bad else ""
    note(f"bank {state.bank}: {hashes} of {state.exchange}, version {state.version}{bad}")
    if state.left_out:
        note(_left_out(state.left_out))


def _left_out(kinds: "Mapping[str, int]") -> str:
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(kinds.items()))
    return f"left out, since nothing here matches them: {counts}"


def _row(section: "ExchangeSection", state: SyncState | None, now: float) -> dict[str, Any]:
    age = now - state.fresh_at if state is not None and state.fresh_at else None
    return {
        "list": section.name,
        "kind": section.kind.value,
        "bank": section.bank,
        "rows": state.rows if state else 0,
        "version": state.version if state else "",
        "age_s": None if age is None else round(max(0.0, age), 1),
        "is_stale": age is None or is_stale(state, section.stale_after.seconds, now, now),
        "last": str(state.outcome) if state else "",
        "waits": state.waits_for_word if state else False,
        "why": state.sentence if state else "it was never had; 'stopframe lists sync' has it now",
        "withdrawn": state.withdrawn if state else 0,
        "bad": state.bad if state else 0,
        "quarantined": state.quarantined if state else 0,
        "left_out": dict(state.left_out) if state else {},
    }


def _age(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.0f}d"
    if seconds >= 2 * _HOUR:
        return f"{seconds / _HOUR:.0f}h"
    return f"{seconds / _MINUTE:.0f}min" if seconds >= 2 * _MINUTE else f"{seconds:.0f}s"

"""`stopframe incidents confirm, deconfirm`: what people say of an incident, said of the entries that it rests on."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.options import ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed

IncidentArgument = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="Its identifier, or its first 8 characters or more.")
]

_SHORTEST = 8
_MOST_ALERTS = 1000


def confirm(context: typer.Context, incident: IncidentArgument, config: ConfigFile = None) -> None:
    """Say that the entries of an incident matched rightly.

    As 'hashes confirm' does for each of them.
    """
    from detector.cli import hashes_judge

    for bank, entry in _entries(config or context.obj, incident):
        hashes_judge.confirm(bank, entry, config or context.obj)


def deconfirm(context: typer.Context, incident: IncidentArgument, config: ConfigFile = None) -> None:
    """Say that the entries of an incident matched wrongly.

    As 'hashes deconfirm' does for each of them. Who was cut is not given back: that is 'stopframe undo'.
    """
    from detector.cli import hashes_judge

    for bank, entry in _entries(config or context.obj, incident):
        hashes_judge.deconfirm(bank, entry, config or context.obj)


def _entries(config: Path | None, incident: str) -> list[tuple[str, str]]:
    """The entries of our own banks that its alerts name, each once."""
    from detector.analysis.setup import BANKS_FOLDER
    from detector.banks.judgements import DATABASE
    from models.bank_store import bank_names

    if len(incident) < _SHORTEST:
        raise CommandFailed(f"give at least {_SHORTEST} characters of the incident; 'stopframe incidents' lists them")
    settings = read_config_quietly(config)
    alerts = _alerts(settings.state_dir / DATABASE, incident)
    if len({name for name, _ in alerts}) != 1:
        what = "several incidents begin like this; give more characters" if alerts else "no alert of it is kept"
        raise CommandFailed(f"{incident[:64]}: {what} ('stopframe incidents' lists them)")
    ours = set(bank_names(settings.state_dir / BANKS_FOLDER))
    signals = [signal for _, payload in alerts for signal in json.loads(payload).get("signals", [])]
    named = [(str(one["bank"]), str(one["entry"])) for one in signals if one.get("bank") in ours and one.get("entry")]
    if not named:
        raise CommandFailed(f"{incident[:64]} rests on no entry of a bank here: there is nothing to judge")
    return list(dict.fromkeys(named))


def _alerts(path: Path, incident: str) -> list[tuple[str, bytes]]:
    query = "SELECT incident_id, payload FROM alerts WHERE substr(incident_id, 1, ?) = ? ORDER BY seq LIMIT ?"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            return connection.execute(query, (len(incident), incident, _MOST_ALERTS)).fetchall()
    except sqlite3.Error as error:
        raise CommandFailed(f"{path} cannot be read ({error}); name the service's config with -c") from None

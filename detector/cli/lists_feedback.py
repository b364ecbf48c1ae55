"""`stopframe lists feedback`: what exchanges are told of their entries, were told, or would be."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.banks.judgements import kept_judgements
from detector.cli.banks import moment
from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, table
from detector.exchanges.feedback import FeedbackImpossible
from detector.exchanges.feedback_shapes import SHAPES
from detector.store.faults import StoreUnavailable
from detector.store.feedback import FeedbackRow, FeedbackState

if TYPE_CHECKING:
    from detector.config.config import Config
    from detector.config.exchanges import ExchangeSection


def feedback(
    context: typer.Context,
    config: ConfigFile = None,
    requests: Annotated[
        bool, typer.Option("--requests", help="Show the requests, as they are or would be sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what exchanges are told of their entries.

    With `feedback: dry_run`, the default, nothing is sent: this says what would be.
    """
    settings = read_config_quietly(config or context.obj)
    try:
        rows = [_told(settings, row) for row in kept_judgements(settings.state_dir)]
    except StoreUnavailable as error:
        raise CommandFailed(str(error)) from None
    if as_json:
        for row in rows:
            line(row)
        return
    if not rows:
        note("nobody has judged an entry of an exchange yet; 'stopframe hashes confirm' and 'deconfirm' do")
        return
    columns = ("exchange", "bank", "entry", "verdict", "judged", "state", "attempts", "detail")
    table(columns, [tuple(row[column] for column in columns) for row in rows])
    if requests:
        for row in rows:
            note(f"{row['entry']}: {row['request']}")


def _told(settings: "Config", row: FeedbackRow) -> dict[str, Any]:
    section = next((one for one in settings.exchanges if one.name == row.exchange), None)
    return {
        "exchange": row.exchange,
        "bank": row.bank,
        "entry": row.entry,
        "verdict": row.verdict.value,
        "judged": moment(row.judged_at_ms / 1000),
        "state": _state(section, row),
        "attempts": row.attempts,
        "detail": row.detail,
        "request": _request(section, row),
        "hashes": list(row.hashes),
    }


def _state(section: "ExchangeSection | None", row: FeedbackRow) -> str:
    if row.state is not FeedbackState.PENDING:
        return row.state.value
    if section is None:
        return "kept: the exchange is not in the config"
    return {"on": "waits", "dry_run": "would be sent", "off": "kept: feedback is off"}[section.feedback]


def _request(section: "ExchangeSection | None", row: FeedbackRow) -> str:
    if section is None or section.kind not in SHAPES:
        return ""
    try:
        first = SHAPES[section.kind].first(row, section.feedback_reason or "")
    except FeedbackImpossible as error:
        return f"cannot be sent: {error}"
    where = section.url.origin if section.url is not None else section.where
    return first.shown(where) + (", and what its answer leads to" if first.is_question else "")

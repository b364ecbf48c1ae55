"""`stopframe command`: makes a signed command for a node, on standard output, for any MQTT client to publish."""

import re
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from detector.cli.output import CommandFailed, note
from detector.credentials import CredentialsError
from detector.trust.messages import COMMAND_LIFE_LIMIT_MS, Command, CommandName, build_command, command_topic

app = typer.Typer(
    help="Make a signed command for a node.\n\nWherever it runs: the line to publish goes to standard output.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyFile = Annotated[
    Path, typer.Option("--key", metavar="FILE", envvar="STOPFRAME_KEY", help="Your key, of `stopframe keys new`.")
]
Node = Annotated[str, typer.Option("--node", metavar="NODE", help="The node's name: its config's node.")]
Life = Annotated[str, typer.Option("--life", metavar="TIME", help="How long it is good for, at most 5m.")]
Lasts = Annotated[str, typer.Option("--for", metavar="TIME", help="How long it holds, such as 10m; 1h at most.")]
Stream = Annotated[str, typer.Argument(metavar="STREAM", help="The stream's whole id, 26 characters.")]

_LIFE = "30s"
_REMEDIES: Final = {
    "stream": "STREAM is no id of 26 characters; 'stopframe streams' shows it whole, and so does the alert",
    "incident": "INCIDENT is no whole id; 'stopframe incidents' shows it, and so does the alert, as incident_id",
    "score": "--score: write 0 to 1",
    "source": "--source is no word of 1 to 64 of a-z 0-9 _ . -; write such as user_reports",
    "reason": "--reason is no word of 1 to 64 of a-z 0-9 _ . -; write such as violence",
    "lasts_s": "--for: write more than 0s and at most 1h; say it again later",
    "detect_within_s": "--detect-within: write 200ms to 10m",
}
"""What is wrong with an argument, and what to write."""
_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@app.command("cut")
def cut(stream: Stream, key: KeyFile, node: Node, life: Life = _LIFE) -> None:
    """Cut a live stream."""
    _make(key, node, life, CommandName.CUT, {"stream": stream})


@app.command("undo")
def undo(
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="The whole incident_id of its alert.")],
    key: KeyFile,
    node: Node,
    life: Life = _LIFE,
) -> None:
    """Take back what an incident did: its key may publish again."""
    _make(key, node, life, CommandName.UNDO, {"incident": incident})


@app.command("hint")
def hint(  # noqa: PLR0913, PLR0917 - options of the command line
    stream: Stream,
    key: KeyFile,
    node: Node,
    score: Annotated[
        float, typer.Option("--score", metavar="NUMBER", help="0 to 1; from 0.5 on the stream is decoded through.")
    ] = 1.0,
    source: Annotated[str, typer.Option("--source", metavar="WORD", help="Who says so: a-z 0-9 _ . -")] = "operator",
    reason: Annotated[str, typer.Option("--reason", metavar="WORD", help="Why: a-z 0-9 _ . -")] = "report",
    lasts: Lasts = "5m",
    life: Life = _LIFE,
) -> None:
    """Have a live stream looked at more closely for a while."""
    arguments = {
        "stream": stream,
        "score": score,
        "source": source,
        "reason": reason,
        "lasts_s": _seconds("--for", lasts),
    }
    _make(key, node, life, CommandName.HINT, arguments)


@app.command("sampling")
def sampling(
    stream: Stream,
    key: KeyFile,
    node: Node,
    within: Annotated[str, typer.Option("--detect-within", metavar="TIME", help="200ms to 10m.")] = "1s",
    lasts: Lasts = "5m",
    life: Life = _LIFE,
) -> None:
    """Look at a live stream more closely for a while.

    Whatever it shows for so long is seen; never less than its config asks for.
    """
    seconds = {"detect_within_s": _seconds("--detect-within", within), "lasts_s": _seconds("--for", lasts)}
    _make(key, node, life, CommandName.SAMPLING, {"stream": stream} | seconds)


def _make(key: Path, node: str, life: str, name: CommandName, arguments: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from detector.trust.keyring import read_key
    from detector.trust.orders import ARGUMENTS

    if not _NODE.fullmatch(node):
        raise CommandFailed("--node: that is no node's name; write what stands under node in its config")
    life_ms = round(_seconds("--life", life) * 1000)
    if not 1 <= life_ms <= COMMAND_LIFE_LIMIT_MS:
        raise CommandFailed(f"--life: a command is good for {COMMAND_LIFE_LIMIT_MS // 60_000}m at most; make it anew")
    try:
        ARGUMENTS[name].model_validate(arguments)
    except ValidationError as error:
        raise CommandFailed(_REMEDIES[str(error.errors()[0]["loc"][0])]) from None
    try:
        signer = read_key(key)
    except CredentialsError as error:
        raise CommandFailed(str(error)) from None
    now_ms = time.time_ns() // 1_000_000
    # The time is the number: it rises by itself from one command to the next, on whichever machine the key is used.
    made = Command(node, name, arguments, now_ms, now_ms, now_ms + life_ms)
    typer.echo(build_command(made, signer).decode())
    note(f"publish it, not retained, on {command_topic('PREFIX', node, name)}; it is good for {life}")


def _seconds(option: str, text: str) -> float:
    from detector.config.units import Duration

    try:
        return Duration.parse(text).seconds
    except ValueError as error:
        raise CommandFailed(f"{option}: {error}") from None

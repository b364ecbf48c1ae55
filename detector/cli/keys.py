"""`stopframe keys`: what the node signs with, and keys of operators and consumers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from detector.cli.options import AsJson, ConfigFile, note_owner, read_node_folder
from detector.cli.output import CommandFailed, line, note
from detector.config.units import Duration
from detector.credentials import CredentialsError
from detector.instants import rfc3339
from detector.trust.keyring import (
    NODE_MAY,
    Keyring,
    activate_following,
    load_keyring,
    new_key,
    prepare_following,
    read_key,
)
from detector.trust.signing import public_key_text

app = typer.Typer(help="What signs, and whose signatures count.", no_args_is_help=True, rich_markup_mode=None)

_Result = TypeVar("_Result")

_KEPT = "30d"
_LONGEST_KEPT = Duration.parse("3650d")


@app.command("show")
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the public keys of this node.

    As the consumers' trust.trusted_keys take them.
    """
    folder = read_node_folder(config)
    note_owner(folder)
    keyring = _try(lambda: load_keyring(folder))
    _print(keyring, as_json=as_json)


@app.command("rotate")
def rotate(
    config: ConfigFile = None,
    is_activated: Annotated[
        bool, typer.Option("--activate", help="Sign with the key that was made ready, from the next start on.")
    ] = False,
    keep: Annotated[
        str, typer.Option("--keep", metavar="DURATION", help="How long the key that was in force still verifies.")
    ] = _KEPT,
    as_json: AsJson = False,
) -> None:
    """Replace the node's key, in two steps.

    So no consumer meets a key that it does not know.

    The first makes the following key and shows it: write it into every consumer's config. The second, --activate, puts
    it in force; the service takes it up when it is started again.
    """
    folder = read_node_folder(config)
    note_owner(folder)
    if is_activated:
        try:
            kept = Duration.parse(keep)
        except ValueError:
            raise CommandFailed(f"{keep} is no duration; write 30d or 12h") from None
        if kept.seconds > _LONGEST_KEPT.seconds:
            raise CommandFailed(f"--keep: write {_LONGEST_KEPT} at most")
        until_ms = time.time_ns() // 1_000_000 + round(kept.seconds * 1000)
        keyring = _try(lambda: activate_following(folder, until_ms=until_ms))
        note("the new key signs from the next start of the service on")
    else:
        keyring = _try(lambda: prepare_following(folder))
        note("write the following key into the consumers' trust.trusted_keys, then run this with --activate")
    _print(keyring, as_json=as_json)


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; must not exist.")],
) -> None:
    """Make a key of your own.

    An operator's, to command with, or a cutter's.

    The private key stays in FILE, readable by you alone; what is printed is the public one, for trust.trusted_keys of
    the node.
    """
    signer = _try(lambda: new_key(file))
    typer.echo(public_key_text(signer.public_key))


@app.command("public")
def public(file: Annotated[Path, typer.Argument(metavar="FILE", help="A key that `stopframe keys new` made.")]) -> None:
    """Print the public key that belongs to FILE."""
    typer.echo(public_key_text(_try(lambda: read_key(file)).public_key))


def _print(keyring: Keyring, *, as_json: bool) -> None:
    rows = [("signs", keyring.signer.trusted_key(NODE_MAY))]
    rows += [("follows", keyring.following.trusted_key(NODE_MAY))] if keyring.following else []
    rows += [("retired", key) for key in keyring.retired]
    for state, key in rows:
        until = None if key.until_ms is None else rfc3339(key.until_ms)
        key_id, text = key.key_id, public_key_text(key.public_key)
        if as_json:
            line({"state": state, "key_id": key_id, "public_key": text, "until": until})
        else:
            typer.echo(f"{state:8} {key_id}  {text}" + (f"  until {until}" if until else ""))


def _try(work: Callable[[], _Result]) -> _Result:
    try:
        return work()
    except CredentialsError as error:
        raise CommandFailed(str(error)) from None

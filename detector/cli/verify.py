"""`stopframe verify`: whether a trusted key signed what stands in a file."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.options import ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, note
from detector.credentials import CredentialsError
from detector.trust.signing import TrustedKey, TrustedKeys

_ANY = ("alert", "ack", "command")


def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="One message a line; - for standard input.")],
    config: ConfigFile = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="ed25519:...", help="A key to trust, whatever it signed; as often as needed."),
    ] = None,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="The numbers of each key must rise line by line.")
    ] = False,
    is_audit: Annotated[
        bool, typer.Option("--audit", help="Pass over what is expired: messages, and keys that were retired.")
    ] = False,
) -> None:
    """Verify what Stopframe or a consumer signed.

    Alerts, acknowledgements, commands and answers: JSON lines as they were sent.

    Trusted are the keys given by --key, else those of the config and the node's own. Exit 0 if every line holds; 1 if
    one does not: each is named with the reason; 2 if that cannot be found out.
    """
    from detector.trust.verifying import ALARM_BYTES, verify_lines

    keys = _given(key) if key else _configured(config)
    now_ms = None if is_audit else time.time_ns() // 1_000_000
    good = bad = alarms = 0
    for finding in verify_lines(_lines(file, ALARM_BYTES), keys, now_ms=now_ms, in_order=in_order):
        if finding.is_alarm:
            alarms += 1
        elif finding.reason is None:
            good += 1
        else:
            bad += 1
            typer.echo(f"line {finding.line}: {finding.reason.value}: {finding.sentence}")
    passed = f"; {alarms} passed over: alarms about the node, which nobody signs" if alarms else ""
    note(f"{good} hold, {bad} do not{passed}")
    if bad:
        raise typer.Exit(1)


def _given(texts: list[str]) -> TrustedKeys:
    try:
        return TrustedKeys(TrustedKey.of(text, _ANY) for text in texts)
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def _configured(config: Path | None) -> TrustedKeys:
    from detector.trust.keyring import load_keyring

    found = read_config_quietly(config)
    keys = [TrustedKey.of(each.public_key, each.may, until_ms=each.until) for each in found.trust.trusted_keys]
    try:
        if (found.state_dir / "secrets" / "signing").exists():
            keyring = load_keyring(found.state_dir)
            keys += [*keyring.retired, keyring.signer.trusted_key(_ANY[:1])]
    except CredentialsError as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:  # the folder is the service's alone
        note(f"the node's own key is not trusted here: {found.state_dir} cannot be read ({error.strerror})")
    if not keys:
        raise CommandFailed("no key is trusted; name one with --key, or a config with -c that does")
    return TrustedKeys(keys)


def _lines(file: str, most_bytes: int) -> Iterator[bytes]:
    """The lines of a file, of which none is read beyond what a message may have."""
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            while line := stream.readline(2 * most_bytes):
                whole = line
                while line and not line.endswith(b"\n"):  # the rest of one that is too long
                    line = stream.readline(2 * most_bytes)
                yield whole
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read ({error.strerror})") from None

"""Options that commands share, and the config behind `-c`."""

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.output import CommandFailed, note
from detector.config.config import Config
from detector.config.faults import ConfigError
from detector.config.loading import load_config, load_other, read_public, read_state_dir
from detector.logs import configure_logs

if TYPE_CHECKING:
    from detector.simulation.rehearsal import Rehearsal

_ROOT = 0

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", envvar="STOPFRAME_CONFIG", metavar="FILE", help="The config file; without one, the defaults."
    ),
]
Simulate = Annotated[
    str | None,
    typer.Option(
        "--simulate",
        metavar="FAULT[=AMOUNT][@BEGIN[-END]],...",
        help="Rehearse faults, such as packet-loss=5%,broker-drop=30s@60s. There are packet-loss, decode-error, "
        "slow-model, broker-drop, cutter-silent, disk-full and clock-step; times count from the start.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def read_rehearsal(simulate: str | None, *, may_cut: bool) -> "Rehearsal":
    """Return the rehearsal that `--simulate` asks for, without faults where it asks for none."""
    from detector.simulation.registry import NoSuchFault, faults_of
    from detector.simulation.rehearsal import Rehearsal

    if simulate is None:
        if may_cut:
            raise CommandFailed("--may-cut goes with --simulate; a run in earnest cuts by enforcement.live")
        return Rehearsal()
    try:
        return Rehearsal(faults_of(simulate), may_cut=may_cut)
    except NoSuchFault as error:
        raise CommandFailed(f"--simulate: {error}") from None


def read_config(path: Path | None) -> Config:
    """Return the config, its secrets included; `CommandFailed` names every fault by file and line."""
    try:
        return load_config(path)
    except ConfigError as error:
        raise _faulty(path, error) from None


def read_config_quietly(path: Path | None) -> Config:
    """Return the config for a command that ends by itself: of the log only warnings reach the terminal.

    No such command needs a secret, so none is read: those of the config are the service's, not those of whoever hashes
    pictures at a shell.
    """
    configure_logs("warning", "auto")
    if path is None:
        return read_config(None)
    reading = read_public(path)
    if reading.config is None:
        raise _faulty(path, ConfigError(list(reading.faults)))
    return reading.config


def _faulty(path: Path | None, error: ConfigError) -> CommandFailed:
    """Every fault; of a cutter's file that it is one, for a service each second line of it would be a fault."""
    from detector.cutter.config import is_cutters

    if path is not None and is_cutters(path):
        return CommandFailed(
            f"{path} is a cutter's config file, which 'stopframe cutter -c {path}' runs; name the service's file"
        )
    return CommandFailed(str(error))


def read_service_folder(path: Path | None) -> Path:
    """Return the `state_dir` of the running service, for a command that only speaks to it; a cutter's file is refused.

    No secret is read, and whatever else is wrong with the file is the service's to tell; `CommandFailed` where the file
    does not say where the service is.
    """
    configure_logs("warning", "auto")
    if path is None:
        return read_config(None).state_dir
    from detector.cutter.config import is_cutters

    if is_cutters(path):
        raise CommandFailed(
            f"{path} is a cutter's config: 'stopframe health -c {path}' asks how it is, SIGHUP has it read the file "
            "again; for anything else name the service's file"
        )
    try:
        return read_state_dir(path)
    except ConfigError as error:
        raise CommandFailed(str(error)) from None


def read_node_folder(path: Path | None) -> Path:
    """Return the `state_dir` of a node, a service's or a cutter's; as `read_service_folder`."""
    from detector.cutter.config import CutterConfig, is_cutters

    if path is None or not is_cutters(path):
        return read_service_folder(path)
    configure_logs("warning", "auto")
    try:
        return load_other(CutterConfig, path, needs_secrets=False).state_dir
    except ConfigError as error:
        raise CommandFailed(str(error)) from None


def note_owner(folder: Path) -> None:
    """Say so where root is about to write into the `state_dir` of a service that runs as another user."""
    owner = _owner(folder) if os.geteuid() == _ROOT else None
    if not owner:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    note(
        f"{folder} belongs to {name}, to whom what root makes there may be closed; run such commands as {name}, with "
        "'runuser -u NAME -- stopframe ...' or sudo -u"
    )


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None

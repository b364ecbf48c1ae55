"""`stopframe run`, `stopframe reload` and `stopframe check`."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from detector.cli.options import AsJson, ConfigFile, Simulate, read_config, read_rehearsal
from detector.cli.output import CommandFailed, line, note
from detector.config.loading import Reading, check_files, check_other, read_public
from detector.logs import configure_logs
from detector.memory import keep_what_is_loaded, return_large_blocks, share_one_heap
from detector.notify import Notifier
from detector.threads import lend_threads

if TYPE_CHECKING:
    from detector.config.config import Config
    from detector.config_file import ConfigFile as FollowedFile
    from detector.simulation.rehearsal import Rehearsal

_ENDING = (signal.SIGINT, signal.SIGTERM)

log = structlog.get_logger()


def run(
    config: ConfigFile = None,
    simulate: Simulate = None,
    may_cut: Annotated[
        bool, typer.Option("--may-cut", help="Simulate although the config cuts: every publisher here is yours.")
    ] = False,
) -> None:
    """Run the service until SIGINT or SIGTERM.

    What was begun is brought to an end for a few seconds; the rest stays on disk and goes on at the next start. A
    second signal ends it at once. A change of the config file takes effect while it runs; SIGHUP reads it again.
    With --simulate faults are made on purpose, on a staging node, to see what health, alerts and metrics say of them.
    """
    for number in _ENDING:
        signal.signal(number, _end_at_once)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the file is about to be read anyway
    from detector.assembly import ServiceRefused

    return_large_blocks()
    share_one_heap()
    notifier = Notifier.from_environment()  # before any child process
    configure_logs("info", "auto")
    rehearsal = read_rehearsal(simulate, may_cut=may_cut)
    settings, file = _read(config, rehearsal)
    configure_logs(settings.log.level, settings.log.format)
    if config is None:
        log.info("config.none_named", note="every option has its default; name a file with -c or STOPFRAME_CONFIG")
    try:
        asyncio.run(_serve(settings, file, notifier, rehearsal))
    except ServiceRefused as error:
        raise CommandFailed(str(error), 1 if error.may_pass else 2) from None


def _read(path: Path | None, rehearsal: "Rehearsal") -> "tuple[Config, FollowedFile | None]":
    """The config, and the file that it comes from, to be followed from here on."""
    if path is None:
        return read_config(None), None
    file = rehearsal.file(path)
    reading = file.read()
    if reading.config is None:
        raise CommandFailed("\n".join(str(fault) for fault in reading.faults))
    return reading.config, file


def _end_at_once(*_: object) -> None:
    """Children die with this process, what counts is on disk, and the broker tells that it is gone."""
    os._exit(0)


def on_first_ending(act: Callable[[], object]) -> None:
    """Have the first signal to end do something and the second end the process, whatever it is doing."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in _ENDING:
            loop.remove_signal_handler(number)
            signal.signal(number, _end_at_once)
        act()

    for number in _ENDING:
        loop.add_signal_handler(number, first)


async def _serve(config: "Config", file: "FollowedFile | None", notifier: Notifier, rehearsal: "Rehearsal") -> None:
    from detector.assembly import open_service

    is_over = asyncio.Event()
    starting = asyncio.current_task()
    assert starting is not None
    on_first_ending(starting.cancel)
    lend_threads()
    try:
        async with notifier.watching(), open_service(config, file, rehearsal) as service:
            on_first_ending(is_over.set)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload_soon)
            service.around_reload = notifier.reloading
            where = service.addresses
            log.info(
                "service.ready",
                http=where.http,
                ingest=where.ingest,
                broker=where.broker,
                state_dir=str(config.state_dir),
            )
            keep_what_is_loaded()
            notifier.ready(service.is_whole, service.status_line)
            await is_over.wait()
            log.info("service.ending")
            notifier.stopping()
    except asyncio.CancelledError:  # told to end before it was ready
        pass


def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Config files.")] = None,
    config: ConfigFile = None,
) -> None:
    """Check config files, a service's or a cutter's.

    Exit 0, or 2 with file, line, key and remedy of every fault. Reads only these files: whether the models, banks and
    servers that they name are there, and how long the lists are that have to fit the budget of false matches, `models
    check` and `run` find out.
    """
    chosen = files or ([config] if config else [])
    if not chosen:
        raise CommandFailed("no file is named; write the config file to check, as in 'stopframe check stopframe.yaml'")
    from detector.cutter.config import CutterConfig, is_cutters

    cutters = [file for file in chosen if is_cutters(file)]
    faults = [
        fault
        for file in chosen
        for fault in (check_other(CutterConfig, file) if file in cutters else check_files([file]))
    ]
    if faults:
        raise CommandFailed("\n".join(str(fault) for fault in faults))
    for file in chosen:
        found = None if file in cutters else read_public(file).config
        unknown = (
            "; 'run' finds out whether its banks keep to the budget of false matches" if found and found.banks else ""
        )
        if found and found.model_fields_set & {"models", "classes"}:
            unknown += f"; 'models check -c {file}' finds out whether its models and their labels are there"
        if found and not found.model_fields_set:
            unknown = "; it names no option, so every one is at its default"
        note(f"{file}: no fault{unknown}")


def reload(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Have the running service take up its config file now.

    It does so by itself within a second of a change; this says what came of it. With any fault nothing changes, and
    the exit code is 2.
    """
    from detector.api.client import ControlClient, ControlError

    configure_logs("warning", "auto")
    reading = read_public(config) if config else Reading(read_config(None))
    if reading.config is None:
        raise CommandFailed("\n".join(str(fault) for fault in reading.faults))
    try:
        with ControlClient(reading.config.state_dir) as service:
            report = service.reload(config.absolute() if config else None)
    except ControlError as error:
        raise CommandFailed(str(error)) from None
    if as_json:
        line(asdict(report))
    if report.faults:
        raise CommandFailed("\n".join(report.faults))
    if not as_json:
        if report.applied:
            note(f"in force now: {', '.join(report.applied)}")
        elif report.earlier_seconds is not None:
            note(f"in force as it stands; {report.earlier_seconds:.0f} s ago it took up {', '.join(report.earlier)}")
        else:
            note("in force as it stands")
        if report.waiting:
            note(f"takes a restart: {', '.join(report.waiting)}")

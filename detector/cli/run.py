"""`stopframe run` and `stopframe check`."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from detector.cli.options import ConfigFile, read_config
from detector.cli.output import CommandFailed, note
from detector.config.loading import check_files
from detector.logs import configure_logs
from detector.notify import Notifier

if TYPE_CHECKING:
    from detector.config.config import Config

log = structlog.get_logger()


def run(config: ConfigFile = None) -> None:
    """Run the service until SIGINT or SIGTERM.

    Open alerts then get 3 seconds to leave; the rest stays on disk and goes out at the next start.
    """
    from detector.assembly import ServiceRefused

    notifier = Notifier.from_environment()  # before any child process
    configure_logs("info", "auto")
    settings = read_config(config)
    configure_logs(settings.log.level, settings.log.format)
    try:
        asyncio.run(_serve(settings, notifier))
    except ServiceRefused as error:
        raise CommandFailed(str(error)) from None


async def _serve(config: "Config", notifier: Notifier) -> None:
    from detector.assembly import open_service

    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, starting.cancel)
    try:
        async with notifier.watching(), open_service(config) as service:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, is_over.set)
            where = service.addresses
            log.info(
                "service.ready",
                http=where.http,
                ingest=where.ingest,
                broker=where.broker,
                state_dir=str(config.state_dir),
            )
            notifier.ready(service.is_whole, service.status_line)
            await is_over.wait()
            log.info("service.ending")
            notifier.stopping()
    except asyncio.CancelledError:  # told to end before it was ready
        pass


def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Config files.")] = None,
    config: ConfigFile = None,
) -> None:
    """Check config files.

    Exit 0, or 2 with file, line, key and remedy of every fault. Reads only these files: whether the models, banks and
    servers that they name are there, `models check` and `run` find out.
    """
    chosen = files or ([config] if config else [])
    if not chosen:
        raise CommandFailed("no file is named; write the config file to check, as in 'stopframe check stopframe.yaml'")
    faults = check_files(chosen)
    if faults:
        raise CommandFailed("\n".join(str(fault) for fault in faults))
    for file in chosen:
        note(f"{file}: no fault")

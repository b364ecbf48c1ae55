"""`stopframe cutter`."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from detector.cli.output import CommandFailed
from detector.cli.run import on_first_ending
from detector.logs import configure_logs
from detector.notify import Notifier

if TYPE_CHECKING:
    from detector.cutter.config import CutterConfig

log = structlog.get_logger()


def cutter(
    config: Annotated[
        Path,
        typer.Option("-c", "--config", envvar="STOPFRAME_CUTTER", metavar="FILE", help="The cutter's config file."),
    ],
) -> None:
    """Cut what signed alerts of a service ask for.

    Runs on whichever host reaches the ingest server. What was begun gets a few seconds to end; the rest is on disk and
    goes on at the next start. A second signal ends it at once.
    """
    notifier = Notifier.from_environment()
    configure_logs("info", "auto")
    from detector.config.faults import ConfigError
    from detector.config.loading import load_other
    from detector.cutter.assembly import CutterRefused
    from detector.cutter.config import CutterConfig, is_cutters

    try:
        settings = load_other(CutterConfig, config)
    except ConfigError as error:
        hint = "" if is_cutters(config) else "\nthis looks like no cutter's config file: begin with configs/cutter.yaml"
        raise CommandFailed(f"{error}{hint}") from None
    configure_logs(settings.log.level, settings.log.format)
    try:
        asyncio.run(_serve(settings, notifier))
    except CutterRefused as error:
        raise CommandFailed(str(error), 1) from None


async def _serve(config: "CutterConfig", notifier: Notifier) -> None:
    from detector.cutter.assembly import open_cutter

    is_over = asyncio.Event()
    starting = asyncio.current_task()
    assert starting is not None
    on_first_ending(starting.cancel)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _say_restart)
    try:
        async with notifier.watching(), open_cutter(config) as service:
            on_first_ending(is_over.set)
            log.info(
                "cutter.ready",
                http=f"http://{config.http.listen.host}:{service.http_port}",
                node=config.node,
                public_key=service.public_key,
                state_dir=str(config.state_dir),
            )
            notifier.ready(lambda: True, service.status_line)
            await is_over.wait()
            log.info("cutter.ending")
            notifier.stopping()
    except asyncio.CancelledError:  # told to end before it was ready
        pass


def _say_restart() -> None:
    log.info("cutter.not_reloaded", note="a cutter reads its config at the start alone; restart it")

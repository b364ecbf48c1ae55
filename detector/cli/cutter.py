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
    from detector.api.view import Health
    from detector.cutter.config import CutterConfig

log = structlog.get_logger()

_HEALTH_SECONDS = 5.0


def cutter(
    config: Annotated[
        Path,
        typer.Option("-c", "--config", envvar="STOPFRAME_CUTTER", metavar="FILE", help="The cutter's config file."),
    ],
) -> None:
    """Cut what signed alerts of a service ask for.

    Runs on whichever host reaches the ingest server. What was begun gets a few seconds to end; the rest is on disk and
    goes on at the next start. A second signal ends it at once. SIGHUP has it read its config file again: whom it
    trusts, what it logs and how long a cut may take change at once, the rest waits for a restart.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the file is about to be read anyway
    notifier = Notifier.from_environment()
    configure_logs("info", "auto")
    from detector.config.faults import ConfigError
    from detector.config.loading import load_other
    from detector.cutter.assembly import CutterRefused
    from detector.cutter.config import CutterConfig, is_services

    try:
        settings = load_other(CutterConfig, config)
    except ConfigError as error:
        if is_services(config):
            what = f"{config} is a service's config file, and a cutter needs its own; begin with configs/cutter.yaml"
            raise CommandFailed(what) from None
        raise CommandFailed(str(error)) from None
    configure_logs(settings.log.level, settings.log.format)
    try:
        asyncio.run(_serve(settings, config, notifier))
    except CutterRefused as error:
        raise CommandFailed(str(error), 1) from None


async def _serve(config: "CutterConfig", file: Path, notifier: Notifier) -> None:
    from detector.cutter.assembly import open_cutter

    is_over = asyncio.Event()
    starting = asyncio.current_task()
    assert starting is not None
    on_first_ending(starting.cancel)
    try:
        async with notifier.watching(), open_cutter(config, file) as service, asyncio.TaskGroup() as reloads:

            async def reload() -> None:
                with notifier.reloading():
                    await service.reload()

            on_first_ending(is_over.set)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: reloads.create_task(reload()))
            log.info(
                "cutter.ready",
                http=f"http://{config.http.listen.host}:{service.http_port}",
                webhook=service.webhook,
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


def health_of_cutter(file: Path) -> "Health":
    """Ask the running cutter of a config file how it is. Raises CommandFailed."""
    import httpx
    from pydantic import TypeAdapter, ValidationError

    from detector.api.view import Health
    from detector.config.faults import ConfigError
    from detector.config.loading import load_other, read_part
    from detector.cutter.config import CutterConfig, CutterHttpSection

    try:
        listen = load_other(CutterConfig, file, needs_secrets=False).http.listen
    except ConfigError as error:  # what runs goes on with its last good config, and can be asked all the same
        part = read_part(CutterHttpSection, file, "http")
        if part is None:
            raise CommandFailed(str(error)) from None
        listen = part.listen
    if not listen.port:
        raise CommandFailed("http.listen has port 0, so that nobody knows where to ask; write a port")
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    address = f"http://{host}:{listen.port}/health/ready"
    try:
        answer = httpx.get(address, timeout=_HEALTH_SECONDS, trust_env=False)
        return TypeAdapter(Health).validate_json(answer.content)
    except (httpx.HTTPError, ValidationError):
        what = f"no cutter answers at {address}; start it with 'stopframe cutter -c {file}'"
        raise CommandFailed(what) from None

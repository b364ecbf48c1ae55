"""A running cutter takes up its config file again when it is told to (SIGHUP), and goes on with the last good one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from detector.config.exposure import is_loopback, secret_notes, warn_of_exposure
from detector.config.faults import ConfigError, Fault
from detector.config.loading import load_other
from detector.cutter.config import CutterConfig
from detector.logs import configure_logs
from detector.metrics import Metrics
from detector.reload import changed_keys, merged

log = structlog.get_logger()

LIVE: Final = frozenset(
    {
        "deadline",
        "keep",
        "log.level",
        "log.format",
        "trust.trusted_keys.*.name",
        "trust.trusted_keys.*.public_key",
        "trust.trusted_keys.*.may",
        "trust.trusted_keys.*.until",
        "webhook.answer_within",
    }
)
"""What is taken up at once. What the files of mqtt.password and webhook.secret hold is read whenever it is needed."""

_OUR_FAULT: Final = "could not be read by a fault of stopframe's; restart it, and report what its log says"


class FollowedConfig:
    """The config in force of one cutter; `keys` are those that it trusts, `take` is told of each new one."""

    def __init__(self, path: Path | None, config: CutterConfig, metrics: Metrics) -> None:
        self.in_force = config
        self.keys = config.trust.keys()
        self.take: Callable[[CutterConfig], None] = lambda _: None
        self._path = path
        self._metrics = metrics
        self._faults: list[Fault] = []
        self._waiting: tuple[str, ...] = ()
        self._turn = asyncio.Lock()
        warn_of_exposure(config)
        metrics.set_config_taken(is_taken=True)

    async def reload(self) -> None:
        """Read the file; with any fault in it nothing changes."""
        if self._path is None:
            return
        async with self._turn:
            try:
                new = await asyncio.to_thread(load_other, CutterConfig, self._path)
            except ConfigError as error:
                self._faults = list(error.faults)
                self._metrics.set_config_taken(is_taken=False)
                note = "the last good config is in force"
                log.warning("config.refused", fault=str(error.faults[0]), count=len(error.faults), note=note)
            except Exception as error:  # a fault of ours in a reload must not end a cutter that does its job
                log.warning("config.refused", fault=type(error).__name__, count=1, note=_OUR_FAULT, exc_info=error)
            else:
                self._apply(new)

    def notes(self) -> list[str]:
        """What an operator should know of the file, for health."""
        told = secret_notes(self.in_force)
        webhook = self.in_force.webhook
        if webhook.secret is not None and not is_loopback(webhook.listen.host):
            told.append(
                "webhook.listen can be reached from other machines and speaks no TLS; listen on 127.0.0.1, and let a "
                "reverse proxy in front add it"
            )
        if self._faults:
            told.append(
                f"the config file has a fault in line {self._faults[0].line}, and the next start would be refused: the "
                "last good config stays in force; 'stopframe check' says what to correct"
            )
        if self._waiting:
            told.append(
                f"the config file changes {', '.join(self._waiting)}, which takes a restart; until then the old values "
                "are in force"
            )
        return told

    def _apply(self, new: CutterConfig) -> None:
        before = self.in_force
        self.in_force = merged(before, new, LIVE)
        self.keys = self.in_force.trust.keys()
        self._metrics.set_config_taken(is_taken=True)
        self._faults, self._waiting = [], tuple(changed_keys(self.in_force, new))
        warn_of_exposure(new)
        self.take(self.in_force)
        log.info("config.applied", keys=tuple(changed_keys(before, self.in_force)))
        if self._waiting:
            log.warning("config.waits_for_restart", keys=self._waiting)
        if self.in_force.log != before.log:
            configure_logs(self.in_force.log.level, self.in_force.log.format)

"""Keeps the database at its size: old rows go at the start and then every hour, for as long as the service runs."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from detector.alerts.clock import Clock
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.retention import InUse, Retention, RetentionSettings

log = structlog.get_logger()

_EVERY_SECONDS = 3600.0
_AGAIN_SECONDS = 60.0


class Upkeep:
    """`run` is a work of the service. `keep_seconds` is asked before each round: a reload may have changed it."""

    def __init__(
        self,
        database: Database,
        keep_seconds: Callable[[], float],
        in_use: InUse,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._retention = Retention(database, RetentionSettings(keep_seconds=keep_seconds), in_use, clock or Clock())
        self._sleep = sleep

    async def run(self) -> None:
        """Remove what is due, again and again; a disk that refuses is asked again soon, and told of by delivery."""
        while True:
            pause = _EVERY_SECONDS
            try:
                await self._retention.once()
            except StoreUnavailable as error:
                log.info("retention.postponed", why=str(error))
                pause = _AGAIN_SECONDS
            await self._sleep(pause)

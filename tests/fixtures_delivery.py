"""A sink that answers as a test says, and alerts for it."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from detector.alerts.alert import Alert, AlertFacts, WallAnchor, build_alert, uuid7
from detector.alerts.courier import DeliverySettings
from detector.alerts.sink import Notice, Receipt
from detector.events import Step

QUICK = DeliverySettings(backoff_first_seconds=0.05, backoff_limit_seconds=0.2, attempt_timeout_seconds=5)


@dataclass
class FakeSink:
    """A sink that answers as the test says, and keeps what it accepted."""

    name: str = "fake"
    answer: Callable[[Notice], Receipt] = lambda _: Receipt.ACCEPTED
    accepted: list[Notice] = field(default_factory=list)
    tried: list[Notice] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: bool = False

    def __post_init__(self) -> None:
        self.ready.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def wait_ready(self) -> None:
        await self.ready.wait()

    async def deliver(self, notice: Notice) -> Receipt:
        self.tried.append(notice)
        if self.hangs:
            await asyncio.sleep(3600)
        receipt = self.answer(notice)
        if receipt is Receipt.ACCEPTED:
            self.accepted.append(notice)
        return receipt

    def problems(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return []

    def ids(self) -> list[str]:
        return [notice.alert_id for notice in self.accepted]


def some_alert(stream: str = "S", *, action: Step = Step.REVIEW, expires_after_ms: int = 60_000) -> Alert:
    facts = AlertFacts(
        stream_id=stream, session="1", signals=(), votes=(1, 1), action=action, is_live=True, config_digest="c"
    )
    anchor = WallAnchor(time.monotonic(), int(time.time() * 1000))
    return build_alert(
        facts,
        alert_id=uuid7(anchor.wall_ms, os.urandom(10)),
        anchor=anchor,
        queued_at=anchor.monotonic_seconds,
        expires_after_ms=expires_after_ms,
    )

"""What a sink is: a place where alerts go, and the one question it answers about each of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert on its way to one sink. `payload` is UTF-8 JSON; `order` sorts the alerts of one stream.

    `urgency` is one of `detector.alerts.urgency.Urgency`.
    """

    alert_id: str
    stream_id: str
    urgency: int
    payload: bytes
    expires_at_ms: int
    order: float
    is_durable: bool = True


@unique
class Receipt(Enum):
    """What the other side said of one alert. Only `ACCEPTED` ends its delivery.

    Two are no faults: `AWAITED` is on its way, and whoever acts on it has not said yet what became of it; `HELD` was
    not sent now, for the same reason.
    """

    ACCEPTED = "accepted"
    AWAITED = "awaited"
    HELD = "held"
    NOBODY_LISTENS = "nobody listens"
    NOT_AUTHORIZED = "not authorized"
    REFUSED = "refused"


class SinkUnavailable(Exception):
    """Raised by `Sink.deliver` when no answer came: the alert may or may not have arrived, and is sent again."""


class Sink(Protocol):
    """One destination of alerts, entered with `async with` before it is given to `Delivery`.

    A sink owns its connection and brings it back by itself. It keeps no alert: what it did not accept comes again,
    with the same id and the same bytes.
    """

    @property
    def name(self) -> str:
        """The word in the outbox, in health and in the config; unique and never changed."""

    async def __aenter__(self) -> Self:
        """Begin connecting; an unreachable other side is a problem to report, not an error to raise."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye within a second or two, whatever the other side does."""

    async def wait_ready(self) -> None:
        """Return once delivering makes sense: at once for sinks without a connection."""

    async def deliver(self, notice: Notice) -> Receipt:
        """Hand one alert over and return what the other side said.

        Raises:
            SinkUnavailable: no answer.
        """

    def problems(self) -> list[str]:
        """Return what an operator must fix, one sentence each with the remedy; empty when all is well."""

    def notes(self) -> list[str]:
        """Return what an operator should know and need not fix."""


@runtime_checkable
class HoldsAlerts(Protocol):
    """A sink that answers `AWAITED` and `HELD`: it knows itself when an alert is due again."""

    def held_seconds(self, alert_id: str) -> float:
        """Return after how many seconds the alert is due again."""


@runtime_checkable
class GivesUpByItself(Protocol):
    """A sink that says itself how long one alert may take."""

    @property
    def patience_seconds(self) -> float:
        """After so many seconds `deliver` has ended."""


class StatusBoard(Protocol):
    """Where the service shows its state beside alerts. Nothing here waits, and the newest state replaces older ones."""

    def set_health(self, health: Mapping[str, Any]) -> None:
        """Show the node's health."""

    def set_status(self, stream_id: str, status: Mapping[str, Any]) -> None:
        """Show one stream's state."""

    def send_coverage(self, stream_id: str, coverage: Mapping[str, Any]) -> None:
        """Send one stream's coverage, if anyone can be reached now."""

    def end_stream(self, stream_id: str) -> None:
        """Let an ended stream's last state stand for a while, then clear it."""

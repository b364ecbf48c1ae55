"""What remote cuts need of the service, and what they count."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from detector.events import StreamKey
from detector.remote.desk import Awaited


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a remote cut needs of the service.

    `settle` ends the delivery of an alert; `send_again` has those of a stream tried now; `open_of` gives the alerts of
    an incident that are still open, also those never sent; `find_open` looks for one that an earlier run sent.
    `order_cut` and `order_undo` command the cutter and raise `IngestUnavailable` where it does not answer. `stream_of`
    gives a key's public name, `last_packet_at` when a live stream's last packet came here, None where it is not live.
    `unknown_ack` is told of each acknowledgement that ends nothing.
    """

    settle: Callable[[str], Awaitable[None]]
    send_again: Callable[[str], None]
    open_of: Callable[[str], Awaitable[list[str]]]
    find_open: Callable[[str], Awaitable[Awaited | None]]
    order_cut: Callable[[str, str | None], Awaitable[None]]
    order_undo: Callable[[str], Awaitable[None]]
    stream_of: Callable[[StreamKey], str]
    last_packet_at: Callable[[str], float | None]
    unknown_ack: Callable[[], None] = lambda: None


@dataclass(slots=True)
class RemoteCounters:
    """What the cutter said since the start, and what became of it."""

    received_total: int = 0
    cut_total: int = 0
    rejected_total: int = 0
    unknown_total: int = 0
    """Acknowledgements of alerts that wait for none: repeated, or over."""

    unproved_total: int = 0
    unanswered_total: int = 0

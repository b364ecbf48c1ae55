"""What remote cuts need of the service, and what they count."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from detector.events import StreamKey
from detector.metric_words import RemoteWord
from detector.remote.desk import Awaited


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a remote cut needs of the service.

    `settle` ends the delivery of an alert; `send_again` has those of a stream tried now; `open_of` gives the alerts of
    an incident that are still open, also those never sent; `find_open` looks for one that an earlier run sent.
    `order_cut` and `order_undo` command the cutter and raise `IngestUnavailable` where it does not answer. `stream_of`
    gives a key's public name, `last_packet_at` when a live stream's last packet came here, None where it is not live.
    `unknown_ack` is told of each acknowledgement that ends nothing, `count` of what the cutter said and what that was.
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
    count: Callable[[RemoteWord], None] = lambda _: None


@dataclass(slots=True)
class RemoteCounters:
    """What the cutter said since the start, and what became of it."""

    by_word_total: Counter[RemoteWord] = field(default_factory=Counter)
    unknown_total: int = 0
    """Acknowledgements of alerts that wait for none: repeated, or over."""

"""Who may watch: what ingest servers ask before they answer for a viewer, and whom they let in already."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from detector.events import Publisher, StreamKey

_VIEWERS_KEPT = 100_000
_KEYS_KEPT = 16_384
_READER_SECONDS = 20.0
"""Our reader asks for a stream long before this is over, however slow its source."""


class ViewerGate(Protocol):
    """Decides about viewers, from memory: it is asked while one waits."""

    @property
    def is_shut(self) -> bool:
        """Whether anybody at all is kept waiting; False: whatever is asked may be watched."""

    def may_watch(self, key: StreamKey, connection: str | None = None) -> bool:
        """Whether viewers may see the publisher of `key`, on `connection` where the server knows it."""

    def publisher_comes(self, key: StreamKey) -> None:
        """Somebody is about to publish `key`: what was cleared before is not any more."""


class OpenGate:
    """Lets everybody watch everything."""

    is_shut = False

    def may_watch(self, key: StreamKey, connection: str | None = None) -> bool:  # noqa: ARG002
        """As `ViewerGate`."""
        return True

    def publisher_comes(self, key: StreamKey) -> None:
        """As `ViewerGate`."""


@runtime_checkable
class HoldsViewers(Protocol):
    """An ingest server that can keep viewers from a stream; it asks `viewers`, which is open until it is set."""

    viewers: ViewerGate


class ViewerList:
    """The viewers that were let in, by the server's own ids: those of a publisher who left may see the next one.

    Bounded: the oldest are forgotten, `forgotten_total` counts them.
    """

    def __init__(self) -> None:
        self.forgotten_total = 0
        self._keys: OrderedDict[str, StreamKey] = OrderedDict()
        self._by_key: dict[StreamKey, set[str]] = {}

    def came(self, key: StreamKey, viewer: str) -> None:
        """`viewer` was let in."""
        self.left(viewer)
        self._keys[viewer] = key
        self._by_key.setdefault(key, set()).add(viewer)
        while len(self._keys) > _VIEWERS_KEPT:
            self.forgotten_total += 1
            self.left(next(iter(self._keys)))

    def left(self, viewer: str) -> None:
        """`viewer` is gone."""
        key = self._keys.pop(viewer, None)
        if key is not None:
            self._by_key[key].discard(viewer)
            if not self._by_key[key]:
                del self._by_key[key]

    def of(self, key: StreamKey) -> list[str]:
        """Who was let in to `key` and has not left."""
        return sorted(self._by_key.get(key, ()))


class PlayWatch:
    """Whether a server really asks about viewers: our own reader is one, so a hold that holds nobody is noticed."""

    def __init__(self) -> None:
        self._heard: OrderedDict[StreamKey, None] = OrderedDict()

    def heard(self, key: StreamKey) -> None:
        """The server asked about our own reader of `key`."""
        self._heard[key] = None
        self._heard.move_to_end(key)
        while len(self._heard) > _KEYS_KEPT:
            self._heard.popitem(last=False)

    @staticmethod
    def as_first_seen(before: Iterable[Publisher], found: Iterable[Publisher]) -> list[Publisher]:
        """Those found, each as it stood in the list before."""
        seen = {(publisher.connection, publisher.key): publisher for publisher in before}
        return [seen.get((publisher.connection, publisher.key), publisher) for publisher in found]

    def problems(self, gate: ViewerGate, live: Iterable[Publisher], now: float, remedy: str) -> list[str]:
        """One sentence where viewers are to be held and publishers are live that we were never asked about."""
        if not gate.is_shut:
            return []
        old = [one for one in live if now - one.since_at > _READER_SECONDS and one.key not in self._heard]
        if not old:
            return []
        sentence = (
            f"{len(old)} publishers are live without a question about our own readers, so ingest.hold may keep nobody "
            f"from them: {remedy}"
        )
        return [sentence]

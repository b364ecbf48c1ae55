"""Who is live on nginx-rtmp, from two witnesses: its hooks and its stat page. No clock, no network.

A worker tells by stat what it has; hooks come from every worker, one that is shutting down after a reload included.
Whoever is live by the hooks and missing in stat sits on a worker that the control module does not reach.
"""

import asyncio
import itertools
from dataclasses import dataclass, field

from detector.events import Publisher, StreamKey
from detector.ingest.nginx_stat import StatPage, StatPublisher


@dataclass(eq=False, slots=True)
class Entry:
    """One publisher.

    `heard_at` is when a hook last spoke of it, None if none did. `is_listed`: the last page has it; `unlisted_at`: the
    first page since it had not. `is_held`: its hook is not answered yet. `is_condemned`: its next update is refused.
    """

    publisher: Publisher
    clientid: str
    is_exact: bool
    heard_at: float | None
    told_at: float
    is_held: bool = False
    is_listed: bool = False
    unlisted_at: float | None = None
    is_condemned: bool = False
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Roll:
    """The publishers of one server. All times are monotonic seconds of the caller's clock.

    `update_seconds` is how often a live publisher's `on_update` comes.
    """

    def __init__(self, server: str, update_seconds: float) -> None:
        self.entries: dict[str, Entry] = {}
        self._by_key: dict[StreamKey, dict[str, Entry]] = {}
        self._server = server
        self._silence_seconds = 2 * update_seconds + 1.0
        self._numbers = itertools.count(1)
        self._pids: list[str] = []
        self.has_several_workers = False

    def published(self, clientid: str, key: StreamKey, address: str, now: float) -> Entry:
        """A hook says that `clientid` begins to publish, or is at it."""
        self.remove(clientid)
        return self._add(clientid, key, address, now, heard_at=now, is_exact=True)

    def updated(self, clientid: str, key: StreamKey, address: str, now: float) -> Entry:
        """A hook says that `clientid` still publishes; it is taken in if it was not known under this name."""
        entry = self.entries.get(clientid)
        if entry is None or entry.publisher.key != key or not entry.is_exact:
            was_listed = entry is not None and entry.is_listed
            entry = self.published(clientid, key, address, now)
            entry.is_listed = was_listed
        entry.heard_at = now
        return entry

    def remove(self, clientid: str) -> Entry | None:
        """`clientid` publishes no more."""
        entry = self.entries.pop(clientid, None)
        if entry is not None:
            entry.gone.set()
            alike = self._by_key[entry.publisher.key]
            del alike[clientid]
            if not alike:
                del self._by_key[entry.publisher.key]
        return entry

    def of(self, key: StreamKey) -> list[Entry]:
        """Everybody who publishes `key`, or is about to; as quick for many publishers as for one."""
        return list(self._by_key.get(key, {}).values())

    def listed(self, page: StatPage, ours: tuple[StatPublisher, ...], now: float) -> None:
        """The server's page says that exactly `ours` are live on the worker that answered."""
        self._note_worker(page.pid)
        for entry in self.entries.values():
            entry.is_listed = False
        for told in ours:
            known = self.entries.get(told.clientid)
            if known is None or not _may_be(known, told):
                self.remove(told.clientid)
                key = StreamKey(self._server, told.app, told.name)
                known = self._add(told.clientid, key, told.address, now, heard_at=None, is_exact=told.is_exact)
            known.is_listed = True
        for entry in self.entries.values():
            entry.unlisted_at = None if entry.is_listed else entry.unlisted_at or now
        for entry in [e for e in self.entries.values() if self._has_left(e, now)]:
            self.remove(entry.clientid)

    def unreachable(self, since: float, now: float) -> None:
        """The server has not answered since `since`: who was not heard of meanwhile is gone with it."""
        if now - since <= self._silence_seconds / 2:
            return
        for entry in [e for e in self.entries.values() if e.heard_at is None or e.heard_at < since]:
            self.remove(entry.clientid)

    def on_air(self, now: float) -> list[Publisher]:
        """One publisher for each key: the one that stat lists, else the latest that the hooks told of."""
        chosen: dict[StreamKey, Entry] = {}
        for entry in self.entries.values():
            if not entry.is_exact and now - entry.told_at <= self._silence_seconds:
                continue  # its true name comes with the next update
            other = chosen.get(entry.publisher.key)
            if other is None or _rank(entry) > _rank(other):
                chosen[entry.publisher.key] = entry
        return [entry.publisher for entry in chosen.values()]

    def missing(self) -> list[Entry]:
        """Who is live by the hooks' word, given after a page that lists it not."""
        return [
            entry
            for entry in self.entries.values()
            if entry.unlisted_at is not None and entry.heard_at is not None and entry.heard_at > entry.unlisted_at
        ]

    def unheard(self, now: float) -> list[Entry]:
        """Who has been in stat for long without a word from the hooks."""
        silence = 2 * self._silence_seconds
        return [e for e in self.entries.values() if e.is_listed and now - (e.heard_at or e.told_at) > silence]

    def _add(
        self, clientid: str, key: StreamKey, address: str, now: float, *, heard_at: float | None, is_exact: bool
    ) -> Entry:
        # A connection may publish, end and publish again: each time is a publisher of its own.
        publisher = Publisher(key, f"{clientid}.{next(self._numbers)}", since_at=now, address=address[:100])
        entry = self.entries[clientid] = Entry(publisher, clientid, is_exact, heard_at, told_at=now)
        self._by_key.setdefault(key, {})[clientid] = entry
        return entry

    def _has_left(self, entry: Entry, now: float) -> bool:
        if entry.is_listed or entry.is_held:
            return False
        return entry.heard_at is None or now - entry.heard_at > self._silence_seconds

    def _note_worker(self, pid: str) -> None:
        """A reload brings a new worker for good; one that comes back means that several answer in turns."""
        if pid in self._pids[:-1]:
            self.has_several_workers = True
        if not self._pids or self._pids[-1] != pid:
            self._pids = [*self._pids[-15:], pid]


def _may_be(entry: Entry, told: StatPublisher) -> bool:
    """Whether `told` is the publisher known as `entry`: the page may have spoilt its name."""
    key = entry.publisher.key
    return (_spoilt(key.app), _spoilt(key.name)) == (told.app, told.name)


def _spoilt(name: str) -> str:
    return "".join(chr(b) if 0x20 <= b < 0x7F else " " for b in name.encode("utf-8", "surrogateescape"))


def _rank(entry: Entry) -> tuple[bool, float]:
    return entry.is_listed, entry.told_at

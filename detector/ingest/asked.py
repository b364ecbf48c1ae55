"""What ingest servers have in common that are asked over HTTP who publishes; each adds its questions."""

import contextlib
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs

from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.admittance import OpenDoor, PublisherGate
from detector.ingest.hook_watch import HookWatch
from detector.ingest.hooks import BadForm, first_values
from detector.ingest.keys import PART_LIMIT_CHARACTERS
from detector.ingest.polling import PublisherPoll
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from detector.ingest.viewers import OpenGate, PlayWatch, ViewerGate
from detector.redaction import hide_secret
from streams.job import SourceKind

PUBLISHERS_LIMIT = 20_000
"""Publishers that one server may have; a list that goes on beyond comes from no ingest server."""

READER = "stopframe"
"""The argument by which our own readers show that they are ours."""

_ARGUMENTS = 100
_STEPS = frozenset({".", ".."})
"""Quoting leaves them as they are, and whoever tidies the path of a request asks for, or deletes, what is above."""


class AskedServer(ABC):
    """An `IngestServer` but for `reader_source`, `_ask_for_live` and `_drop`, which each kind adds.

    `title` is what the server is called in sentences; `hook_remedy` says how it is made to ask our hook, where it can,
    and `play_remedy` how it is made to ask about viewers. `clock` is monotonic, in seconds.
    """

    can_cut = True
    tells_of_publishers: ClassVar[bool] = False
    title: ClassVar[str]
    hook_remedy: ClassVar[str | None] = None
    play_remedy: ClassVar[str | None] = None

    def __init__(
        self, name: str, revocations: Revocations, api: ServerApi, *, poll_seconds: float, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.viewers: ViewerGate = OpenGate()
        self.publishers_gate: PublisherGate = OpenDoor()
        self._revocations = revocations
        self._api = api
        self._clock = clock
        self._watch = HookWatch()
        self._poll = PublisherPoll(name, self._list, interval_seconds=poll_seconds, clock=clock)
        self._unreadable = 0
        self._plays = PlayWatch()
        self._live_now: list[Publisher] = []
        # Our own readers show this; it ends with the process.
        self._reader_secret = secrets.token_urlsafe(24)
        hide_secret(self._reader_secret)
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to ask the server; one that is down is asked until it is up."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._api)
            await stack.enter_async_context(self._poll)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more; every `changes()` ends. Publishers stay live."""
        await self._resources.aclose()

    async def publishers(self) -> list[Publisher]:
        """Who publishes now."""
        return await self._poll.now()

    def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`; goes on while the server is down, which `problems` tells."""
        return self._poll.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """As `IngestServer.cut`: everybody whom the server lists under `key` now, or on that connection."""
        found = [p for p in await self._poll.now() if p.key == key and connection in (None, p.connection)]
        count = 0
        for publisher in found:
            count += await self._drop(publisher)
        if found:
            self._poll.hurry()
        return CutResult(count=count)

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: the hook refuses later publishers of `key`."""
        await self._revocations.add(key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`."""
        await self._revocations.remove(key)

    def is_revoked(self, key: StreamKey) -> bool:
        """Whether `key` is denied."""
        return key in self._revocations

    def problems(self) -> list[str]:
        """What keeps this server from being watched or obeyed, one sentence each."""
        found = [] if self._poll.fault is None else [self._poll.fault]
        if self.hook_remedy is not None and self._watch.unasked:
            found.append(
                f"{self._watch.unasked} publishers got in without {self.title} asking us, so revoked keys are only cut "
                f"when they are seen: {self.hook_remedy}"
            )
        if self._unreadable:
            found.append(
                f"{self._unreadable} publishers on {self.title} have names that nobody can ask for (too long, or "
                "with control characters), so they are not watched: have the platform refuse such names"
            )
        if self.play_remedy is not None:
            found += self._plays.problems(self.viewers, self._live_now, self._clock(), self.play_remedy)
        return [*found, *self._revocations.problems()]

    @abstractmethod
    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """As `IngestServer.reader_source`."""

    @abstractmethod
    async def _ask_for_live(self) -> list[Publisher]:
        """Everybody whom the server calls live; raises `IngestUnavailable`."""

    @abstractmethod
    async def _drop(self, publisher: Publisher) -> int:
        """Drop one; how many the server says that it dropped. Raises `IngestUnavailable`."""

    async def _list(self) -> list[Publisher]:
        live = await self._ask_for_live()
        found = [publisher for publisher in live if is_readable(publisher.key)]
        self._unreadable = len(live) - len(found)
        self._live_now = self._plays.as_first_seen(self._live_now, found)
        if self.hook_remedy is not None:
            self._watch.listed(publisher.key for publisher in found if self._asks_about(publisher))
        return found

    def _asks_about(self, publisher: Publisher) -> bool:  # noqa: ARG002 - of some servers there are others
        """Whether the server asks its hook before it lets such a publisher in."""
        return True

    # For the hooks

    def _may_publish(self, key: StreamKey, query: str = "", address: str = "") -> bool:
        """Whether the hook lets `key` in; the list is asked at once, and what was cleared for viewers is not.

        `query` and `address` are the publisher's own, as the server tells them.
        """
        if not is_readable(key):
            return False  # what no reader can ask for could be published and never be seen
        self._watch.asked(key)
        self._poll.hurry()
        if self.is_revoked(key) or not self.publishers_gate.admits(key, _arguments(query), address):
            return False
        self.viewers.publisher_comes(key)
        return True

    def _may_watch(self, key: StreamKey, query: str) -> bool:
        """Whether a viewer with this query may watch `key`; our own readers always may."""
        return self._may_watch_who_shows(key, argument(query.lstrip("?"), READER))

    def _may_watch_who_shows(self, key: StreamKey, secret: str) -> bool:
        if self._is_readers(secret):
            self._plays.heard(key)
            return True
        if not self.viewers.is_shut:
            return True
        return not self.is_revoked(key) and self.viewers.may_watch(key)

    def _is_reader(self, query: str) -> bool:
        return self._is_readers(argument(query.lstrip("?"), READER))

    def _is_readers(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self._reader_secret.encode())

    # For the lists

    def _publisher(self, key: StreamKey, connection: str, address: str = "") -> Publisher:
        return Publisher(key, connection, since_at=self._clock(), address=address[:100])

    def _connection_id(self, key: StreamKey, *parts: object) -> str:
        """An id for a publisher of whom the server tells none; it may be logged, so it does not hold the key."""
        told = "\0".join(map(str, (key.app, key.name, *parts)))
        digest = hmac.new(self._reader_secret.encode(), told.encode("utf-8", "surrogatepass"), "sha256")
        return digest.hexdigest()[:16]

    def _too_many(self) -> IngestUnavailable:
        return IngestUnavailable(
            f"{self.title} lists more than {PUBLISHERS_LIMIT} entries: give each server its own Stopframe, or correct "
            "the address"
        )

    @contextlib.contextmanager
    def _reading(self, answer: ApiAnswer) -> Iterator[Any]:
        """Read the JSON of an answer; whatever does not fit becomes the sentence that it was no such answer."""
        try:
            yield answer.content
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            raise self._api.refuse(answer) from None


def _arguments(query: str) -> dict[str, str]:
    try:
        return first_values(query.removeprefix("?").encode("utf-8", "surrogatepass"))
    except BadForm:
        return {}


def text(value: Any) -> str:
    """A value that must be text. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def items(value: Any) -> list[dict[str, Any]]:
    """A value that must be a list of objects. Raises TypeError."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError("no list of objects")
    return value


def argument(query: str, name: str) -> str:
    """The first value of an argument in a stranger's query, empty without one or where there are a hundred others."""
    try:
        return parse_qs(query, max_num_fields=_ARGUMENTS, errors="replace").get(name, [""])[0]
    except ValueError:
        return ""


def is_readable(key: StreamKey) -> bool:
    """Whether a reader can ask for it: printable, no longer than anybody's, and no step within the server's paths."""
    parts = (key.app, key.name)
    return bool(key.name) and all(
        len(part) <= PART_LIMIT_CHARACTERS
        and part not in _STEPS
        and not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in part)
        for part in parts
    )

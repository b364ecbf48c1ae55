"""Who is live, and what changed since a consumer last looked: bounded, and never out of date for good."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

from detector.events import Publisher, StreamKey
from detector.ingest.adapter import PublisherChange, PublisherEnded, PublisherStarted
from detector.redaction import hide_stream_key

_Place: TypeAlias = tuple[str, StreamKey]


class PublisherBoard:
    """The live publishers by connection and key, and any number of consumers that follow them.

    By both: whoever ends one stream and begins another on the same connection is somebody new, and so are two streams
    on one connection. No queue of events: each consumer is told the difference between what it knows and what is true,
    so a slow one costs no memory and can miss nothing that still matters.
    """

    def __init__(self) -> None:
        self._live: dict[_Place, Publisher] = {}
        self._wakes: set[asyncio.Event] = set()
        self._is_closed = False

    def current(self) -> list[Publisher]:
        """Everyone live, oldest first."""
        return list(self._live.values())

    def add(self, publisher: Publisher) -> None:
        """Put up a publisher; one that is up already stays as it is. Its key is shown nowhere from now on."""
        hide_stream_key(publisher.key.app, publisher.key.name)
        self._live.setdefault(_place(publisher), publisher)
        self._wake()

    def remove(self, publisher: Publisher) -> None:
        """Take the publisher down, if it is up."""
        if self._live.pop(_place(publisher), None) is not None:
            self._wake()

    def replace(self, publishers: Iterable[Publisher]) -> None:
        """Make the board say exactly this; for servers that are asked rather than listened to."""
        told = {_place(publisher): publisher for publisher in publishers}
        for place, publisher in told.items():
            if place not in self._live:
                hide_stream_key(publisher.key.app, publisher.key.name)
        self._live = {place: self._live.get(place, publisher) for place, publisher in told.items()}
        self._wake()

    def as_known(self, publishers: Iterable[Publisher]) -> list[Publisher]:
        """The same ones, each as it was first put up."""
        return [self._live.get(_place(publisher), publisher) for publisher in publishers]

    def close(self) -> None:
        """Take everyone down and end every `changes()`."""
        self._live.clear()
        self._is_closed = True
        self._wake()

    async def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`."""
        known: dict[_Place, Publisher] = {}
        wake = asyncio.Event()
        wake.set()
        self._wakes.add(wake)
        try:
            while True:
                await wake.wait()
                wake.clear()
                is_last = self._is_closed
                for change in self._differences(known):
                    yield change
                if is_last:
                    return
        finally:
            self._wakes.discard(wake)

    def _differences(self, known: dict[_Place, Publisher]) -> list[PublisherChange]:
        # Ends come first, so that a publisher who reconnects with the same key is never two at once.
        ended = [publisher for place, publisher in known.items() if place not in self._live]
        started = [publisher for place, publisher in self._live.items() if place not in known]
        known.clear()
        known.update(self._live)
        return [
            *(PublisherEnded(publisher.key, publisher.connection) for publisher in ended),
            *(PublisherStarted(publisher) for publisher in started),
        ]

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()


def _place(publisher: Publisher) -> _Place:
    return publisher.connection, publisher.key

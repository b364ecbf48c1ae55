"""Chains of pages that a broken or hostile exchange could make endless."""

import hashlib
from typing import Final

from detector.exchanges.client import ExchangeFailed
from models.lists.contents import ListContents

CLOCK_OFF_SECONDS: Final = 3600.0
"""A checkpoint of the future would leave out all that comes until then."""


class PageGuard:
    """Keeps a chain of pages from going in circles or on for ever without bringing anything."""

    _MOST_EMPTY: Final = 50
    """Exchanges that leave out what one may not see send some: an empty page is not the last one there."""

    _MOST_PAGES: Final = 200_000

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._links: set[str] = set()
        self._bodies: set[bytes] = set()
        self._pages = self._empty = 0

    def note(self, body: bytes, contents: ListContents, link: str) -> None:
        """Take note of a page and of the link to the next. Raises ExchangeFailed where the chain does not end."""
        self._pages += 1
        digest = hashlib.sha256(body).digest()
        records = len(contents) + len(contents.withdrawn) + contents.bad.count + sum(contents.left_out.values())
        self._empty = 0 if records else self._empty + 1
        is_repeated = (records and digest in self._bodies) or link in self._links
        if is_repeated or self._empty > self._MOST_EMPTY or self._pages > self._MOST_PAGES:
            raise ExchangeFailed(
                f"{self._origin} sends the same pages again and again, or empty ones; nothing of them was taken"
            )
        self._bodies.add(digest)
        self._links.add(link)


def refuse_future(origin: str, at_seconds: float, now: float) -> None:
    """Raises ExchangeFailed where a checkpoint lies in the future: all that came until then would be left out."""
    if at_seconds > now + CLOCK_OFF_SECONDS:
        raise ExchangeFailed(f"{origin} names a time in the future; see that the clock of this machine is right")

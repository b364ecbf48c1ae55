"""Tech Against Terrorism's hash list.

Parameters and reply as python-threatexchange has them (facebook/ThreatExchange,
python-threatexchange/threatexchange/exchanges/clients/techagainstterrorism/api.py) and
https://terrorismanalytics.org/docs/hash-list-v1 describes them.
"""

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urljoin

from detector.exchanges.client import Checkpoint, Clock, ExchangeFailed, Page
from detector.exchanges.paging import PageGuard, refuse_future
from detector.exchanges.transport import Access, Transport
from detector.redaction import hide_secret
from models.lists.tech_against_terrorism import TechAgainstTerrorismList
from models.lists.times import utc_text

_REACHED: Final = re.compile(r"([0-9]{1,11})(?:\.[0-9]{1,9})?,[0-9]{1,19}", re.ASCII)
"""`{utc seconds},{id}` of the last record."""


@dataclass(frozen=True, slots=True)
class TechAgainstTerrorism:
    """The client. `login` is name and password, for which the exchange gives a token."""

    access: Access
    login: tuple[str, str] = field(repr=False)
    ideology: str
    clock: Clock
    refetch_after_seconds: float | None = None

    async def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """As `ExchangeClient.fetch`. The checkpoint is the exchange's own word, of the last page."""
        began, guard = self.clock(), PageGuard(self.access.origin)
        base = self.access.url.rstrip("/")
        first = f"{base}/api/hash-list/v2/all"
        asked = {"ideology": self.ideology} if self.ideology else {}
        asked |= {"order": "asc", "after": checkpoint.position if checkpoint is not None else ""}
        url, params = first, asked
        is_empty = True
        async with Transport(self.access) as transport:
            transport.authorize(f"Bearer {await self._token(transport, base)}")
            while True:
                body = await transport.get(url, "json", params, is_continued=params is not asked)
                page = TechAgainstTerrorismList().parse(body)
                link = str(page.facts.get("next") or "")
                is_empty &= not page.facts.get("count") and not len(page.contents)
                if link:
                    guard.note(body, page.contents, link)
                    yield Page(page.contents, is_everything=not asked["after"])
                    url, params = _next(first, link, asked)
                    continue
                nothing_yet = Checkpoint("", "", began) if is_empty else None
                reached = self._reached(page.facts.get("checkpoint"), checkpoint or nothing_yet, began)
                yield Page(page.contents, reached, is_last=True, is_everything=not asked["after"])
                return

    async def _token(self, transport: Transport, base: str) -> str:
        form = {"username": self.login[0], "password": self.login[1], "resend": "False"}
        try:
            reply = json.loads(await transport.post(f"{base}/token-auth/tcap/", form))
            token = reply["token"]
        except (ValueError, KeyError, TypeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ExchangeFailed(f"{self.access.origin} gives no token; see that url is the exchange's API")
        hide_secret(token)
        return token

    def _reached(self, told: object, before: Checkpoint | None, began: float) -> Checkpoint:
        if told in ("", None) and before is not None:  # nothing new came
            return Checkpoint(before.position, before.version, began)
        match = _REACHED.fullmatch(told) if isinstance(told, str) else None
        if match is None:
            raise ExchangeFailed(f"{self.access.origin} does not say how far its list goes; it is tried again")
        refuse_future(self.access.origin, float(match[1]), began)
        return Checkpoint(match[0], utc_text(float(match[1])), began)


def _next(first: str, link: str, asked: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The next page: a URL, a path, or the parameters of one alone."""
    if link.startswith(("http://", "https://", "/", "?")):
        return urljoin(first, link), {}
    return first, {**asked, **dict(parse_qsl(link))}

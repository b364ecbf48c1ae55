"""NCMEC's hash sharing, version 2.

Parameters and reply as python-threatexchange has them (facebook/ThreatExchange,
python-threatexchange/threatexchange/exchanges/clients/ncmec/hash_api.py) and
https://report.cybertip.org/hashsharing/v2/documentation.pdf describes them.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from detector.exchanges.client import ChainBroken, Checkpoint, Clock, Page
from detector.exchanges.paging import PageGuard
from detector.exchanges.transport import Access, Transport
from models.lists.ncmec import NcmecList
from models.lists.times import utc_text

_LAG_SECONDS: Final = 5.0
_OVERLAP_SECONDS: Final = 300.0
"""Entries do not come in the order of their times: what is fetched twice changes nothing, what is left out is lost."""

LINK_SECONDS: Final = 12 * 3600.0
"""So long a link to the next page is good."""


@dataclass(frozen=True, slots=True)
class Ncmec:
    """The client of one environment. `access` holds name and password."""

    access: Access
    clock: Clock
    refetch_after_seconds: float | None = None

    async def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """As `ExchangeClient.fetch`.

        Entries come in no order, so that only the end of the whole range says how far the list is known: the checkpoint
        is the end that was asked for, in UTC. Where our clock is ahead of the exchange's it is the latter's: what is
        entered there until our time comes lies in no range else.
        """
        began, guard = self.clock(), PageGuard(self.access.origin)
        known = float(checkpoint.position) if checkpoint is not None else 0.0
        start = max(0.0, known - _OVERLAP_SECONDS)
        end = began - _LAG_SECONDS
        base = self.access.url.rstrip("/")
        url = f"{base}/v2/entries"
        params: dict[str, str] | None = {"from": utc_text(int(start)), "to": utc_text(int(end))}
        async with Transport(self.access) as transport:
            while True:
                body = await transport.get(url, "xml", params, is_continued=params is None)
                if params is not None and transport.told_at is not None:
                    end = max(known, min(end, transport.told_at - _LAG_SECONDS))
                page = NcmecList().parse(body)
                link = str(page.facts.get("next") or "")
                if link:
                    guard.note(body, page.contents, link)
                    yield Page(page.contents, is_everything=checkpoint is None)
                    if self.clock() - began > LINK_SECONDS:
                        raise ChainBroken(f"the pages of {self.access.origin} took longer than their links are good")
                    url, params = (link if urlsplit(link).scheme else base + link), None
                    continue
                reached = Checkpoint(str(int(end)), utc_text(int(end)), began)
                yield Page(page.contents, reached, is_last=True, is_everything=checkpoint is None)
                return

"""Meta's ThreatExchange: what changed in a privacy group.

Parameters and reply as python-threatexchange has them (facebook/ThreatExchange,
python-threatexchange/threatexchange/exchanges/clients/fb_threatexchange/api.py) and
https://developers.facebook.com/docs/threat-exchange/reference/apis/threat-updates describes them.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from detector.exchanges.client import Checkpoint, Clock, Page
from detector.exchanges.paging import PageGuard
from detector.exchanges.transport import Access, Transport
from models.lists.threatexchange import ThreatExchangeList
from models.lists.times import utc_text

REFETCH_SECONDS: Final = 85 * 86_400.0
"""Deletions are told for 90 days: whoever comes later would keep what was deleted."""

_PAGE_SIZE: Final = 500
_OVERLAP_SECONDS: Final = 60.0
_FIELDS: Final = (
    "id,indicator,type,last_updated,should_delete,descriptors{reactions,my_reactions,owner{id},tags,status}"
)


@dataclass(frozen=True, slots=True)
class ThreatExchange:
    """The client of one privacy group."""

    access: Access
    token: str = field(repr=False)
    group: str
    clock: Clock
    refetch_after_seconds: float | None = REFETCH_SECONDS

    async def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """As `ExchangeClient.fetch`. The checkpoint is the latest change that was told, of all pages."""
        began, guard = self.clock(), PageGuard(self.access.origin)
        latest = float(checkpoint.position) if checkpoint is not None else 0.0
        url = f"{self.access.url.rstrip('/')}/{self.group}/threat_updates/"
        params: dict[str, str] | None = {
            "access_token": self.token,
            "limit": str(_PAGE_SIZE),
            "fields": _FIELDS,
        }
        if checkpoint is not None and params is not None:
            params["start_time"] = str(int(max(0.0, latest - _OVERLAP_SECONDS)))
        async with Transport(self.access) as transport:
            while True:
                body = await transport.get(url, "json", params, is_continued=params is None)
                page = ThreatExchangeList().parse(body)
                # A time of the future would leave out all that changes until then.
                latest = max(latest, min(page.contents.as_of_seconds, began))
                link = str(page.facts.get("paging.next") or "")
                if link:
                    guard.note(body, page.contents, link)
                    yield Page(page.contents, is_everything=checkpoint is None)
                    url, params = link, None
                    continue
                reached = Checkpoint(str(int(latest)), utc_text(int(latest)), began)
                yield Page(page.contents, reached, is_last=True, is_everything=checkpoint is None)
                return

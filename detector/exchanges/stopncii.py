"""StopNCII: hashes that people had made of intimate pictures of themselves.

Parameters and reply as python-threatexchange has them (facebook/ThreatExchange,
python-threatexchange/threatexchange/exchanges/clients/stopncii/api.py).
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from detector.exchanges.client import Checkpoint, Clock, ExchangeFailed, Page
from detector.exchanges.paging import PageGuard, refuse_future
from detector.exchanges.transport import Access, Transport
from models.lists.stopncii import StopNciiList
from models.lists.times import utc_text

_PAGE_SIZE: Final = 800
_BEGINNING: Final = 10
"""The start that asks for everything."""


@dataclass(frozen=True, slots=True)
class StopNcii:
    """The client. `access` holds both keys as headers."""

    access: Access
    clock: Clock
    refetch_after_seconds: float | None = None

    async def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """As `ExchangeClient.fetch`. The checkpoint is the exchange's own `nextSetTimestamp`, of the last page."""
        began, start = self.clock(), _BEGINNING if checkpoint is None else int(checkpoint.position)
        guard, token = PageGuard(self.access.origin), ""
        async with Transport(self.access) as transport:
            while True:
                params = {"startTimestamp": str(start), "pageSize": str(_PAGE_SIZE)}
                params |= {"nextPageToken": token} if token else {}
                url = f"{self.access.url.rstrip('/')}/FetchHashes"
                body = await transport.get(url, "json", params, is_continued=bool(token))
                page = StopNciiList().parse(body)
                facts = page.facts
                token, reached = str(facts.get("nextPageToken") or ""), facts.get("nextSetTimestamp")
                if facts.get("hasMoreRecords") is True and token:
                    guard.note(body, page.contents, token)
                    yield Page(page.contents, is_everything=checkpoint is None)
                    continue
                if facts.get("hasMoreRecords") is not False or not isinstance(reached, int) or reached < 0:
                    raise ExchangeFailed(f"{self.access.origin} does not say whether its list ended; it is tried again")
                refuse_future(self.access.origin, reached, began)
                at = max(start, reached)
                yield Page(
                    page.contents,
                    Checkpoint(str(at), utc_text(at), began),
                    is_last=True,
                    is_everything=checkpoint is None,
                )
                return

"""Brings what people said of entries to the exchanges that gave them, where the config says so; else nothing is sent.

It is sent again until it is taken, ever more rarely, or refused for good. A word may arrive twice (killed between the
answer and the disk), which comes to the same there.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import structlog

from detector.analysis.setup import BANKS_FOLDER
from detector.config.config import Config
from detector.config.exchanges import ExchangeSection
from detector.exchanges.feedback import FeedbackImpossible, FeedbackRequest
from detector.exchanges.feedback_shapes import SHAPES
from detector.exchanges.graph import GRAPH_STATUSES, graph_fault
from detector.exchanges.kinds import ExchangeKind
from detector.exchanges.records import place_of, read_source
from detector.metric_words import FeedbackEnd
from detector.metrics import Metrics
from detector.outgoing import DENIED, TRY_AGAIN, TooLong, client, read_body, why_unreached
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.feedback import FeedbackRow, FeedbackState, FeedbackStore
from detector.works import Work

log = structlog.get_logger()

_LOOK_EVERY_SECONDS: Final = 10.0
_AT_ONCE: Final = 50
"""Words sent to one exchange in one round; people do not judge faster."""
_ANSWER_BYTES: Final = 256 << 10
_TIMEOUT_SECONDS: Final = 30.0

_OTHER_SERVER: Final = "it was said of an entry of another server, from which the bank was filled before"


class _Later(Exception):
    """Raised where a word could not be brought now: a few words, nothing secret."""


class FeedbackCourier:
    """Sends what waits. `config` gives the one in force."""

    def __init__(
        self,
        database: Database,
        config: Callable[[], Config],
        metrics: Metrics,
        *,
        wall_clock: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = FeedbackStore(database)
        self._config = config
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._pause = pause
        self._outages: dict[str, str] = {}

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (Work("feedback", self.run),)

    def notes(self) -> list[str]:
        """One sentence for each exchange that does not take what it is told."""
        names = {section.name for section in self._config().exchanges if section.feedback == "on"}
        return [
            f"{name} takes no feedback now ({why}); it is kept and sent again, 'stopframe lists feedback' shows it"
            for name, why in sorted(self._outages.items())
            if name in names
        ]

    async def run(self) -> None:
        """Send what is due, again and again, for ever."""
        while True:
            try:
                await self.send_due()
                self._metrics.set_feedback_pending(sum((await self._store.pending()).values()))
            except StoreUnavailable:  # health says so already; nothing is lost
                pass
            await self._pause(_LOOK_EVERY_SECONDS)

    async def send_due(self) -> None:
        """Send once what is due now. Raises `StoreUnavailable`."""
        for section in self._config().exchanges:
            if section.feedback != "on" or section.kind not in SHAPES:
                continue
            due = await self._store.due(section.name, self._now_ms(), _AT_ONCE)
            if due and await self._is_of(section, due):
                await self._send_all(section, due)

    async def _is_of(self, section: ExchangeSection, due: list[FeedbackRow]) -> bool:
        """Whether the words are on entries of the server that would be told; those on another one's are refused."""
        banks = self._config().state_dir / BANKS_FOLDER
        source = await asyncio.to_thread(read_source, banks / section.bank)
        if source is None or not source.place:
            return True
        if source.place != place_of(section.kind, section.where):
            return False  # the bank is still the other one's
        others = [row for row in due if row.judged_at_ms < source.since * 1000]
        for row in others:
            await self._store.settle(row, FeedbackState.REFUSED, self._now_ms(), _OTHER_SERVER)
        return not others

    async def _send_all(self, section: ExchangeSection, due: list[FeedbackRow]) -> None:
        keys, login = _keys(section), _login(section)
        try:
            http = client(_TIMEOUT_SECONDS, ca_file=section.ca_file, headers=keys, auth=login)
        except OSError:
            self._outages[section.name] = "its ca_file is no readable PEM file"
            return
        async with http:
            for row in due:
                if not await self._send(http, section, row):
                    return  # whoever did not answer this one will not answer the next

    async def _send(self, http: httpx.AsyncClient, section: ExchangeSection, row: FeedbackRow) -> bool:
        shape, reason = SHAPES[section.kind], section.feedback_reason or ""
        await self._store.attempt(row, self._now_ms())
        try:
            first = shape.first(row, reason)
            answer = await _bring(http, section, first)
            for request in shape.then(row, answer) if first.is_question else ():
                await _bring(http, section, request)
        except FeedbackImpossible as error:
            self._metrics.feedback(FeedbackEnd.REFUSED)
            log.warning("feedback.refused", exchange=section.name, entry=row.entry, why=str(error))
            await self._store.settle(row, FeedbackState.REFUSED, self._now_ms(), str(error))
            return True
        except _Later as error:
            self._metrics.feedback(FeedbackEnd.FAILED)
            if section.name not in self._outages:
                log.warning("feedback.unsent", exchange=section.name, why=str(error))
            self._outages[section.name] = str(error)
            await self._store.explain(row, str(error))
            return False
        self._outages.pop(section.name, None)
        self._metrics.feedback(FeedbackEnd.SENT)
        log.info("feedback.sent", exchange=section.name, entry=row.entry, verdict=row.verdict.value)
        await self._store.settle(row, FeedbackState.SENT, self._now_ms())
        return True

    def _now_ms(self) -> int:
        return round(self._wall_clock() * 1000)


async def _bring(http: httpx.AsyncClient, section: ExchangeSection, request: FeedbackRequest) -> bytes:
    """Send one request; returns the answer. Raises `_Later`, or `FeedbackImpossible` where it will never be taken."""
    url, body, params = f"{section.where.rstrip('/')}/{request.path}", request.body, dict(request.params)
    if section.kind is ExchangeKind.THREATEXCHANGE and section.token is not None:
        if request.is_question:
            params["access_token"] = section.token.current()
        else:
            body += b"&access_token=" + str(httpx.QueryParams({"t": section.token.current()}))[2:].encode()
    headers = {"content-type": request.content_type} if request.content_type else {}
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            async with http.stream(request.method, url, params=params, content=body, headers=headers) as response:
                answer = await read_body(response, _ANSWER_BYTES)
    except (TimeoutError, httpx.TimeoutException):
        raise _Later(f"it did not answer within {_TIMEOUT_SECONDS:g} s") from None
    except TooLong as error:
        raise _Later(f"its answer is {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _Later(f"it cannot be reached: {why_unreached(error)}") from None
    status = response.status_code
    # Credentials and addresses are put right sooner or later.
    if status >= 500 or status in TRY_AGAIN | DENIED or 300 <= status < 400:
        raise _Later(f"it answered {status}")
    fault = graph_fault(answer) if section.kind is ExchangeKind.THREATEXCHANGE and status in GRAPH_STATUSES else None
    if fault is not None:
        raise _Later(fault.value)
    if not 200 <= status < 300:
        raise FeedbackImpossible(f"{section.name} answered {status}: it does not take this word on this entry")
    return answer


def _login(section: ExchangeSection) -> tuple[str, str] | None:
    if section.kind is not ExchangeKind.NCMEC or section.username is None or section.password is None:
        return None
    return section.username, section.password.current()


def _keys(section: ExchangeSection) -> dict[str, str]:
    if section.kind is not ExchangeKind.STOPNCII or section.feedback_key is None or section.subscription_key is None:
        return {}
    return {
        "x-functions-key": section.feedback_key.current(),
        "Ocp-Apim-Subscription-Key": section.subscription_key.current(),
    }

"""HTTP to an exchange: bounded, verified, never redirected, as patient as it asks for.

Whoever answers may be hostile or broken: a body is read piece by piece up to its limit, within one deadline for all of
it, as it is (no compression, which could unfold to any size), and only of the type that was asked for.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from detector.exchanges.client import ChainBroken, ExchangeFailed
from detector.exchanges.graph import ERROR_BYTES, GRAPH_STATUSES, GraphFault, graph_fault
from detector.outgoing import DENIED, TRY_AGAIN, certificate_fault, client
from detector.redaction import hide_url

PAGE_BYTES: Final = 32 << 20
"""A page of a thousand records is some hundred kilobytes long."""

_DEADLINE_SECONDS: Final = 60.0
"""For one page, however slowly it trickles in."""

_TRIES: Final = 4
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
_LONGEST_WAIT_SECONDS: Final = 60.0
"""An exchange that asks for more patience before its first page is asked again by the schedule."""

_TRIES_IN_CHAIN: Final = 12
_LONGEST_WAIT_IN_CHAIN_SECONDS: Final = 1800.0
"""What came of a chain is lost with it: five minutes of a line that is down, and any pause of a limited number of pages
an hour, are cheaper than to begin anew."""

_LONGEST_PATIENCE_SECONDS: Final = 86_400.0
"""Whoever asks for more is asked again all the same: a list that nobody fetches grows old."""

_GONE: Final = {400, 404, 410}

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where an exchange is, and what opens it. Printing shows neither path nor secrets.

    `is_file`: the URL is a file's, beside which others lie. `is_graph`: its errors are those of Meta's Graph API.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    ca_file: str | None = None
    is_file: bool = False
    is_graph: bool = False

    @property
    def below(self) -> str:
        """The path that all pages share: the URL's, or of a file's URL that of its folder."""
        path = urlsplit(self.url).path
        return path.rpartition("/")[0] if self.is_file else path

    @property
    def origin(self) -> str:
        """Scheme and host."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def owns(self, url: str) -> bool:
        """Whether a link leads back to the same server and below the same path: credentials go nowhere else."""
        ours, theirs = urlsplit(self.url), urlsplit(url)
        below = theirs.path == ours.path or theirs.path.startswith(self.below.rstrip("/") + "/")
        return _server(ours) == _server(theirs) and below and ".." not in unquote(theirs.path)


class Transport:
    """`async with Transport(access) as transport`: one client of one exchange.

    `told_at` is the time at which the last answer came, as the exchange has it (Unix time); None where it says none.
    """

    def __init__(
        self,
        access: Access,
        *,
        deadline_seconds: float = _DEADLINE_SECONDS,
        pause: Pause = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.access = access
        self.told_at: float | None = None
        self._deadline_seconds = deadline_seconds
        self._pause = pause
        self._jitter = jitter
        self._resources = AsyncExitStack()
        self._http: httpx.AsyncClient | None = None
        hide_url(access.url)

    async def __aenter__(self) -> Self:
        """Make the client; raises ExchangeFailed where the authorities' file is none."""
        ca_file = self.access.ca_file
        try:
            http = client(
                min(30.0, self._deadline_seconds),
                ca_file=ca_file,
                headers=self.access.headers,
                auth=self.access.basic,
            )
        except OSError:
            raise ExchangeFailed(f"ca_file {ca_file} is no readable PEM file; name one") from None
        self._http = await self._resources.enter_async_context(http)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._http = None
        await self._resources.aclose()

    async def get(
        self, url: str, kind: str, params: Mapping[str, str] | None = None, *, is_continued: bool = False
    ) -> bytes:
        """The body of a page of the type `kind` (json, xml). `is_continued`: the exchange itself named it.

        Raises:
            ChainBroken: It does not know that page any more.
            ExchangeFailed: There is none to be had, with the reason.
        """
        pieces = bytearray()

        def take(piece: bytes) -> None:
            pieces.extend(piece)

        def begin() -> None:
            pieces.clear()

        await self._patiently("GET", url, _Want(kind, PAGE_BYTES, begin, take, is_continued, params))
        return bytes(pieces)

    async def post(self, url: str, form: Mapping[str, str]) -> bytes:
        """The JSON that comes back for a form, as for a token. Raises ExchangeFailed."""
        pieces = bytearray()
        want = _Want("json", PAGE_BYTES, pieces.clear, pieces.extend, form=form)
        await self._patiently("POST", url, want)
        return bytes(pieces)

    async def download(self, url: str, file: BinaryIO, most_bytes: int) -> None:
        """Write a body of any type into a file; whoever knows its checksum judges it. Raises ExchangeFailed."""

        def begin() -> None:
            file.seek(0)
            file.truncate()

        await self._patiently("GET", url, _Want("", most_bytes, begin, file.write))

    def authorize(self, value: str) -> None:
        """Send an Authorization header from now on."""
        if self._http is not None:
            self._http.headers["authorization"] = value

    async def _patiently(self, method: str, url: str, want: "_Want") -> None:
        if not self.access.owns(url):
            raise ExchangeFailed(f"{self.access.origin} names a page elsewhere, and credentials go nowhere else")
        tries, longest = _TRIES, _LONGEST_WAIT_SECONDS
        if want.is_continued:
            tries, longest = _TRIES_IN_CHAIN, _LONGEST_WAIT_IN_CHAIN_SECONDS
        for attempt in range(1, tries + 1):
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    return await self._once(method, url, want)
            except _Later as error:
                wait, why = error.seconds, str(error)
            except (TimeoutError, httpx.TimeoutException):
                wait, why = None, f"it did not answer whole within {self._deadline_seconds:g} s"
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                wait, why = None, _explain(error)
            if attempt == tries or (wait is not None and wait > longest):
                patience = None if wait is None else min(wait, _LONGEST_PATIENCE_SECONDS)
                raise ExchangeFailed(f"{self.access.origin}: {why}; it is tried again", retry_after_seconds=patience)
            doubled = min(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS) * (0.5 + self._jitter())
            await self._pause(doubled if wait is None else wait)
        raise AssertionError("unreachable")

    async def _once(self, method: str, url: str, want: "_Want") -> None:
        assert self._http is not None, "use the transport in its block"
        want.begin()
        async with self._http.stream(method, url, params=want.params or None, data=want.form) as response:
            self.told_at = _date(response.headers.get("date"))
            if self.access.is_graph and response.status_code in GRAPH_STATUSES:
                await self._judge_graph(response)
            self._judge(response, want)
            length = 0
            async for piece in response.aiter_raw():
                length += len(piece)
                if length > want.most_bytes:
                    raise ExchangeFailed(f"{self.access.origin} sends more than {want.most_bytes:,} bytes at once")
                want.take(piece)

    async def _judge_graph(self, response: httpx.Response) -> None:
        said = bytearray()
        async for piece in response.aiter_raw():
            said += piece[:ERROR_BYTES]
            if len(said) > ERROR_BYTES:
                return
        fault = graph_fault(bytes(said))
        if fault is GraphFault.PASSING:
            raise _Later(f"{fault.value} ({response.status_code})", _retry_after(response.headers.get("retry-after")))
        if fault is GraphFault.TOKEN:
            raise ExchangeFailed(f"{self.access.origin} refused our credentials: {fault.value}; get a new one")

    def _judge(self, response: httpx.Response, want: "_Want") -> None:
        origin, status = self.access.origin, response.status_code
        if status >= 500 or status in TRY_AGAIN:
            raise _Later(f"it answered {status}", _retry_after(response.headers.get("retry-after")))
        if status in DENIED:
            raise ExchangeFailed(
                f"{origin} refused our credentials ({status}); see that the config names the right ones"
            )
        if 300 <= status < 400:
            raise ExchangeFailed(f"{origin} redirects elsewhere ({status}); write the address that it means into url")
        if want.is_continued and status in _GONE:
            raise ChainBroken(f"{origin} does not know the next page any more ({status}); the list is fetched anew")
        if status != 200:
            raise ExchangeFailed(f"{origin} answered {status}; correct url, or see what the exchange says of it")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ExchangeFailed(f"{origin} compresses what nobody asked it to compress; that could unfold to any size")
        told = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if want.kind and (not told.endswith(want.kind) or "html" in told):
            raise ExchangeFailed(f"{origin} sends another type than {want.kind}; see that url is the exchange's API")


@dataclass(frozen=True, slots=True)
class _Want:
    kind: str
    most_bytes: int
    begin: Callable[[], None]
    take: Callable[[bytes], object]
    is_continued: bool = False
    params: Mapping[str, str] | None = None
    form: Mapping[str, str] | None = None


class _Later(Exception):
    def __init__(self, why: str, seconds: float | None) -> None:
        super().__init__(why)
        self.seconds = seconds


def _server(url: SplitResult) -> tuple[str, str | None, int | None, bool]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.hostname, port, "@" in url.netloc


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    at = _date(value)
    return None if at is None else max(0.0, at - time.time())


def _date(value: str | None) -> float | None:
    """Unix time of a date (RFC 9110, section 5.6.7); None where it is none."""
    try:
        return parsedate_to_datetime(value).timestamp() if value is not None else None
    except (ValueError, OverflowError):
        return None


def _explain(error: Exception) -> str:
    """What a library's error comes to, without what it quotes: URLs hold tokens."""
    if (distrusted := certificate_fault(error)) is not None:
        return f"its certificate is not trusted ({distrusted}); name who vouches for it under ca_file"
    if isinstance(error, httpx.ConnectError | OSError):
        return "nobody answers there"
    return f"it broke off ({type(error).__name__})"

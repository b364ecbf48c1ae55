"""Alerts to an HTTPS endpoint: signed with a shared secret, answered by a status, never redirected."""

import asyncio
import contextlib
import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import structlog

from detector.alerts.clock import Clock
from detector.alerts.resolving import HostResolver
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.outgoing import DENIED, TRY_AGAIN, TooLong, certificate_fault, client, read_body
from detector.store.retained import RetainedTopics

log = structlog.get_logger()

SIGNATURE_HEADER: Final = "Stopframe-Signature"
ALARM_HEADER: Final = "Stopframe-Alarm"
"""In place of the alert's: what is posted concerns the node itself."""
ANSWER_BYTES: Final = 8192
"""Of an answer no more is read: an acknowledgement has at most 4 KiB."""

_CONNECTIONS: Final = 16
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where alerts are posted. `secret` is asked at each of them; `ca_file` vouches for the endpoint's certificate."""

    url: str = field(repr=False)
    secret: Callable[[], str] = field(repr=False)
    ca_file: str | None = None
    timeout_seconds: float = 5.0

    @property
    def origin(self) -> str:
        """Scheme and host: the path may be a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def signature(secret: str, at_seconds: int, body: bytes) -> str:
    """Return the header's value: `t=SECONDS,v1=HEX`, HMAC-SHA256 over the seconds, a dot and the body.

    A receiver computes the same from its own copy of the secret, compares in constant time, and refuses a `t` that is
    more than a few minutes off: a recorded request is then of no use.
    """
    digest = hmac.new(secret.encode(), b"%d." % at_seconds + body, hashlib.sha256).hexdigest()
    return f"t={at_seconds},v1={digest}"


class WebhookSink:
    """The webhook sink. 2xx is accepted; every other answer is sent again, with backoff, until the alert expires.

    TLS is verified, redirects are not followed, proxy variables are not obeyed. New connections resolve the host anew,
    in a thread of their own, and none outlives a failure. `hear`, where set, is given each alert with the body of its
    accepting answer: it may hold an acknowledgement.
    """

    name = "webhook"

    def __init__(
        self, settings: WebhookSettings, *, retained: RetainedTopics | None = None, clock: Clock | None = None
    ) -> None:
        del retained
        self.hear: Callable[[Notice, bytes], None] | None = None
        self._settings = settings
        self._clock = clock or Clock()
        self._resources = AsyncExitStack()
        self._http: httpx.AsyncClient | None = None
        self._outage: str | None = None
        self._url = httpx.URL(settings.url)
        self._resolver = HostResolver(self._url.host, self._url.port or _PORTS[self._url.scheme])

    @property
    def patience_seconds(self) -> float:
        """How long one alert may take."""
        return self._settings.timeout_seconds

    async def __aenter__(self) -> Self:
        """Make the client; nothing is asked yet."""
        try:
            http = client(
                self._settings.timeout_seconds,
                ca_file=self._settings.ca_file,
                headers={"content-type": "application/json"},
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=2, keepalive_expiry=5.0),
            )
        except OSError as error:
            why = "is no usable PEM file" if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
            self._note(f"alerts.webhook.ca_file {self._settings.ca_file}: {why}; name a readable PEM file")
            return self
        self._http = await self._resources.enter_async_context(http)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._http = None
        await self._resources.aclose()

    async def wait_ready(self) -> None:
        """Return at once: each alert is a request of its own."""

    async def deliver(self, notice: Notice) -> Receipt:
        """Post one alert and return what the status says.

        Raises:
            SinkUnavailable: no answer, or one that asks to try again later.
        """
        if self._http is None:
            raise SinkUnavailable("there is no client")
        seconds = self._settings.timeout_seconds
        at_seconds = self._clock.wall_ms() // 1000
        headers = {
            SIGNATURE_HEADER: signature(self._settings.secret(), at_seconds, notice.payload),
            "Stopframe-Alert": notice.alert_id,
        }
        try:
            # httpx limits each read; an endpoint that sends a byte now and then is bounded by this alone.
            async with asyncio.timeout(seconds):
                status, body = await self._post(self._http, notice.payload, headers)
        except (TimeoutError, httpx.TimeoutException):
            if self._resolver.is_looking:
                what = f"nobody told its address within {seconds:g} s; see this machine's resolver (DNS)"
                raise self._unavailable(what) from None
            raise self._unavailable(f"it did not answer within {seconds:g} s; see its log") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise self._unavailable(_explain(error)) from None
        receipt = self._judge(status)
        if receipt is Receipt.ACCEPTED and self.hear is not None and body:
            self.hear(notice, body)
        return receipt

    async def tell(self, alarm_id: str, payload: bytes) -> Receipt:
        """Post what concerns the node itself, under a header of its own; whatever comes of it is no outage of alerts.

        Raises:
            SinkUnavailable: no answer, or one that asks to try again later.
        """
        if self._http is None:
            raise SinkUnavailable("there is no client")
        at_seconds = self._clock.wall_ms() // 1000
        headers = {
            SIGNATURE_HEADER: signature(self._settings.secret(), at_seconds, payload),
            ALARM_HEADER: alarm_id,
        }
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                status, _ = await self._post(self._http, payload, headers)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
            raise SinkUnavailable("it did not answer") from None
        if status >= 500 or status in TRY_AGAIN:
            raise SinkUnavailable(f"it answered {status}")
        return Receipt.ACCEPTED if 200 <= status < 300 else Receipt.REFUSED

    def problems(self) -> list[str]:
        """What keeps alerts from being posted."""
        return [] if self._outage is None else [f"no alert reaches the webhook {self._settings.origin}: {self._outage}"]

    def notes(self) -> list[str]:
        """Nothing is worth a note."""
        return []

    async def _post(self, client: httpx.AsyncClient, payload: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Post to the first of the host's addresses that takes a connection."""
        addresses = await self._resolver.addresses()
        # For connecting and for TLS each: httpx closes what it gives up by itself, and not what is cancelled from here.
        connect_seconds = self._settings.timeout_seconds / (2 * len(addresses)) * 0.9
        requests = [self._request(client, address, connect_seconds, payload, headers) for address in addresses]
        for request in requests[:-1]:
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await _ask(client, request)
        try:
            return await _ask(client, requests[-1])
        except BaseException:
            self._resolver.did_not_serve()
            raise

    def _request(
        self, client: httpx.AsyncClient, address: str, connect_seconds: float, payload: bytes, headers: dict[str, str]
    ) -> httpx.Request:
        timeout = httpx.Timeout(self._settings.timeout_seconds, connect=connect_seconds)
        return client.build_request(
            "POST",
            self._url.copy_with(host=address),
            content=payload,
            headers=headers | {"Host": self._url.netloc.decode("ascii")},
            # The certificate has to be that of the name, whatever the address.
            extensions={"timeout": timeout.as_dict(), "sni_hostname": self._url.host},
        )

    def _judge(self, status: int) -> Receipt:
        if 200 <= status < 300:
            self._note(None)
            return Receipt.ACCEPTED
        if status >= 500 or status in TRY_AGAIN:
            raise self._unavailable(f"it answered {status}; see its log")
        if status in DENIED:
            self._note(f"it answered {status}; see that alerts.webhook.secret is the one it knows, and compare clocks")
            return Receipt.NOT_AUTHORIZED
        hint = "write the address that it redirects to" if 300 <= status < 400 else "see its log"
        self._note(f"it answered {status}; {hint}, or correct alerts.webhook.url")
        return Receipt.REFUSED

    def _unavailable(self, why: str) -> SinkUnavailable:
        self._note(why)
        return SinkUnavailable(why)

    def _note(self, why: str | None) -> None:
        """Keep what is wrong; log it once when it begins and once when it is over."""
        if why is not None and self._outage is None:
            log.warning("webhook.unreachable", webhook=self._settings.origin, reason=why)
        elif why is None and self._outage is not None:
            log.info("webhook.reached", webhook=self._settings.origin)
        self._outage = why


async def _ask(client: httpx.AsyncClient, request: httpx.Request) -> tuple[int, bytes]:
    """The status and the body, empty where that is longer than anything that concerns us."""
    response = await client.send(request, stream=True)
    try:
        return response.status_code, await read_body(response, ANSWER_BYTES)
    except TooLong:
        return response.status_code, b""
    finally:
        await response.aclose()


def _explain(error: Exception) -> str:
    """Say why there was no answer, with the remedy; nothing of the URL but its host is in it."""
    if (distrusted := certificate_fault(error)) is not None:
        return f"its certificate is not trusted ({distrusted}); renew it, or name alerts.webhook.ca_file"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name of its host is not known; correct alerts.webhook.url, or see this machine's resolver (DNS)"
    if isinstance(error, httpx.ConnectError):
        return "nothing answers there; start it, or correct alerts.webhook.url"
    return f"the connection failed ({type(error).__name__}); see its log"

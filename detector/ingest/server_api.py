"""Questions to an ingest server's HTTP API: every one bounded in time and size, and no key or password in any error."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from detector.ingest.adapter import IngestUnavailable
from detector.outgoing import TooLong, client, read_body, why_unreached

_ANSWER_BYTES = 16 * 1024 * 1024
"""A list of 20,000 publishers fits; what is longer comes from no ingest server."""

_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What the server answered: the HTTP status, and the JSON of the body or None where there is none."""

    status: int
    content: Any


class ServerApi:
    """`async with ServerApi("MediaMTX", "http://127.0.0.1:9997", setting="ingest.api") as api`: ask one server.

    Follows no redirects and obeys no proxy variables. `setting` is the option that names the address, for errors.
    """

    def __init__(
        self,
        server: str,
        address: str,
        *,
        setting: str,
        timeout_seconds: float = 2.0,
        limit_bytes: int = _ANSWER_BYTES,
        auth: tuple[str, str] | None = None,
    ) -> None:
        self._server = server
        self._address = address
        self._setting = setting
        self._timeout_seconds = timeout_seconds
        self._limit_bytes = limit_bytes
        self._auth = httpx.BasicAuth(*auth) if auth else None
        self._resources = AsyncExitStack()
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Make the client; nothing is asked yet."""
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=2, keepalive_expiry=5.0)
        made = client(self._timeout_seconds, base_url=self._address, auth=self._auth, limits=limits)
        self._http = await self._resources.enter_async_context(made)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._http = None
        await self._resources.aclose()

    async def ask(  # noqa: PLR0913 - what a request is made of, by name
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        wants_json: bool = True,
    ) -> ApiAnswer:
        """Ask one question; `path` is quoted already, `body` becomes JSON, `token` goes in as bearer.

        `content` is sent as it is, in place of `body`, for requests that are signed byte by byte.

        Any HTTP status is an answer; without `wants_json` it is all that counts. Raises `IngestUnavailable` where no
        answer came, or none that can be understood.
        """
        if self._http is None:
            raise IngestUnavailable(f"{self._server} cannot be asked any more: the service is stopping")
        shown = ({} if token is None else {"authorization": f"Bearer {token}"}) | dict(headers or {})
        try:
            request = self._http.build_request(method, path, params=params, json=body, content=content, headers=shown)
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise IngestUnavailable(f"{self._server} cannot be asked about a stream with such a name") from None
        try:
            # httpx limits each read; a server that sends a byte now and then is bounded by this alone.
            async with asyncio.timeout(self._timeout_seconds):
                status, raw = await self._exchange(self._http, request)
        except (TimeoutError, httpx.TimeoutException):
            raise IngestUnavailable(
                f"{self._server} at {self._address} did not answer within {self._timeout_seconds:g} s; its log says why"
            ) from None
        except (httpx.HTTPError, OSError) as error:
            raise IngestUnavailable(
                f"{self._server} at {self._address} cannot be asked: {why_unreached(error)}; "
                f"start it, or correct {self._setting}"
            ) from None
        return ApiAnswer(status, self._json(raw, status) if wants_json else None)

    def refuse(self, answer: ApiAnswer) -> IngestUnavailable:
        """The error for an answer that is none of those expected: its status and where to look."""
        return IngestUnavailable(
            f"{self._server} at {self._address} answered {answer.status}; its log says why, or {self._setting} is wrong"
        )

    async def _exchange(self, client: httpx.AsyncClient, request: httpx.Request) -> tuple[int, bytes]:
        response = await client.send(request, stream=True)
        try:
            return response.status_code, await read_body(response, self._limit_bytes)
        except TooLong:
            raise IngestUnavailable(
                f"{self._server} at {self._address} sent more than {self._limit_bytes} bytes; "
                f"correct {self._setting}: this is no such server"
            ) from None
        finally:
            await response.aclose()

    def _json(self, raw: bytes, status: int) -> Any:
        if not raw.strip():
            return None
        try:
            # One publisher's name that is no UTF-8 must not spoil the list of all: it becomes lone surrogates.
            return json.loads(raw.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):  # not JSON, or nested beyond reason
            if status >= 400:
                return None  # errors of proxies and of the HTTP layer come as text; the status says enough
            raise IngestUnavailable(
                f"{self._server} at {self._address} answered no JSON; correct {self._setting}: this is no such server"
            ) from None

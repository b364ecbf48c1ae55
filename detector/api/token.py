"""The door before the control API on TCP: a bearer token, compared in constant time, and wrong guesses counted.

The right token always opens, whoever else guesses from the same address: behind a proxy that address is everybody's,
and an operator who has to cut a stream cannot wait. Its length is what keeps guessing hopeless.

TLS is not made here: a reverse proxy in front has to. A token in an address is not read, for addresses end in logs.
"""

import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.metric_words import Refusal
from detector.metrics import Metrics

log = structlog.get_logger()

BODY_LIMIT_BYTES = 16 * 1024
"""Longest body of a control request; the longest that one needs has some 300 bytes."""

_GUESSES = 10
_WINDOW_SECONDS = 60.0
_ADDRESSES = 1024
_TELL_SECONDS = 60.0
_BEARER = "bearer "

_SENTENCES = {
    Refusal.NONE_GIVEN: "send the header 'Authorization: Bearer TOKEN' with the token that http.token names.",
    Refusal.WRONG: "this is not the token that http.token names.",
    Refusal.TOO_MANY: "too many wrong tokens came from this address; wait a minute.",
}


class Guesses:
    """How many wrong tokens came from each address lately. Bounded: the address that was quiet longest is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(self._wrong)

    def is_spent(self, address: str) -> bool:
        """Whether `address` has guessed too often within the last minute."""
        begin = self._clock() - _WINDOW_SECONDS
        recent = [at for at in self._wrong.get(_network(address), ()) if at > begin]
        return len(recent) >= _GUESSES

    def note(self, address: str) -> None:
        """A wrong token came from `address`."""
        network = _network(address)
        earlier = self._wrong.pop(network, [])
        self._wrong[network] = [*earlier[-_GUESSES + 1 :], self._clock()]
        if len(self._wrong) > _ADDRESSES:
            del self._wrong[next(iter(self._wrong))]


class TokenDoor:
    """An ASGI app that lets requests with the token through to `app` and refuses all others.

    `token` is asked at every request: what it returns counts from then on, and None means that nothing is here. Where
    `is_bounded` is False the app limits what it takes of a body itself. Errors are JSON with a sentence under `word`.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: Callable[[], str | None],
        metrics: Metrics,
        guesses: Guesses | None = None,
        *,
        is_bounded: bool = True,
        word: str = "error",
    ) -> None:
        self._app = app
        self._token = token
        self._metrics = metrics
        self._guesses = Guesses() if guesses is None else guesses
        self._is_bounded = is_bounded
        self._word = word
        self._told_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        token = self._token()
        if token is None:
            answer = JSONResponse({self._word: "there is nothing at this address."}, HTTPStatus.NOT_FOUND)
            await answer(scope, receive, send)
            return
        refusal = self._refusal(scope, token)
        if refusal is not None:
            self._metrics.http_refused(refusal)
            await _refuse(refusal, self._word)(scope, receive, send)
            return
        await self._app(scope, _limited(receive) if self._is_bounded else receive, send)

    def _refusal(self, scope: Scope, token: str) -> Refusal | None:
        given = Headers(scope=scope).get("authorization", "")
        if given[: len(_BEARER)].lower() != _BEARER:
            return Refusal.NONE_GIVEN
        # Compared as bytes, as they came: a token need not be ASCII.
        if hmac.compare_digest(given[len(_BEARER) :].strip().encode("latin-1"), token.encode()):
            return None
        address = scope["client"][0] if scope.get("client") else ""
        if self._guesses.is_spent(address):
            return Refusal.TOO_MANY
        self._guesses.note(address)
        if self._guesses.is_spent(address) and time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            log.warning("http.token_guessed", address=address, wrong=_GUESSES)
        return Refusal.WRONG


def _refuse(refusal: Refusal, word: str) -> JSONResponse:
    if refusal is Refusal.TOO_MANY:
        status, headers = HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": f"{_WINDOW_SECONDS:.0f}"}
    else:
        status, headers = HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"}
    return JSONResponse({word: _SENTENCES[refusal]}, status, headers=headers)


def _limited(receive: Receive) -> Receive:
    """Give the body up to its limit; a longer one ends as if the client had left."""
    left = BODY_LIMIT_BYTES

    async def limited() -> Message:
        nonlocal left
        message: Mapping[str, object] = await receive()
        body = message.get("body", b"")
        left -= len(body) if isinstance(body, bytes) else 0
        return dict(message) if left >= 0 else {"type": "http.disconnect"}

    return limited


def _network(address: str) -> str:
    """What counts as one guesser: an IPv4 address, or the /64 that one subscriber has of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))

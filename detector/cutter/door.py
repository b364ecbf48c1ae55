"""The second channel's end at the cutter: alerts that services post, answered by the signed answer in the reply's body.

Whoever knows no secret makes us compute one HMAC over 4 KiB at most. What is genuine is then believed, remembered and
answered as if the broker had brought it: the alert's own signature counts, and an alert that came before cuts nobody.
"""

import asyncio
import hmac
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import structlog
from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from detector.alerts.webhook import ALARM_HEADER, SIGNATURE_HEADER, signature
from detector.api.refusals import answer_refusals
from detector.cutter.config import CutterWebhookSection
from detector.metric_words import PostOutcome
from detector.trust.distrust import Distrust
from detector.trust.signing import MESSAGE_LIMIT_BYTES, NotTrusted, Purpose

log = structlog.get_logger()

PATH: Final = "/alert"

_BODY_SECONDS: Final = 2.0
_APART_SECONDS: Final = 300
"""So far may the clock of whoever signed a request be from ours: a recorded one is of no use after that."""

_TOLD_AGAIN_SECONDS: Final = 600.0
_AT_ONCE: Final = 256
_SIGNATURE: Final = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", re.ASCII)


_STATUSES: Final = {
    PostOutcome.UNREADABLE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    PostOutcome.NOT_SIGNED: HTTPStatus.UNAUTHORIZED,
    PostOutcome.STALE: HTTPStatus.UNAUTHORIZED,
    PostOutcome.UNTRUSTED: HTTPStatus.UNPROCESSABLE_ENTITY,
    PostOutcome.ALARM: HTTPStatus.NOT_FOUND,
    PostOutcome.TOO_MANY: HTTPStatus.SERVICE_UNAVAILABLE,
}
_REMEDIES: Final = {
    PostOutcome.NOT_SIGNED: "webhook.secret must be the services' alerts.webhook.secret",
    PostOutcome.STALE: "compare the clocks of service and cutter",
    PostOutcome.UNTRUSTED: "see trust.trusted_keys and stopframe_untrusted_total",
}


class Answers(Protocol):
    """What acts on an alert: a `Cutter`."""

    async def answer(self, payload: bytes, *, within_seconds: float) -> bytes:
        """Return the signed final answer, empty where there is none yet. Raises NotTrusted."""


class AlertDoor:
    """Takes what services post; `settings` gives the section of the config in force, `told` counts outcomes."""

    def __init__(
        self,
        answers: Answers,
        distrust: Distrust,
        settings: Callable[[], CutterWebhookSection],
        told: Callable[[PostOutcome], None],
        *,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._answers = answers
        self._distrust = distrust
        self._settings = settings
        self._told = told
        self._wall_seconds = wall_seconds
        self._logged: dict[PostOutcome, float] = {}
        self._busy = 0

    def app(self) -> FastAPI:
        """Return what listens: one address, no documentation pages."""
        app = FastAPI(title="stopframe cutter", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        answer_refusals(app)

        @app.post(PATH)
        async def alert(request: Request) -> Response:
            """Answer with the status that a service's webhook knows; nothing of the request is logged or repeated."""
            return await self._take(request)

        return app

    async def _take(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return self._say(PostOutcome.UNREADABLE)
        outcome = self._examine(request.headers, body)
        if outcome is not None:
            return self._say(outcome)
        if self._busy >= _AT_ONCE:
            return self._say(PostOutcome.TOO_MANY)
        self._busy += 1
        try:
            ack = await self._answers.answer(body, within_seconds=self._settings().answer_within.seconds)
        except NotTrusted as error:
            self._distrust.note(Purpose.ALERT, error.reason)
            return self._say(PostOutcome.UNTRUSTED)
        finally:
            self._busy -= 1
        if not ack:
            self._told(PostOutcome.TAKEN)
            return Response(status_code=HTTPStatus.ACCEPTED)
        self._told(PostOutcome.ANSWERED)
        return Response(ack, media_type="application/json")

    def _examine(self, headers: Headers, body: bytes) -> PostOutcome | None:
        """Why the request is not taken, None where it is: the secret's holder signed it now."""
        header = headers.get(SIGNATURE_HEADER, "")
        found = _SIGNATURE.fullmatch(header)
        if found is None:
            return PostOutcome.NOT_SIGNED
        at_seconds, secret = int(found[1]), self._settings().secret
        if secret is None or not hmac.compare_digest(signature(secret.current(), at_seconds, body), header):
            return PostOutcome.NOT_SIGNED
        if abs(self._wall_seconds() - at_seconds) > _APART_SECONDS:
            return PostOutcome.STALE
        return PostOutcome.ALARM if ALARM_HEADER in headers else None

    def _say(self, outcome: PostOutcome) -> Response:
        """Count it, log it once in ten minutes if somebody should know, and answer."""
        self._told(outcome)
        now = time.monotonic()
        if (
            outcome is not PostOutcome.ALARM
            and self._logged.get(outcome, -_TOLD_AGAIN_SECONDS) <= now - _TOLD_AGAIN_SECONDS
        ):
            self._logged[outcome] = now
            log.warning("cutter.post_refused", outcome=outcome.value, note=_REMEDIES.get(outcome, "see who posts here"))
        return Response(status_code=_STATUSES[outcome], headers={"Connection": "close"})


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is too long, does not come, or whoever posts leaves before its end."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > MESSAGE_LIMIT_BYTES:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return body

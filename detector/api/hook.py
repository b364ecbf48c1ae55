"""The hook: where an ingest server asks before it lets somebody publish. Its path is its secret."""

import asyncio
import hmac
import inspect
import time
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from detector.ingest.hooks import BODY_LIMIT_BYTES, AnswersHooks, HookAnswer, HookOutcome, ProvesHooks
from detector.metrics import Metrics

_BODY_SECONDS = 2.0
_OUTCOMES = {True: HookOutcome.LET_IN, False: HookOutcome.DENIED}


def add_hook(app: FastAPI, secret: str, server: AnswersHooks, metrics: Metrics) -> None:
    """Let `server` answer `POST /hook/<secret>/<its name>`. Whoever does not know the secret finds nothing there."""

    @app.post("/hook/{given}/{name}")
    async def hook(given: str, name: str, request: Request) -> Response:
        """Answer with the server's own status; nothing of the question is logged or repeated."""
        # Both are compared, so that a wrong name tells nothing of the secret.
        is_secret = hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
        if not is_secret or name != server.name:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        asked_at = time.monotonic()
        body = await _body(request)
        if body is None:
            answer = HookAnswer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HookOutcome.UNREADABLE)
        elif isinstance(server, ProvesHooks) and not server.is_genuine(body, request.headers):
            answer = HookAnswer(HTTPStatus.UNAUTHORIZED, HookOutcome.UNREADABLE)
        else:
            given_answer = server.answer_hook(body)
            if inspect.isawaitable(given_answer):
                given_answer = await given_answer
            answer = given_answer if isinstance(given_answer, HookAnswer) else HookAnswer(given_answer)
        outcome = answer.outcome or _OUTCOMES[answer.status < HTTPStatus.BAD_REQUEST]
        metrics.hook(outcome, time.monotonic() - asked_at)
        headers = {} if answer.location is None else {"Location": answer.location}
        if answer.content is not None:
            return JSONResponse(dict(answer.content), answer.status, headers)
        return Response(status_code=answer.status, headers=headers)


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is too long, does not come, or whoever asks leaves before its end."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return body

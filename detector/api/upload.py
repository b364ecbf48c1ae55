"""`POST /scan`: a file as the body of a request, and what it holds as the answer."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from detector.api.connections import PATIENCE
from detector.api.token import TokenDoor
from detector.looking import TOO_LATE
from detector.metric_words import UploadEnd
from detector.metrics import Metrics
from detector.uploads.answer import UploadAnswer
from detector.uploads.ask import UploadRefused, read_ask
from detector.uploads.desk import Uploads

log = structlog.get_logger()

PATH = "/scan"
"""Where files are sent."""

_NOT_OURS = frozenset({"no_reader", TOO_LATE})
"""How a look may end without a frame for no fault of the file's."""

_Result = TypeVar("_Result")


class ClientLeft(Exception):
    """Raised where nobody is there to answer any more."""


class UploadDoor:
    """The ASGI app behind the token: takes one file a request and answers in JSON, every refusal with a sentence."""

    def __init__(self, uploads: Uploads, metrics: Metrics) -> None:
        self._uploads = uploads
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(scope, receive)
        except ClientLeft:
            self._metrics.upload(UploadEnd.LEFT)
            return
        except UploadRefused as refusal:
            self._metrics.upload(refusal.end)
            headers = {} if refusal.retry_seconds is None else {"Retry-After": str(refusal.retry_seconds)}
            await JSONResponse({"error": str(refusal)}, refusal.status, headers)(scope, receive, send)
            return
        status = _status(answer)
        self._metrics.upload(answer.decision if status is HTTPStatus.OK else UploadEnd.FAILED)
        await JSONResponse(answer.body(), status)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> UploadAnswer:
        if scope["method"] != "POST":
            raise UploadRefused(HTTPStatus.METHOD_NOT_ALLOWED, UploadEnd.BAD_REQUEST, "send the file with POST.")
        settings = self._uploads.settings
        if not settings.enabled:
            sentence = "no files are taken here; set uploads.enabled to true."
            raise UploadRefused(HTTPStatus.FORBIDDEN, UploadEnd.OFF, sentence)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        ask = read_ask(Headers(scope=scope), query, settings)
        with self._uploads.place():
            async with self._uploads.file() as file:
                if patience := scope.get("extensions", {}).get(PATIENCE):
                    patience["begin"]()  # from here on the pace of the upload counts, not that of small requests
                received = await self._uploads.receive(file, ask, _body(receive))
                answer = await _while_there(self._uploads.look(received, ask), receive)
        if answer.decision in (UploadEnd.REVIEW, UploadEnd.CUT):
            log.info("upload.found", media=answer.name, decision=answer.decision.value, detections=answer.count)
        return answer


def add_uploads(app: FastAPI, door: TokenDoor) -> None:
    """Serve uploads as part of `app`, before all else that may stand at its root."""
    app.router.routes.insert(0, Route(PATH, door))


def _status(answer: UploadAnswer) -> HTTPStatus:
    if answer.error is None:
        return HTTPStatus.OK
    return HTTPStatus.SERVICE_UNAVAILABLE if answer.ended in _NOT_OURS else HTTPStatus.UNPROCESSABLE_ENTITY


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the parts of the body as they come; raises `ClientLeft`."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body", False):
            return


async def _while_there(work: Coroutine[Any, Any, _Result], receive: Receive) -> _Result:
    """Do the work for as long as the client is there; raises `ClientLeft`."""
    working = asyncio.create_task(work, name="upload.look")
    watching = asyncio.create_task(_left(receive), name="upload.client")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] == "http.request":  # an empty rest of the body
        pass

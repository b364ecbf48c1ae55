"""Every refusal of both HTTP sides: JSON with one sentence under `error`, and the status that fits it."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from detector.api.view import Ambiguous, NotNow, ViewError

_STATUSES = {Ambiguous: HTTPStatus.CONFLICT, NotNow: HTTPStatus.TOO_MANY_REQUESTS}


def answer_refusals(app: FastAPI) -> None:
    """Make `app` answer every error as JSON. What a client sent is never repeated in the answer."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ViewError, _on_view)
    app.add_exception_handler(Exception, _on_fault)


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = {
        HTTPStatus.NOT_FOUND: "there is nothing at this address.",
        HTTPStatus.METHOD_NOT_ALLOWED: "this address does not take this method.",
    }.get(HTTPStatus(error.status_code), str(error.detail))
    return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}."}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _on_view(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), HTTPStatus.NOT_FOUND)
    return JSONResponse({"error": str(error)}, status)


async def _on_fault(_: Request, __: Exception) -> JSONResponse:
    """Answer for a fault of ours; the server logs its traceback."""
    sentence = "the service failed at this request; its log says why."
    return JSONResponse({"error": sentence}, HTTPStatus.INTERNAL_SERVER_ERROR)

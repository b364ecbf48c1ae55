"""HMA's routes: a client of facebook/ThreatExchange's hasher-matcher-actioner asks our banks as it asks HMA.

Paths, parameters, answers and error bodies (`{"message": ...}`) follow HMA's blueprints `matching`, `hashing` and
`curation` and its `app.py`; docs/hma.md lists what is answered, and where the answers differ. Nothing is changed by
them, and no URL is ever fetched.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.analysis.setup import BANKS_FOLDER
from detector.api.hma_banks import PDQ, HmaBanks, IndexStatus
from detector.api.hma_desk import NO_URL, HmaParts, LookUps, Text, bad, hash_of_upload, shown
from detector.api.hma_matching import matching
from detector.api.hma_pictures import Pictures
from detector.api.inside import InsideDoor
from detector.api.token import TokenDoor
from detector.config.config import Config
from detector.metrics import Metrics
from streams.keeper import Nursery


class Served(Protocol):
    """The running service, as far as HMA's routes go."""

    config: Config
    metrics: Metrics

    def http_token(self) -> str | None:
        """What opens the door, from the config in force."""
        ...

    def sound_bases(self) -> Iterable[str]:
        """As `HmaBanks` asks."""
        ...


@asynccontextmanager
async def hma_routes(app: FastAPI, service: Served, nursery: Nursery) -> AsyncIterator[None]:
    """Serve HMA's routes as part of `app`, where the config says so, for as long as the block lasts.

    Files are decoded by children of `nursery`.
    """
    settings = service.config.hma
    if not settings.enabled:
        yield
        return
    async with LookUps() as look_ups:
        parts = HmaParts(
            HmaBanks(service.config.state_dir / BANKS_FOLDER, lambda: service.config, service.sound_bases),
            Pictures(nursery, lambda: service.config),
            look_ups,
            settings.picture_limit.bytes,
        )
        routes: ASGIApp = create_hma_app(parts)
        if settings.needs_token:
            counted = _Counted(routes, service.metrics)
            routes = TokenDoor(counted, service.http_token, service.metrics, is_bounded=False, word="message")
        else:
            routes = _Counted(InsideDoor(routes), service.metrics)
        app.mount(settings.prefix, routes)
        yield


def create_hma_app(parts: HmaParts) -> FastAPI:
    """Return the app of HMA's routes, to be mounted behind a door and under a prefix."""
    app = FastAPI(title="stopframe hma", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(StarletteHTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)
    routers = {"/m": matching(parts), "/h": _hashing(parts), "/c": _curation(parts), "": _core(parts)}
    for prefix, router in routers.items():
        for route in router.routes:
            if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
                route.methods.add("HEAD")  # as Flask does for HMA: load balancers ask so
        app.include_router(router, prefix=prefix)
    return app


def _hashing(parts: HmaParts) -> APIRouter:
    router = APIRouter()

    @router.get("/hash")
    async def hash_url(url: Text = None) -> None:
        """Refuse to fetch."""
        raise bad("url is required") if url is None else HTTPException(HTTPStatus.FORBIDDEN, NO_URL)

    @router.post("/hash")
    async def hash_file(request: Request) -> dict[str, str]:
        """The hash of the picture in a form; empty where there is too little to see in it."""
        return {PDQ: await hash_of_upload(request, parts) or ""}

    return router


def _curation(parts: HmaParts) -> APIRouter:
    router = APIRouter()

    @router.get("/banks")
    async def banks() -> list[dict[str, Any]]:
        """Every bank that is a list of what is looked for."""
        ratios = await parts.look_ups.run(parts.banks.ratios)
        return [{"matching_enabled_ratio": ratio, "name": name} for name, ratio in ratios.items()]

    @router.get("/bank/{name}")
    async def bank(name: str) -> dict[str, Any]:
        """One of them."""
        ratios = await parts.look_ups.run(parts.banks.ratios)
        if name not in ratios:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"bank '{shown(name)}' not found")
        return {"matching_enabled_ratio": ratios[name], "name": name}

    @router.get("/signal_type")
    async def signal_types() -> list[dict[str, Any]]:
        """The one that is served."""
        return [{"enabled_ratio": 1.0, "name": PDQ}]

    return router


def _core(parts: HmaParts) -> APIRouter:
    router = APIRouter()

    @router.get("/livez")
    async def live() -> PlainTextResponse:
        """The process answers."""
        return PlainTextResponse("OK")

    @router.get("/readyz")
    async def ready() -> PlainTextResponse:
        """Every list is loaded, as it is on disk."""
        return _state(await parts.look_ups.run(parts.banks.status), "READY")

    @router.get("/status")
    async def status() -> PlainTextResponse:
        """The same in HMA's older words."""
        return _state(await parts.look_ups.run(parts.banks.status), "I-AM-ALIVE")

    return router


def _state(status: IndexStatus, word: str) -> PlainTextResponse:
    if not status.is_loaded:
        return PlainTextResponse("INDEX-NOT-LOADED", HTTPStatus.SERVICE_UNAVAILABLE)
    if status.is_stale:
        return PlainTextResponse("INDEX-STALE", HTTPStatus.SERVICE_UNAVAILABLE)
    return PlainTextResponse(word)


class _Counted:
    """Counts the answers of an app by their status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.hma_answered(int(message["status"]))
            await send(message)

        await self._app(scope, receive, counted)


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"message": str(error.detail)}, error.status_code, headers=error.headers)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"message": f"{first['loc'][-1]}: {first['msg']}"}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _on_fault(_: Request, __: Exception) -> JSONResponse:
    """Answer for a fault of ours; the server logs its traceback."""
    return JSONResponse(
        {"message": "the service failed at this request; its log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR
    )

"""Control commands: over a Unix socket in `state_dir`, whose owner is the operator, and over TCP behind a token."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from detector.api.refusals import answer_refusals
from detector.api.view import (
    CutReport,
    Health,
    HintReport,
    HintRequest,
    IncidentRow,
    ReloadReport,
    ServiceView,
    StreamRow,
    UndoReport,
)
from detector.hints import LONGEST_SECONDS

SOCKET_NAME = "control.sock"
"""The control socket's name inside `state_dir`."""

_SHOWN_CHARACTERS = 4
_LONG_NAME_CHARACTERS = 16

INCIDENT_LIMIT = 1000
"""Most incidents in one answer."""

IDENTIFIER = r"^[0-9A-Za-z_-]{1,64}$"
"""What an identifier of a stream or an incident, or its beginning, looks like."""

HINT_WORD = r"^[a-z0-9_.-]{1,64}$"
"""What a hint's source and its reason look like: words of the sender, which stand in logs and on the screen."""

Identifier = Annotated[str, Path(pattern=IDENTIFIER)]


class ReleaseRequest(BaseModel):
    """Which source may cut again: `BANK/entry` or `model/label`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1, max_length=256)


class ReleaseReport(BaseModel):
    """What a release came to. `is_released` is False where the breaker held nothing of this source."""

    model_config = ConfigDict(frozen=True)

    source: str
    is_released: bool


class HintBody(BaseModel):
    """A risk hint: `score` is 0-1, `source` and `reason` are words of `a-z 0-9 _ . -`, it lasts an hour at most."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    score: float = Field(ge=0.0, le=1.0)
    source: str = Field(pattern=HINT_WORD)
    reason: str = Field(pattern=HINT_WORD)
    lasts_seconds: float = Field(gt=0.0, le=LONGEST_SECONDS)


class ReloadRequest(BaseModel):
    """Which config file the caller means; None for whichever the service runs from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(default=None, min_length=1, max_length=4096)


def create_control_app(view: ServiceView, *, may_show_keys: bool = True) -> FastAPI:
    """Return the control app; without `may_show_keys` it never tells a publisher's key, as is right over TCP."""
    app = FastAPI(title="stopframe control", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    answer_refusals(app)
    app.include_router(_questions(view, may_show_keys=may_show_keys))
    app.include_router(_orders(view))
    return app


def masked_path(path: str) -> str:
    """A stream's path without its key: enough of a long one to tell it by, nothing of a short one.

    A source's path is its name in the config, no key.
    """
    app, slash, name = path.rpartition("/")
    if app == "source":
        return path
    shown = name[:_SHOWN_CHARACTERS] if len(name) >= _LONG_NAME_CHARACTERS else ""
    return f"{app}{slash}{shown}***"


def _questions(view: ServiceView, *, may_show_keys: bool) -> APIRouter:
    router = APIRouter()

    @router.get("/status")
    async def status() -> Health:
        return view.health()

    @router.get("/streams")
    async def streams(*, keys: bool = False) -> list[StreamRow]:
        rows = view.streams()
        if keys and may_show_keys:
            return rows
        return [replace(row, path=masked_path(row.path)) for row in rows]

    @router.get("/incidents")
    async def incidents(limit: Annotated[int, Query(ge=1, le=INCIDENT_LIMIT)] = 50) -> list[IncidentRow]:
        return await view.incidents(limit)

    return router


def _orders(view: ServiceView) -> APIRouter:
    router = APIRouter()

    @router.post("/streams/{stream}/cut")
    async def cut(stream: Identifier) -> CutReport:
        return await view.cut(stream)

    @router.post("/streams/{stream}/hint")
    async def hint(stream: Identifier, request: HintBody) -> HintReport:
        return view.hint(stream, HintRequest(**request.model_dump()))

    @router.post("/incidents/{incident}/undo")
    async def undo(incident: Identifier) -> UndoReport:
        return await view.undo(incident)

    @router.post("/breaker/release")
    async def release(request: ReleaseRequest) -> ReleaseReport:
        return ReleaseReport(source=request.source, is_released=await view.release(request.source))

    @router.post("/reload")
    async def reload(request: ReloadRequest) -> ReloadReport:
        return await view.reload(request.file)

    return router

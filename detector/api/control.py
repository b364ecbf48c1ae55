"""Control commands over a Unix socket in `state_dir`. Whoever may open it is the operator: there is no token."""

from typing import Annotated

from fastapi import FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from detector.api.refusals import answer_refusals
from detector.api.view import CutReport, Health, IncidentRow, ServiceView, StreamRow, UndoReport

SOCKET_NAME = "control.sock"
"""The control socket's name inside `state_dir`."""

INCIDENT_LIMIT = 1000
"""Most incidents in one answer."""

IDENTIFIER = r"^[0-9A-Za-z_-]{1,64}$"
"""What an identifier of a stream or an incident, or its beginning, looks like."""

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


def create_control_app(view: ServiceView) -> FastAPI:
    """Return the app of the control socket."""
    app = FastAPI(title="stopframe control", docs_url=None, redoc_url=None, openapi_url=None)
    answer_refusals(app)

    @app.get("/status")
    async def status() -> Health:
        return view.health()

    @app.get("/streams")
    async def streams() -> list[StreamRow]:
        return view.streams()

    @app.get("/incidents")
    async def incidents(limit: Annotated[int, Query(ge=1, le=INCIDENT_LIMIT)] = 50) -> list[IncidentRow]:
        return await view.incidents(limit)

    @app.post("/streams/{stream}/cut")
    async def cut(stream: Identifier) -> CutReport:
        return await view.cut(stream)

    @app.post("/incidents/{incident}/undo")
    async def undo(incident: Identifier) -> UndoReport:
        return await view.undo(incident)

    @app.post("/breaker/release")
    async def release(request: ReleaseRequest) -> ReleaseReport:
        return ReleaseReport(source=request.source, is_released=await view.release(request.source))

    return app

"""HTTP over TCP: health, metrics, the hook that ingest servers ask, and behind a token what the commands can do.

Nothing that it answers without a token names a stream, and nothing at all tells a publisher's key.
"""

from collections.abc import Callable
from http import HTTPStatus

from fastapi import FastAPI, Response

from detector.api.control import create_control_app
from detector.api.hook import add_hook
from detector.api.refusals import answer_refusals
from detector.api.token import Guesses, TokenDoor
from detector.api.upload import UploadDoor, add_uploads
from detector.api.view import Health, ServiceView
from detector.ingest.hooks import AnswersHooks
from detector.metrics import Metrics
from detector.uploads.desk import Uploads

_READ = ["GET", "HEAD"]


def create_open_app(
    title: str, ask_health: Callable[[], Health], metrics: Metrics, hook: tuple[str, AnswersHooks] | None
) -> FastAPI:
    """Return what anybody may ask, of a service or of a cutter: health, metrics, and the hook under its secret."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    answer_refusals(app)

    @app.api_route("/health/live", methods=_READ)
    async def live() -> dict[str, bool]:
        """Answer while the event loop turns."""
        return {"ok": True}

    @app.api_route("/health/ready", methods=_READ)
    async def ready(response: Response) -> Health:
        """Answer 200 while it does its job, else 503 with the problems."""
        health = ask_health()
        if not health.ok:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return health

    @app.api_route("/metrics", methods=_READ)
    async def exposition() -> Response:
        """Answer in Prometheus' text format."""
        text, content_type = metrics.expose()
        return Response(text, media_type=content_type)

    if hook is not None:
        add_hook(app, *hook, metrics)
    return app


def create_app(
    view: ServiceView,
    metrics: Metrics,
    hook: tuple[str, AnswersHooks] | None = None,
    *,
    token: Callable[[], str | None] = lambda: None,
    uploads: Uploads | None = None,
) -> FastAPI:
    """Return the app of the TCP port. It has no documentation pages: they would tell a stranger what to try.

    `hook` is the hook's secret and the ingest server that asks there; without it there is no such address.
    `token` says what opens the control API under `/v1` and the door of `uploads`; without one neither is there.
    """
    app = create_open_app("stopframe", view.health, metrics, hook)
    guesses = Guesses()  # of one token, whichever door they are made at
    app.mount("/v1", TokenDoor(create_control_app(view, may_show_keys=False), token, metrics, guesses))
    if uploads is not None:
        add_uploads(app, TokenDoor(UploadDoor(uploads, metrics), token, metrics, guesses, is_bounded=False))
    return app

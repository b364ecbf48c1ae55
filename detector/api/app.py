"""HTTP over TCP: health, metrics, and the hook that ingest servers ask. Nothing that it answers names a stream."""

from http import HTTPStatus

from fastapi import FastAPI, Response

from detector.api.hook import add_hook
from detector.api.refusals import answer_refusals
from detector.api.view import Health, ServiceView
from detector.ingest.hooks import AnswersHooks
from detector.metrics import Metrics


def create_app(view: ServiceView, metrics: Metrics, hook: tuple[str, AnswersHooks] | None = None) -> FastAPI:
    """Return the app of the TCP port. It has no documentation pages: they would tell a stranger what to try.

    `hook` is the hook's secret and the ingest server that asks there; without it there is no such address.
    """
    app = FastAPI(title="stopframe", docs_url=None, redoc_url=None, openapi_url=None)
    answer_refusals(app)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """Answer while the event loop turns."""
        return {"ok": True}

    @app.get("/health/ready")
    async def ready(response: Response) -> Health:
        """Answer 200 while the service does its job, else 503 with the problems."""
        health = view.health()
        if not health.ok:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return health

    @app.get("/metrics")
    async def exposition() -> Response:
        """Answer in Prometheus' text format."""
        text, content_type = metrics.expose()
        return Response(text, media_type=content_type)

    if hook is not None:
        add_hook(app, *hook, metrics)
    return app

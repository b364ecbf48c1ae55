"""Stands in for MediaMTX's control API and authentication; written from its source, never run against a real MediaMTX.

Shapes and statuses as in github.com/bluenviron/mediamtx at commit 3e09466c: `api/openapi.yaml`, `internal/api/`,
`internal/defs/api_path.go`, `internal/auth/manager.go`.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from detector.api.server import HttpServer

KICKS = {
    "rtmpconns": "rtmpConn",
    "rtspsessions": "rtspSession",
    "srtconns": "srtConn",
    "webrtcsessions": "webRTCSession",
}

Hook = Callable[[dict[str, Any]], Awaitable[int]]


class Denied(Exception):
    """The authentication hook did not let a publisher in."""


@dataclass
class FakeMediaMtx:
    """The paths it has. `hook` is asked before anyone publishes; `page_limit` is the most items it gives at once."""

    paths: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    hook: Hook | None = None
    page_limit: int = 1_000_000
    port: int = 0
    kicked: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, source_type: str = "rtmpConn", **changes: Any) -> str:
        """Put somebody behind a path; return the id of the source."""
        source_id = str(uuid.uuid4())
        self.paths[path] = {
            "name": path,
            "confName": "all_others",
            "ready": True,
            "readyTime": "2026-01-01T00:00:00Z",
            "available": True,
            "availableTime": "2026-01-01T00:00:00Z",
            "online": True,
            "onlineTime": "2026-01-01T00:00:00Z",
            "source": {"type": source_type, "id": source_id},
            "tracks": ["H264"],
            "tracks2": [{"codec": "H264", "codecProps": {"width": 640, "height": 360}}],
            "readers": [],
            "inboundBytes": 1,
            "outboundBytes": 0,
            "inboundFramesInError": 0,
        } | changes
        return source_id

    async def publish(self, path: str, query: str = "") -> str:
        """Publish over RTMP as a client would: the hook first. Raises `Denied`."""
        if self.hook is not None:
            status = await self.hook(question("publish", path, query=query))
            if not 200 <= status <= 299:
                raise Denied
        return self.add(path)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v3/paths/list")
        async def paths(request: Request) -> JSONResponse:
            self.asked.append(dict(request.query_params))
            per_page = min(int(request.query_params.get("itemsPerPage", 100)), self.page_limit)
            page = int(request.query_params.get("page", 0))
            items = list(self.paths.values())
            count = -(-len(items) // per_page)
            found = items[page * per_page : (page + 1) * per_page]
            return JSONResponse({"itemCount": len(items), "pageCount": count, "items": found})

        @app.post("/v3/{kind}/kick/{source_id}")
        async def kick(kind: str, source_id: str) -> JSONResponse:
            for path, item in self.paths.items():
                source = item["source"]
                if source and source["id"] == source_id and source["type"] == KICKS.get(kind):
                    del self.paths[path]
                    self.kicked.append(source_id)
                    return JSONResponse({"status": "ok"})
            return JSONResponse({"status": "error", "error": "connection not found"}, 404)

        @app.get("/v3/config/paths/get/{name:path}")
        async def config(name: str) -> JSONResponse:
            if name not in self.configs:
                return JSONResponse({"status": "error", "error": "path configuration not found"}, 404)
            return JSONResponse({"name": name, **self.configs[name]})

        @app.patch("/v3/config/paths/patch/{name:path}")
        async def patch(name: str, request: Request) -> JSONResponse:
            if name not in self.configs:
                return JSONResponse({"status": "error", "error": "path configuration not found"}, 404)
            self.configs[name] |= await request.json()
            if self.configs[name]["source"] == "publisher":
                self.paths.pop(name, None)
            return JSONResponse({"status": "ok"})

        return app

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeMediaMtx"]:
        """Answer on a port of its own."""
        async with HttpServer(self.app(), "127.0.0.1", 0) as server:
            self.port = server.port
            yield self


def question(action: str, path: str, **changes: str | None) -> dict[str, Any]:
    """What the authentication hook is asked."""
    return {
        "ip": "192.0.2.9",
        "user": "",
        "password": "",
        "token": "",
        "action": action,
        "path": path,
        "protocol": "rtmp",
        "id": str(uuid.uuid4()),
        "query": "",
        "userAgent": "",
    } | changes

"""Stand-ins for ingest servers that were never run here, each written from its public API documentation.

Which documents: the docstrings of `detector/ingest/{srs,ovenmediaengine,ant_media,livekit,aws_ivs,platform}.py`.
"""

import base64
import contextlib
import hashlib
import hmac
import inspect
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from detector.api.server import HttpServer
from detector.ingest.adapter import IngestServer
from detector.ingest.hooks import AnswersHooks, HookAnswer, ProvesHooks
from detector.ingest.tokens import bearer_token, is_signed, stamped_signature, token_claims

SECRET = "secret-of-the-peer"
"""When requests are dated, to within minutes."""

Ask = Callable[[bytes, Mapping[str, str]], Awaitable[HookAnswer]]


class Denied(Exception):
    """The publisher was not let in."""


def asking(server: IngestServer) -> Ask:
    """How the service's HTTP side lets `server` answer its hook."""

    async def ask(body: bytes, headers: Mapping[str, str]) -> HookAnswer:
        if isinstance(server, ProvesHooks) and not server.is_genuine(body, headers):
            return HookAnswer(401)
        answer = cast(AnswersHooks, server).answer_hook(body)
        answer = await answer if inspect.isawaitable(answer) else answer
        return answer if isinstance(answer, HookAnswer) else HookAnswer(answer)

    return ask


@dataclass
class Peer(ABC):
    """Who is live, by app and name: their connection. `ask` is the hook; without one everybody is let in."""

    live: dict[tuple[str, str], str] = field(default_factory=dict)
    ask: Ask | None = None
    port: int = 0
    questions: list[str] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @abstractmethod
    def app(self) -> FastAPI:
        """Its API."""

    @abstractmethod
    async def allows(self, app: str, name: str) -> bool:
        """Whether somebody may publish: what its hook says."""

    async def publish(self, app: str, name: str) -> str:
        """Publish as a client would. Raises `Denied`."""
        if self.ask is not None and not await self.allows(app, name):
            raise Denied
        self.live[app, name] = f"c{next(self.numbers)}"
        return self.live[app, name]

    async def asked(self, fields: Any, headers: Mapping[str, str] | None = None) -> HookAnswer:
        """What the hook answers to a question."""
        assert self.ask is not None
        return await self.ask(json.dumps(fields).encode(), headers or {})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Peer"]:
        """Answer on a port of its own."""
        async with HttpServer(self.app(), "127.0.0.1", 0) as server:
            self.port = server.port
            yield self


class FakeSrs(Peer):
    """SRS: streams in pages, clients by id, callbacks."""

    def app(self) -> FastAPI:
        app = FastAPI()
        vhosts = [{"id": "vid-1", "name": "__defaultVhost__"}, {"id": "vid-2", "name": "other.example"}]

        @app.get("/api/v1/vhosts/")
        async def get_vhosts() -> Any:
            return {"code": 0, "server": "vid-s", "vhosts": vhosts}

        @app.get("/api/v1/streams/")
        async def streams(start: int = 0, count: int = 10) -> Any:
            self.questions.append("streams")
            found = [
                {
                    "id": f"vid-{cid}",
                    "name": name,
                    "vhost": "vid-1",
                    "app": app,
                    "clients": 1,
                    "publish": {"active": True, "cid": cid},
                    "video": {"codec": "H264"},
                }
                for (app, name), cid in self.live.items()
            ]
            found.append({"id": "vid-o", "name": "o", "vhost": "vid-2", "app": "live", "publish": {"active": True}})
            found.append({"id": "vid-i", "name": "i", "vhost": "vid-1", "app": "live", "publish": {"active": False}})
            return {"code": 0, "server": "vid-s", "streams": found[start : start + max(10, min(count, 1000))]}

        @app.delete("/api/v1/clients/{client}")
        async def kick(client: str) -> Any:
            self.questions.append(f"kick {client}")
            for key, cid in self.live.items():
                if cid == client:
                    del self.live[key]
                    return {"code": 0}
            return {"code": 2049}

        return app

    async def allows(self, app: str, name: str) -> bool:
        answer = await self.asked(self.callback("on_publish", app, name))
        return answer.status == 200 and answer.content == {"code": 0}

    def callback(self, action: str, app: str, name: str, *, client: str = "x", param: str = "") -> dict[str, str]:
        """What one HTTP callback says."""
        return {
            "server_id": "vid-s",
            "action": action,
            "client_id": client,
            "ip": "192.0.2.9",
            "vhost": "__defaultVhost__",
            "app": app,
            "tcUrl": f"rtmp://example/{app}",
            "stream": name,
            "param": param,
        }


class FakeOme(Peer):
    """OvenMediaEngine: streams of applications, admission webhooks signed with HMAC-SHA1."""

    def app(self) -> FastAPI:
        app = FastAPI()
        created = "2026-01-11T03:45:21.879+09:00"

        def answer(status: int, response: Any = None) -> JSONResponse:
            return JSONResponse({"statusCode": status, "message": "OK", "response": response}, status)

        @app.middleware("http")
        async def authorized(request: Request, call_next: Any) -> Any:
            expected = f"Basic {base64.b64encode(SECRET.encode()).decode()}"
            return await call_next(request) if request.headers.get("authorization") == expected else answer(401)

        @app.get("/v1/vhosts/default/apps")
        async def apps() -> Any:
            return answer(200, sorted({app for app, _ in self.live}))

        @app.get("/v1/vhosts/default/apps/{app}/streams")
        async def streams(app: str) -> Any:
            return answer(200, [name for one, name in self.live if one == app])

        @app.get("/v1/vhosts/default/apps/{app}/streams/{name}")
        async def stream(app: str, name: str) -> Any:
            if (app, name) not in self.live:
                return answer(404)
            self.questions.append("stream")
            return answer(200, {"name": name, "input": {"createdTime": created + self.live[app, name]}, "outputs": []})

        @app.delete("/v1/vhosts/default/apps/{app}/streams/{name}")
        async def delete(app: str, name: str) -> Any:
            return answer(200 if self.live.pop((app, name), None) else 404)

        return app

    async def allows(self, app: str, name: str) -> bool:
        answer = await self.admission("incoming", app, name)
        return answer.status == 200 and (answer.content or {}).get("allowed") is True

    async def admission(self, direction: str, app: str, name: str, query: str = "", secret: str = SECRET) -> HookAnswer:
        """Ask as AdmissionWebhooks does."""
        url = f"rtmp://192.0.2.1:1935/{quote(app)}/{quote(name, safe='')}?{query}"
        body = {
            "client": {"address": "192.0.2.9", "port": 29291},
            "request": {"direction": direction, "protocol": "rtmp", "status": "opening", "url": url, "time": "x"},
        }
        digest = hmac.new(secret.encode(), json.dumps(body).encode(), hashlib.sha1).digest()
        return await self.asked(body, {"x-ome-signature": base64.urlsafe_b64encode(digest).decode()})


class FakeAntMedia(Peer):
    """Ant Media Server: broadcasts in pages of fifty, the ended ones among them; authorization webhooks."""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def authorized(request: Request, call_next: Any) -> Any:
            claims = token_claims(SECRET, request.headers.get("authorization", ""), now=time.time())
            return await call_next(request) if claims else JSONResponse({}, 403)

        @app.get("/{app}/rest/v2/broadcasts/list/{offset}/{size}")
        async def broadcasts(app: str, offset: int, size: int) -> Any:
            found = [{"streamId": "old", "status": "finished", "startTime": 0}]
            found += [
                {"streamId": name, "status": "broadcasting", "startTime": int(cid[1:]), "type": "liveStream"}
                for (one, name), cid in self.live.items()
                if one == app
            ]
            return found[offset : offset + min(size, 50)]

        @app.post("/{app}/rest/v2/broadcasts/{name}/stop")
        async def stop(app: str, name: str) -> Any:
            return {"success": self.live.pop((app, name), None) is not None, "message": None}

        return app

    async def allows(self, app: str, name: str) -> bool:
        fields = {"appName": app, "name": name, "streamId": name, "mode": "publish", "token": None}
        return (await self.asked(fields)).status == 200


class FakeLiveKit(Peer):
    """LiveKit: rooms and participants behind signed calls. Nobody is asked before they join."""

    ingress: dict[tuple[str, str], str]

    def app(self) -> FastAPI:
        app = FastAPI()
        self.ingress = {}

        @app.post("/twirp/livekit.{service}/{method}")
        async def call(service: str, method: str, request: Request) -> Any:  # noqa: PLR0911 - one for each method
            claims = token_claims(SECRET, request.headers["authorization"].removeprefix("Bearer "), now=time.time())
            if claims is None or claims["iss"] != "key":
                return JSONResponse({"code": "unauthenticated", "msg": "x"}, 401)
            fields = await request.json()
            self.questions.append(method)
            room = fields.get("room", fields.get("room_name"))
            match method:
                case "ListRooms":
                    rooms = sorted({app for app, _ in self.live})
                    return {"rooms": [{"name": n, "num_publishers": 1} for n in rooms] + [_EMPTY_ROOM]}
                case "ListParticipants":
                    return {"participants": [_SILENT, *self._participants(room)]}
                case "RemoveParticipant":
                    if self.live.pop((room, fields["identity"]), None) is None:
                        return JSONResponse({"code": "not_found", "msg": "participant does not exist"}, 404)
                    return {}
                case "ListIngress":
                    return {"items": [_ingress(k, v) for k, v in self.ingress.items() if k[0] == room]}
                case "DeleteIngress":
                    self.ingress = {k: v for k, v in self.ingress.items() if v != fields["ingress_id"]}
                    return {}
            return JSONResponse({"code": "bad_route", "msg": service}, 404)

        return app

    def _participants(self, room: str) -> list[dict[str, Any]]:
        kinds = {True: "INGRESS", False: "STANDARD"}
        return [
            {"sid": f"PA_{c}", "identity": n, "kind": kinds[(a, n) in self.ingress], "tracks": [{"type": "VIDEO"}]}
            for (a, n), c in self.live.items()
            if a == room
        ]

    async def allows(self, app: str, name: str) -> bool:
        body = json.dumps({"event": "participant_joined", "room": {"name": app}}).encode()
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert self.ask is not None
        await self.ask(body, {"authorization": bearer_token(SECRET, {"iss": "key", "sha256": digest})})
        del name
        return True


_EMPTY_ROOM = {"name": "empty", "num_publishers": 0}
_SILENT = {"sid": "PA_s", "identity": "listener", "tracks": [{"type": "AUDIO"}]}


def _ingress(key: tuple[str, str], number: str) -> dict[str, str]:
    return {"ingress_id": number, "room_name": key[0], "participant_identity": key[1]}


class FakeIvs(Peer):
    """Amazon IVS: channels with stream keys, pages by token, errors as its API reference names them."""

    keys: dict[str, list[str]]

    def app(self) -> FastAPI:
        app = FastAPI()
        self.keys = {}

        @app.post("/{operation}")
        async def call(operation: str, request: Request) -> Any:
            fields = await request.json()
            self.questions.append(operation)  # from here on nothing that is published changes the answer
            day = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%d")
            if f"Credential=AKID/{day}/eu-west-1/ivs/aws4_request" not in request.headers["authorization"]:
                return JSONResponse({"__type": "AccessDeniedException"}, 403)
            return self._answer(operation, fields)

        return app

    def arn(self, key: tuple[str, str]) -> str:
        return f"arn:aws:ivs:eu-west-1:{key[0]}:channel/{key[1]}"

    def _answer(self, operation: str, fields: Any) -> Any:  # noqa: C901, PLR0911 - one for each operation
        live = {self.arn(key): cid for key, cid in self.live.items()}
        arn = fields.get("channelArn", "")
        match operation:
            case "ListStreams":
                start = int(fields.get("nextToken", 0))
                page = list(live.items())[start : start + 100]
                streams = [{"channelArn": a, "streamId": f"st-{c}", "state": "LIVE"} for a, c in page]
                more = {"nextToken": str(start + 100)} if start + 100 < len(live) else {}
                return {"streams": streams, **more}
            case "BatchGetChannel":
                assert len(fields["arns"]) <= 50
                return {"channels": [{"arn": a, "playbackUrl": "https://p.test/x.m3u8"} for a in fields["arns"]]}
            case "ListStreamKeys":
                return {"streamKeys": [{"arn": k, "channelArn": arn} for k in self.keys.setdefault(arn, [f"{arn}/k"])]}
            case "DeleteStreamKey":
                for found in self.keys.values():
                    if fields["arn"] in found:
                        found.remove(fields["arn"])
                return Response(status_code=204)
            case "CreateStreamKey" if self.keys.setdefault(arn, []):
                return JSONResponse({"__type": "ServiceQuotaExceededException"}, 402)
            case "CreateStreamKey":
                self.keys[arn].append(f"{arn}/k{next(self.numbers)}")
                return {"streamKey": {"arn": self.keys[arn][0], "value": "sk_x"}}
            case "StopStream" if arn not in live:
                return JSONResponse({"__type": "ChannelNotBroadcasting"}, 404)
            case "StopStream":
                self.live = {key: cid for key, cid in self.live.items() if self.arn(key) != arn}
                return {}
        return JSONResponse({"__type": "ValidationException"}, 400)

    async def allows(self, app: str, name: str) -> bool:
        return bool(self.keys.setdefault(self.arn((app, name)), ["k"]))


class FakePlatform(Peer):
    """A platform that keeps docs/ingest-platform.md, in pages of a hundred."""

    denied: set[tuple[str, str]]

    def app(self) -> FastAPI:
        app = FastAPI()
        self.denied = set()

        @app.post("/stopframe")
        async def asked(request: Request) -> Any:
            body = await request.body()
            if not is_signed(SECRET, request.headers.get("stopframe-signature", ""), body, now=time.time()):
                return JSONResponse({}, 401)
            fields = json.loads(body)
            self.questions.append(fields["action"])
            key = (fields.get("app"), fields.get("name"))
            match fields["action"]:
                case "list":
                    start = int(fields["cursor"] or 0)
                    more = str(start + 100) if start + 100 < len(self.live) else None
                    return {"publishers": [self._row(k) for k in list(self.live)[start : start + 100]], "next": more}
                case "cut":
                    is_live = self.live.get(key) == fields["connection"]
                    return {"count": int(is_live and bool(self.live.pop(key)))}
                case "revoke":
                    self.denied.add(key)
                case "restore":
                    self.denied.discard(key)
            return {"ok": True}

        return app

    def _row(self, key: tuple[str, str]) -> dict[str, str]:
        return {
            "app": key[0],
            "name": key[1],
            "connection": self.live[key],
            "url": f"rtmp://192.0.2.1/{quote(key[0], safe='')}/{quote(key[1], safe='')}",
        }

    async def allows(self, app: str, name: str) -> bool:
        return (app, name) not in self.denied and await self.would("publish", app, name)

    async def would(self, action: str, app: str, name: str, at: float | None = None) -> bool:
        """Ask as the platform does, dated now unless told otherwise."""
        fields = {"action": action, "app": app, "name": name}
        header = stamped_signature(SECRET, int(time.time() if at is None else at), json.dumps(fields).encode())
        return (await self.asked(fields, {"stopframe-signature": header})).status == 200

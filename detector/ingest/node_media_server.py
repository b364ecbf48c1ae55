"""node-media-server 4: its HTTP API lists and drops publishers, its webhook lets us refuse revoked keys.

The webhook comes while media flows already and an endpoint that does not answer lets everyone in, so what it refuses is
also looked for in the list. API and webhook: github.com/illuspas/Node-Media-Server, `src/api/` and
`src/server/notify_server.js` of the release 4.4.3.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from detector.config.references import Secret
from detector.config.sections import IngestSection
from detector.config.servers import PlainHttpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import Username
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import AskedServer
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from streams.job import SourceKind

_SERVER = "node-media-server"
_LOGIN_PAUSE_SECONDS = 300.0
"""The server locks an account for 15 minutes after five refused logins: the one who corrects it needs some left."""

_PUBLISHING = "publishing"
_PUBLISH_ACTIONS = frozenset({"prePublish", "postPublish"})
_CHANGES = frozenset({*_PUBLISH_ACTIONS, "donePublish"})


class NodeMediaServerSettings(IngestSection):
    """node-media-server 4, from npm."""

    kind: Literal["node-media-server"] = "node-media-server"
    """`node-media-server` is the server of that name, release 4.4."""
    api: PlainHttpServerUrl = PlainHttpServerUrl("http", "127.0.0.1", 8000)
    """Its HTTP server: the API is asked there, and streams are read there as HTTP-FLV."""
    username: Username = "admin"
    """The account that logs in to the API."""
    password: Secret | None = None
    """Its password: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its webhook makes us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the API may take."""


class NodeMediaServer(AskedServer):
    """One node-media-server. An `IngestServer`; `clock` is monotonic, in seconds.

    A cut closes no more than the server's own half of the connection: whoever ignores that streams on, and is listed.
    """

    title: ClassVar[str] = _SERVER
    hook_remedy: ClassVar[str | None] = "correct notify.url in its config"

    def __init__(
        self,
        settings: NodeMediaServerSettings,
        revocations: Revocations,
        name: str = _SERVER,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        api = ServerApi(_SERVER, str(settings.api), setting="ingest.api", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._token: str | None = None
        self._logging_in = asyncio.Lock()
        self._login_refused_at = -math.inf

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """HTTP-FLV: it begins with the pictures since the last keyframe, which the server keeps."""
        path = f"/{quote(key.app, safe='')}/{quote(key.name, safe='')}.flv"
        return SourceKind.HTTP_FLV, f"{self._settings.api}{path}"

    def answer_hook(self, body: bytes) -> int:
        """The HTTP status for one call of the webhook: 403 for a key that is revoked or unreadable, 200 for all else.

        Anything but 200 makes the server close the session that the call is about, viewers and our own readers
        included. The body is JSON whatever its content type says; 400 where it is none.
        """
        try:
            fields = json.loads(body)
            action, app, name = (fields[key] for key in ("action", "app", "name"))
        except (ValueError, KeyError, TypeError, RecursionError):
            return 400
        if not isinstance(action, str) or action not in _CHANGES:
            return 200
        self._poll.hurry()
        if action not in _PUBLISH_ACTIONS:
            return 200
        if not isinstance(app, str) or not isinstance(name, str):
            return 400
        return 200 if self._may_publish(StreamKey(self.name, app, name)) else 403

    async def _ask_for_live(self) -> list[Publisher]:
        answer = await self._ask("GET", "/api/v1/streams")
        with self._reading(answer) as content:
            return [self._of(stream) for stream in content["data"]["streams"] if stream["status"] == _PUBLISHING]

    async def _drop(self, publisher: Publisher) -> int:
        answer = await self._ask("DELETE", f"/api/v1/sessions/{quote(publisher.connection, safe='')}")
        if answer.status not in (200, 404):  # 404: it left since it was listed
            raise self._api.refuse(answer)
        return int(answer.status == 200)

    def _of(self, stream: dict[str, Any]) -> Publisher:
        publisher = stream["publisher"]
        key = StreamKey(self.name, str(stream["app"]), str(stream["name"]))
        return self._publisher(key, str(publisher["id"]), str(publisher.get("ip", "")).rpartition(":")[0])

    async def _ask(self, method: str, path: str) -> ApiAnswer:
        token = self._token or await self._log_in(None)
        answer = await self._api.ask(method, path, token=token)
        if answer.status != 401:
            return answer
        # It expired, or the server was given another secret.
        return await self._api.ask(method, path, token=await self._log_in(token))

    async def _log_in(self, expired: str | None) -> str:
        """A token that is not `expired`; questions that need one at the same time log in once."""
        async with self._logging_in:
            if self._token is None or self._token == expired:
                self._token = await self._new_token()
            return self._token

    async def _new_token(self) -> str:
        wait = self._login_refused_at + _LOGIN_PAUSE_SECONDS - self._clock()
        if wait > 0:
            raise self._login_refused()
        password = self._settings.password
        if password is None:
            raise IngestUnavailable(f"{_SERVER} asks for a password: write ingest.password")
        body = {"username": self._settings.username, "password": password.reveal()}
        answer = await self._api.ask("POST", "/api/v1/login", body=body)
        if answer.status in (400, 401, 429):
            self._login_refused_at = self._clock()
            raise self._login_refused()
        with self._reading(answer) as content:
            return str(content["data"]["token"])

    def _login_refused(self) -> IngestUnavailable:
        return IngestUnavailable(
            f"{_SERVER} refused the login: correct ingest.username and ingest.password and restart, "
            f"or wait {_LOGIN_PAUSE_SECONDS / 60:.0f} minutes for another try"
        )

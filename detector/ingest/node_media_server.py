"""node-media-server 4: its HTTP API lists and drops publishers, its webhook lets us refuse revoked keys.

The webhook comes while media flows already and an endpoint that does not answer lets everyone in, so what it refuses is
also looked for in the list. API and webhook: github.com/illuspas/Node-Media-Server, `src/api/` and
`src/server/notify_server.js` of the release 4.4.3.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from detector.config.references import Secret
from detector.config.sections import IngestSection
from detector.config.servers import PlainHttpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import Username
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.asked import is_readable
from detector.ingest.hook_watch import HookWatch
from detector.ingest.polling import PublisherPoll
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


class NodeMediaServer:
    """One node-media-server. An `IngestServer`; `clock` is monotonic, in seconds."""

    can_cut = True

    def __init__(
        self,
        settings: NodeMediaServerSettings,
        revocations: Revocations,
        name: str = _SERVER,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._settings = settings
        self._revocations = revocations
        self._clock = clock
        self._watch = HookWatch()
        self._api = ServerApi(
            _SERVER, str(settings.api), setting="ingest.api", timeout_seconds=settings.timeout.seconds
        )
        self._poll = PublisherPoll(name, self._list, interval_seconds=settings.poll.seconds, clock=clock)
        self._token: str | None = None
        self._logging_in = asyncio.Lock()
        self._login_refused_at = -math.inf
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to ask the server; one that is down is asked until it is up."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._api)
            await stack.enter_async_context(self._poll)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more; every `changes()` ends. Publishers stay live."""
        await self._resources.aclose()

    async def publishers(self) -> list[Publisher]:
        """Who publishes now; a stream that waits for its publisher to come back is none."""
        return await self._poll.now()

    def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`; goes on while the server is down, which `problems` tells."""
        return self._poll.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """End the publisher's session.

        The server closes no more than its own half of the connection: whoever ignores that streams on, and is listed.
        """
        found = [p for p in await self._poll.now() if p.key == key and connection in (None, p.connection)]
        count = 0
        for publisher in found:
            answer = await self._ask("DELETE", f"/api/v1/sessions/{quote(publisher.connection, safe='')}")
            if answer.status == 200:
                count += 1
            elif answer.status != 404:  # 404: it left since it was listed
                raise self._api.refuse(answer)
        if found:
            self._poll.hurry()
        return CutResult(count=count)

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: the webhook refuses later publishers of `key`."""
        await self._revocations.add(key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`."""
        await self._revocations.remove(key)

    def is_revoked(self, key: StreamKey) -> bool:
        """Whether the webhook refuses `key`."""
        return key in self._revocations

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """HTTP-FLV: it begins with the pictures since the last keyframe, which the server keeps."""
        path = f"/{quote(key.app, safe='')}/{quote(key.name, safe='')}.flv"
        return SourceKind.HTTP_FLV, f"{self._settings.api}{path}"

    def problems(self) -> list[str]:
        """What keeps this server from being watched or obeyed, one sentence each."""
        found = [] if self._poll.fault is None else [self._poll.fault]
        if self._watch.unasked:
            found.append(
                f"{self._watch.unasked} publishers got in without {_SERVER} asking us, so revoked keys are only cut "
                "when they are seen: correct notify.url in its config"
            )
        return [*found, *self._revocations.problems()]

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
        key = StreamKey(self.name, app, name)
        if not is_readable(key):
            return 403  # what no reader can ask for could be published and never be seen
        self._watch.asked(key)
        return 403 if self.is_revoked(key) else 200

    async def _list(self) -> list[Publisher]:
        answer = await self._ask("GET", "/api/v1/streams")
        try:
            streams = answer.content["data"]["streams"]
            found = [self._publisher(stream) for stream in streams if stream["status"] == _PUBLISHING]
        except (KeyError, TypeError):
            raise self._api.refuse(answer) from None
        self._watch.listed(publisher.key for publisher in found)
        return found

    def _publisher(self, stream: dict[str, Any]) -> Publisher:
        publisher = stream["publisher"]
        key = StreamKey(self.name, str(stream["app"]), str(stream["name"]))
        address = str(publisher.get("ip", "")).rpartition(":")[0]
        return Publisher(key, str(publisher["id"]), since_at=self._clock(), address=address)

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
        try:
            return str(answer.content["data"]["token"])
        except (KeyError, TypeError):
            raise self._api.refuse(answer) from None

    def _login_refused(self) -> IngestUnavailable:
        return IngestUnavailable(
            f"{_SERVER} refused the login: correct ingest.username and ingest.password and restart, "
            f"or wait {_LOGIN_PAUSE_SECONDS / 60:.0f} minutes for another try"
        )

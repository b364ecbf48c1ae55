"""OvenMediaEngine: its REST API lists and drops streams, its AdmissionWebhooks ask us before anyone publishes or plays.

API and webhooks as in github.com/AirenSoft/OvenMediaEngine, `docs/rest-api/v1/` and
`docs/access-control/admission-webhooks.md`. Never run against a real OvenMediaEngine.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote, unquote

from detector.config.hold import HoldingSection
from detector.config.references import Secret
from detector.config.servers import HttpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import HostName
from detector.events import Publisher, StreamKey
from detector.ingest.asked import PUBLISHERS_LIMIT, READER, AskedServer, is_readable, text
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, json_fields
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ServerApi
from detector.ingest.tokens import url_safe
from streams.job import SourceKind

_URL = re.compile(r"[a-z]+://[^/]*/([^/?#]+)/([^/?#]+)((?:/[^?]*)?)(?:\?(.*))?", re.DOTALL)
"""Nothing is left out: where we heard less of a name than the server does, a denied key would come in as another."""
_ALLOWED = {"allowed": True}
_REFUSED = {"allowed": False, "reason": "refused by stopframe"}


class OvenMediaEngineSettings(HoldingSection):
    """OvenMediaEngine."""

    kind: Literal["ovenmediaengine"] = "ovenmediaengine"
    """`ovenmediaengine` is OvenMediaEngine."""
    api: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 8081)
    """Its REST API."""
    hls: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 3333)
    """Its HLS publisher (MPEG-TS), where streams are read."""
    token: Secret | None = None
    """`<AccessToken>` of its API: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    webhook_secret: Secret | None = None
    """`<SecretKey>` of its AdmissionWebhooks; questions that it does not sign are refused."""
    vhost: HostName = "default"
    """The one virtual host whose publishers are watched."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its webhooks make us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the API may take."""


class OvenMediaEngine(AskedServer):
    """One OvenMediaEngine. An `IngestServer`; `clock` is monotonic, in seconds."""

    tells_of_publishers: ClassVar[bool] = True
    title: ClassVar[str] = "OvenMediaEngine"
    hook_remedy: ClassVar[str | None] = "set AdmissionWebhooks for every provider in its Server.xml"
    play_remedy: ClassVar[str | None] = "name every publisher under AdmissionWebhooks in its Server.xml"

    def __init__(
        self,
        settings: OvenMediaEngineSettings,
        revocations: Revocations,
        name: str = "ovenmediaengine",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        api = ServerApi(self.title, str(settings.api), setting="ingest.api", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._created: dict[StreamKey, str] = {}

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """HLS with MPEG-TS segments: two or three seconds behind, as it serves no RTMP."""
        path = f"/{quote(key.app, safe='')}/{quote(key.name, safe='')}/ts:playlist.m3u8"
        return SourceKind.HLS, f"{self._settings.hls}{path}?{READER}={self._reader_secret}"

    def is_genuine(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether `X-OME-Signature` is HMAC-SHA1 over the body, where a secret is configured."""
        if self._settings.webhook_secret is None:
            return True
        # SHA-1 is the server's choice; as a keyed hash it still proves who asks.
        digest = hmac.new(self._settings.webhook_secret.reveal().encode(), body, hashlib.sha1).digest()
        given = headers.get("x-ome-signature", "").rstrip("=")
        return hmac.compare_digest(url_safe(digest).encode(), given.encode("utf-8", "replace"))

    def answer_hook(self, body: bytes) -> HookAnswer:
        """Answer one AdmissionWebhook; a refusal is status 200 that says so, all other statuses refuse as well."""
        try:
            request = json_fields(body)["request"]
            direction, status = text(request["direction"]), text(request["status"])
            match = _URL.fullmatch(text(request["url"]))
        except (BadForm, KeyError, TypeError):
            match = None
        # Players ask for files below a stream; a publisher's name ends where the server's does.
        if match is None or (direction == "incoming" and match[3].strip("/")):
            return HookAnswer(200, HookOutcome.UNREADABLE, content=_REFUSED)
        app, name, query = match[1], match[2], match[4] or ""
        keys = {StreamKey(self.name, app, name), StreamKey(self.name, unquote(app), unquote(name))}
        if status == "closing":
            self._poll.hurry()
            return HookAnswer(200, HookOutcome.TOLD, content={})
        if direction == "incoming":
            # Whichever of the two spellings the server will list it by, a denied key stays denied.
            for key in keys:
                self._created.pop(key, None)
            is_let_in = all(self._may_publish(key, query) for key in keys)
            outcome = HookOutcome.LET_IN if is_let_in else HookOutcome.DENIED
            return HookAnswer(200, outcome, content=_ALLOWED if is_let_in else _REFUSED)
        # One of the two is nobody's, as a rule: it must not keep viewers from the other.
        live = keys & {publisher.key for publisher in self._live_now} if len(keys) > 1 else keys
        is_denied = self.viewers.is_shut and any(map(self.is_revoked, keys)) and not self._is_reader(query)
        is_let_in = not is_denied and all(self._may_watch(key, query) for key in live or keys)
        outcome = HookOutcome.TOLD if is_let_in else HookOutcome.HELD
        return HookAnswer(200, outcome, content=_ALLOWED if is_let_in else _REFUSED)

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        for app in await self._names(f"/v1/vhosts/{self._settings.vhost}/apps"):
            if not is_readable(StreamKey(self.name, app, "any")) or not app:
                continue
            for name in await self._names(self._streams(app), may_be_gone=True):
                if len(found) >= PUBLISHERS_LIMIT:
                    raise self._too_many()
                key = StreamKey(self.name, app, name)
                # What cannot be asked for is counted where all are listed.
                created = await self._created_at(key) if is_readable(key) else ""
                if created is not None:
                    found.append(self._publisher(key, self._connection_id(key, created)))
        live = {publisher.key for publisher in found}
        self._created = {key: created for key, created in self._created.items() if key in live}
        return found

    async def _created_at(self, key: StreamKey) -> str | None:
        """When the publisher of `key` began, which tells one from the next; None where there is none any more."""
        if key not in self._created:
            answer = await self._api.ask("GET", self._stream(key), headers=self._headers())
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise self._api.refuse(answer)
            with self._reading(answer) as content:
                self._created[key] = text(content["response"]["input"]["createdTime"])
        return self._created[key]

    async def _drop(self, publisher: Publisher) -> int:
        answer = await self._api.ask("DELETE", self._stream(publisher.key), headers=self._headers())
        self._created.pop(publisher.key, None)
        if answer.status == 404:  # it left since it was listed
            return 0
        if answer.status != 200:
            raise self._api.refuse(answer)
        return 1

    async def _names(self, path: str, *, may_be_gone: bool = False) -> list[str]:
        answer = await self._api.ask("GET", path, headers=self._headers())
        if answer.status == 404 and may_be_gone:
            return []
        if answer.status != 200:
            raise self._api.refuse(answer)
        with self._reading(answer) as content:
            names = content["response"]
            if not isinstance(names, list):
                raise TypeError("no list")
            return [text(name) for name in names]

    def _streams(self, app: str) -> str:
        return f"/v1/vhosts/{self._settings.vhost}/apps/{quote(app, safe='')}/streams"

    def _stream(self, key: StreamKey) -> str:
        return f"{self._streams(key.app)}/{quote(key.name, safe='')}"

    def _headers(self) -> dict[str, str]:
        if self._settings.token is None:
            return {}
        # The basic scheme over the token alone, without a user's name.
        return {"authorization": f"Basic {base64.b64encode(self._settings.token.reveal().encode()).decode()}"}

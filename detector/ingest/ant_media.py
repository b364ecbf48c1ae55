"""Ant Media Server: its REST API lists and stops broadcasts, its authorization webhooks ask us for each of them.

API as in github.com/ant-media/Ant-Media-Server at commit 5130ad889: `rest/BroadcastRestService.java`,
`datastore/db/types/Broadcast.java`, `security/AcceptOnlyStreamsWithWebhook.java`; webhooks as in
antmedia.io/docs/guides/stream-security/webhook-stream-authorization. Never run against a real Ant Media Server.
"""

import time
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote, urlencode

from pydantic import Field

from detector.config.hold import HoldingSection
from detector.config.references import Secret
from detector.config.servers import HttpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import Name
from detector.events import Publisher, StreamKey
from detector.ingest.asked import PUBLISHERS_LIMIT, AskedServer, argument, items, text
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, first_values, json_fields
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from detector.ingest.tokens import bearer_token
from streams.job import SourceKind

_PAGE_ITEMS = 50
"""The most that the server gives at once."""
_LIVE = "broadcasting"
_CHANGES = frozenset({"liveStreamStarted", "liveStreamEnded"})


class AntMediaSettings(HoldingSection):
    """Ant Media Server."""

    kind: Literal["ant-media"] = "ant-media"
    """`ant-media` is Ant Media Server."""
    api: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 5080)
    """Its HTTP server: the REST API is asked there, and streams are read there as HLS."""
    apps: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)] = ("LiveApp",)
    """The applications whose publishers are watched."""
    jwt_secret: Secret | None = None
    """`jwtSecretKey` of the applications, where the API wants tokens: `${NAME}` or `{file: PATH}`."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its webhooks make us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the API may take."""


class AntMedia(AskedServer):
    """One Ant Media Server. An `IngestServer`; `clock` is monotonic, in seconds."""

    title: ClassVar[str] = "Ant Media Server"
    hook_remedy: ClassVar[str | None] = "set webhookAuthenticateURL in the settings of each application"
    play_remedy: ClassVar[str | None] = "set webhookPlayAuthUrl in the settings of each application"

    def __init__(
        self,
        settings: AntMediaSettings,
        revocations: Revocations,
        name: str = "ant-media",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        api = ServerApi(self.title, str(settings.api), setting="ingest.api", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """HLS: some seconds behind; our reader shows its secret as a token, which the play webhook passes on."""
        path = f"/{quote(key.app, safe='')}/streams/{quote(key.name, safe='')}.m3u8"
        return SourceKind.HLS, f"{self._settings.api}{path}?{urlencode({'token': self._reader_secret})}"

    def answer_hook(self, body: bytes) -> HookAnswer:
        """Answer one webhook: authorization to publish or to play, where only 200 lets in, or news of a stream."""
        try:
            fields = json_fields(body)
        except BadForm:
            return self._hear_of(body)
        try:
            if "action" in fields:
                return self._told(text(fields["action"]))
            key = StreamKey(self.name, text(fields["appName"]), text(fields["streamId"]))
            mode, token = text(fields["mode"]), fields.get("token")
            arguments = fields.get("queryParams")
        except (KeyError, TypeError):
            return HookAnswer(400, HookOutcome.UNREADABLE)
        if mode == "play":
            shown = token if isinstance(token, str) else ""
            # Some releases pass a player's arguments on whole.
            is_let_in = self._may_watch_who_shows(
                key, shown or argument(arguments if isinstance(arguments, str) else "", "token")
            )
            return HookAnswer(200, HookOutcome.TOLD) if is_let_in else HookAnswer(403, HookOutcome.HELD)
        is_let_in = self._may_publish(key)
        return HookAnswer(200, HookOutcome.LET_IN) if is_let_in else HookAnswer(403, HookOutcome.DENIED)

    def _hear_of(self, body: bytes) -> HookAnswer:
        """News of streams (`listenerHookURL`) come as a form in some releases."""
        try:
            action = first_values(body).get("action")
        except BadForm:
            return HookAnswer(413, HookOutcome.UNREADABLE)
        return HookAnswer(400, HookOutcome.UNREADABLE) if action is None else self._told(action)

    def _told(self, action: str) -> HookAnswer:
        if action in _CHANGES:
            self._poll.hurry()
        return HookAnswer(200, HookOutcome.TOLD)

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        for app in self._settings.apps:
            listed = 0
            while True:
                answer = await self._ask("GET", f"/{app}/rest/v2/broadcasts/list/{listed}/{_PAGE_ITEMS}")
                with self._reading(answer) as content:
                    page = items(content)
                    # The list holds those that ended, too.
                    for item in page:
                        if item["status"] == _LIVE:
                            key = StreamKey(self.name, app, text(item["streamId"]))
                            connection = self._connection_id(key, int(item["startTime"]))
                            found.append(self._publisher(key, connection))
                listed += len(page)
                if len(page) < _PAGE_ITEMS:
                    break
                if listed > PUBLISHERS_LIMIT:
                    raise self._too_many()
        return found

    async def _drop(self, publisher: Publisher) -> int:
        key = publisher.key
        path = f"/{quote(key.app, safe='')}/rest/v2/broadcasts/{quote(key.name, safe='')}/stop"
        answer = await self._api.ask("POST", path, headers=self._headers())
        if answer.status == 404:  # it left since it was listed
            return 0
        if answer.status != 200:
            raise self._api.refuse(answer)
        with self._reading(answer) as content:
            return 1 if content["success"] is True else 0

    async def _ask(self, method: str, path: str) -> ApiAnswer:
        answer = await self._api.ask(method, path, headers=self._headers())
        if answer.status != 200:
            raise self._api.refuse(answer)
        return answer

    def _headers(self) -> dict[str, str]:
        secret = self._settings.jwt_secret
        return {} if secret is None else {"authorization": bearer_token(secret.reveal(), {"sub": "stopframe"})}

"""SRS: its HTTP API lists and drops publishers, its HTTP callbacks ask us before anyone publishes or plays.

API and callbacks as in github.com/ossrs/srs at commit 101382afd (7.0.18): `trunk/src/app/srs_app_http_api.cpp`,
`srs_app_http_hooks.cpp`, `srs_app_statistic.cpp`, `trunk/conf/full.conf`. Never run against a real SRS.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from detector.config.hold import HoldingSection
from detector.config.references import Secret
from detector.config.servers import HttpServerUrl, RtmpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import HostName, Username
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import PUBLISHERS_LIMIT, READER, AskedServer, items, text
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, json_fields
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from detector.ingest.viewers import ViewerList
from streams.job import SourceKind

_PAGE_ITEMS = 1000
_LEAST_ITEMS = 10
"""The server raises a smaller `count` to this."""
_NO_SUCH_CLIENT = 2049
_LEAVING = frozenset({"on_stop", "on_close"})
_OK = {"code": 0}
_NO = {"code": 403}


class SrsSettings(HoldingSection):
    """SRS (Simple Realtime Server)."""

    kind: Literal["srs"] = "srs"
    """`srs` is SRS, the Simple Realtime Server."""
    api: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 1985)
    """Its HTTP API."""
    rtmp: RtmpServerUrl = RtmpServerUrl("rtmp", "127.0.0.1", 1935)
    """Where streams are read."""
    vhost: HostName = "__defaultVhost__"
    """The one vhost whose publishers are watched."""
    username: Username | None = None
    """Name to ask the API with, where `http_api.auth` is on."""
    password: Secret | None = None
    """Its password: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its callbacks make us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the API may take."""


class Srs(AskedServer):
    """One SRS. An `IngestServer`; `clock` is monotonic, in seconds."""

    tells_of_publishers: ClassVar[bool] = True
    title: ClassVar[str] = "SRS"
    hook_remedy: ClassVar[str | None] = "set http_hooks with on_publish in its config"
    play_remedy: ClassVar[str | None] = "set on_play in its http_hooks"

    def __init__(
        self,
        settings: SrsSettings,
        revocations: Revocations,
        name: str = "srs",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        password = settings.password.reveal() if settings.password else ""
        api = ServerApi(
            self.title,
            str(settings.api),
            setting="ingest.api",
            timeout_seconds=settings.timeout.seconds,
            auth=(settings.username, password) if settings.username else None,
        )
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._vhosts: dict[str, str] = {}
        self._watching = ViewerList()

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """RTMP: it begins with the pictures since the last keyframe, which the server keeps (`gop_cache`)."""
        vhost = "" if self._settings.vhost == "__defaultVhost__" else f"vhost={self._settings.vhost}&"
        play = quote(f"{key.name}?{vhost}{READER}={self._reader_secret}", safe="")
        return SourceKind.RTMP, f"{self._settings.rtmp}/?app={quote(key.app, safe='')}&playpath={play}"

    async def answer_hook(self, body: bytes) -> HookAnswer:
        """Answer one HTTP callback. SRS lets in on status 200 with code 0, and nobody on anything else."""
        try:
            fields = json_fields(body)
            action, app, name = text(fields["action"]), text(fields.get("app", "")), text(fields.get("stream", ""))
            client, query = text(fields.get("client_id", "")), text(fields.get("param", ""))
            vhost = text(fields.get("vhost", ""))
        except (BadForm, KeyError, TypeError):
            return HookAnswer(400, HookOutcome.UNREADABLE, content=_NO)
        key = StreamKey(self.name, app, name)
        if action in _LEAVING:
            self._watching.left(client)
        if vhost != self._settings.vhost:
            return HookAnswer(200, HookOutcome.TOLD, content=_OK)
        if action == "on_publish":
            address = fields.get("ip", "")
            return await self._on_publish(key, query, address if isinstance(address, str) else "")
        if action == "on_play":
            return self._on_play(key, client, query)
        if action == "on_unpublish":
            self._poll.hurry()
        return HookAnswer(200, HookOutcome.TOLD, content=_OK)

    async def _on_publish(self, key: StreamKey, query: str, address: str) -> HookAnswer:
        if self.viewers.is_shut and not await self._has_no_viewers(key):
            return HookAnswer(403, HookOutcome.HELD, content=_NO)
        if not self._may_publish(key, query, address):
            return HookAnswer(403, HookOutcome.DENIED, content=_NO)
        return HookAnswer(200, HookOutcome.LET_IN, content=_OK)

    def _on_play(self, key: StreamKey, client: str, query: str) -> HookAnswer:
        if not self._may_watch(key, query):
            return HookAnswer(403, HookOutcome.HELD, content=_NO)
        if self.viewers.is_shut and not self._is_reader(query):
            self._watching.came(key, client)
        return HookAnswer(200, HookOutcome.TOLD, content=_OK)

    async def _has_no_viewers(self, key: StreamKey) -> bool:
        """Whether nobody is left who was let in to an earlier publisher of `key`: SRS lets viewers wait for the next.

        False where somebody publishes already, whom SRS would keep anyway, or where SRS does not answer.
        """
        try:
            if any(publisher.key == key for publisher in await self._poll.now()):
                return False
            for viewer in self._watching.of(key):
                await self._drop_client(viewer)
                self._watching.left(viewer)
        except IngestUnavailable:
            return False
        return True

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        known: set[str] = set()
        while len(known) <= PUBLISHERS_LIMIT:
            answer = await self._ask("GET", "/api/v1/streams/", {"start": len(known), "count": _PAGE_ITEMS})
            with self._reading(answer) as content:
                page = {text(item["id"]): item for item in items(content["streams"])}
            await self._learn_vhosts({text(item["vhost"]) for item in page.values()})
            with self._reading(answer):
                fresh = [self._live(item) for number, item in page.items() if number not in known]
            found += [publisher for publisher in fresh if publisher is not None]
            # Whatever the server makes of `count`: a page that is short, or brings nothing new, is the last.
            if len(page) < _LEAST_ITEMS or not fresh:
                return found
            known |= page.keys()
        raise self._too_many()

    def _live(self, item: dict[str, Any]) -> Publisher | None:
        if not item["publish"]["active"] or self._vhosts.get(item["vhost"]) != self._settings.vhost:
            return None
        key = StreamKey(self.name, text(item["app"]), text(item["name"]))
        return self._publisher(key, text(item["publish"]["cid"]))

    async def _learn_vhosts(self, ids: set[str]) -> None:
        """The names of vhosts, of which a stream tells the id."""
        if ids <= self._vhosts.keys():
            return
        answer = await self._ask("GET", "/api/v1/vhosts/", {"start": 0, "count": _PAGE_ITEMS})
        with self._reading(answer) as content:
            self._vhosts = {text(item["id"]): text(item["name"]) for item in items(content["vhosts"])}

    async def _drop(self, publisher: Publisher) -> int:
        return await self._drop_client(publisher.connection)

    async def _drop_client(self, client: str) -> int:
        answer = await self._api.ask("DELETE", f"/api/v1/clients/{quote(client, safe='')}")
        with self._reading(answer) as content:
            code = content["code"]
        if code == _NO_SUCH_CLIENT:  # it left since it was listed
            return 0
        if answer.status != 200 or code != 0:
            raise self._api.refuse(answer)
        return 1

    async def _ask(self, method: str, path: str, params: dict[str, str | int]) -> ApiAnswer:
        answer = await self._api.ask(method, path, params=params)
        with self._reading(answer) as content:
            code = content["code"]
        if answer.status != 200 or code != 0:
            raise self._api.refuse(answer)
        return answer

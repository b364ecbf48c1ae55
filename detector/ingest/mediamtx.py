"""MediaMTX: its control API lists and drops publishers, its HTTP authentication asks us before anyone publishes.

API and hook as in github.com/bluenviron/mediamtx at commit 3e09466c: `api/openapi.yaml`, `internal/defs/api_path.go`,
`internal/auth/manager.go`.
"""

import hmac
import ipaddress
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import quote, urlsplit

from detector.config.hold import HoldingSection
from detector.config.references import Secret
from detector.config.servers import HookUrl, HttpServerUrl, RtmpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import Username
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import PUBLISHERS_LIMIT, AskedServer, is_readable
from detector.ingest.hooks import BODY_LIMIT_BYTES, HookAnswer, HookOutcome, first_values
from detector.ingest.keys import PART_LIMIT_CHARACTERS
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ServerApi
from streams.job import SourceKind

_SERVER = "MediaMTX"
_PAGE_ITEMS = 10_000
"""Paths asked for at once: the server gives 100 where nothing is said, and a list in pages may change between two."""
_PAGES = 100
_FORWARD_SECONDS = 5.0
"""Half of what the server waits for an answer (`readTimeout`)."""

_KICKS = {
    "rtmpConn": "rtmpconns",
    "rtmpsConn": "rtmpsconns",
    "rtspSession": "rtspsessions",
    "rtspsSession": "rtspssessions",
    "srtConn": "srtconns",
    "webRTCSession": "webrtcsessions",
    "moqSession": "moqsessions",
}
"""Where each type of source is dropped."""

_READER = "stopframe"
_SERVICE_ACTIONS = frozenset({"api", "metrics", "pprof"})


class MediaMtxSettings(HoldingSection):
    """MediaMTX."""

    kind: Literal["mediamtx"] = "mediamtx"
    """`mediamtx` is MediaMTX."""
    api: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 9997)
    """Its control API."""
    rtmp: RtmpServerUrl = RtmpServerUrl("rtmp", "127.0.0.1", 1935)
    """Where streams are read."""
    username: Username | None = None
    """Name to ask the control API with, if it wants one."""
    password: Secret | None = None
    """Its password: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    forward: HookUrl | None = None
    """The platform's own authentication hook: it is asked whatever we have nothing against."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its authentication hook makes us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the control API may take."""


@dataclass(frozen=True, slots=True)
class _Live:
    """A path with somebody or something behind it. `is_pull`: the server fetches it by itself."""

    publisher: Publisher
    path: str = field(repr=False)
    config_name: str
    source_type: str
    source_id: str

    @property
    def is_pull(self) -> bool:
        return self.source_type not in _KICKS


def split_path(path: str) -> tuple[str, str]:
    """A path as `(app, name)`: the last part is the name, what stands before it the app, which may be empty."""
    app, _, name = path.rpartition("/")
    return app, name


def join_path(app: str, name: str) -> str:
    """The path that `split_path` took apart."""
    return f"{app}/{name}" if app else name


class MediaMtx(AskedServer):
    """One MediaMTX. An `IngestServer`; `clock` is monotonic, in seconds.

    A cut drops the publisher; a stream that the server pulls is ended by taking the source out of its path's config.
    """

    tells_of_publishers: ClassVar[bool] = True
    title: ClassVar[str] = _SERVER
    hook_remedy: ClassVar[str | None] = "set authMethod and authHTTPAddress in its config"
    play_remedy: ClassVar[str | None] = (
        "set authMethod and authHTTPAddress in its config, and read out of authHTTPExclude"
    )

    def __init__(
        self,
        settings: MediaMtxSettings,
        revocations: Revocations,
        name: str = "mediamtx",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        password = settings.password.reveal() if settings.password else ""
        self._credentials = (settings.username, password) if settings.username else None
        api = ServerApi(
            _SERVER,
            str(settings.api),
            setting="ingest.api",
            timeout_seconds=settings.timeout.seconds,
            auth=self._credentials,
        )
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self.forward_failures_total = 0
        self._settings = settings
        self._forward = _forward(settings.forward)
        self._behind: dict[tuple[StreamKey, str], _Live] = {}
        self._pulled: dict[StreamKey, str] = {}
        self._forwarding = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to ask the server; one that is down is asked until it is up."""
        async with AsyncExitStack() as stack:
            if self._forward is not None:
                await stack.enter_async_context(self._forward[0])
            await super().__aenter__()
            self._forwarding = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more; every `changes()` ends. Publishers stay live."""
        await super().__aexit__(kind, error, trace)
        await self._forwarding.aclose()

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`; a pull that was ended here begins again."""
        await super().restore(key)
        source = self._pulled.get(key)
        if source is not None:
            await self._set_source(join_path(key.app, key.name), source)
            del self._pulled[key]

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """RTMP, with a password of our own that the authentication hook knows."""
        path = quote(join_path(key.app, key.name), safe="/~:")
        return SourceKind.RTMP, f"{self._settings.rtmp}/{path}?user={_READER}&pass={self._reader_secret}"

    async def answer_hook(self, body: bytes) -> HookAnswer | int:
        """The HTTP status for one question of the authentication hook: 200 lets in, all else does not.

        Revoked keys may not publish; our own readers may read, others what is cleared for viewers; the API, metrics and
        pprof are for this machine and for the account in the config. The rest is what `forward` says, or else let in.
        """
        try:
            fields = json.loads(body)
            action, path = str(fields["action"]), str(fields["path"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return 400
        if action == "publish":
            refusal = self._why_not_publish(path)
            if refusal is not None:
                return refusal
        if action == "read":
            if self._is_account(fields, (_READER, self._reader_secret)):
                self._plays.heard(StreamKey(self.name, *split_path(path)))
                return 200
            if not self._may_watch_who_shows(StreamKey(self.name, *split_path(path)), ""):
                return HookAnswer(403, HookOutcome.HELD)
        if self._forward is not None:
            status = await self._ask_forward(*self._forward, fields)
        else:
            is_let_in = action not in _SERVICE_ACTIONS or self._may_use_service(fields)
            status = 200 if is_let_in else 401
        if action == "publish" and status < 300:  # only now: whoever may not publish holds up nobody's viewers
            key = StreamKey(self.name, *split_path(path))
            query = first_values(str(fields.get("query", "")).encode("utf-8", "surrogatepass")[:BODY_LIMIT_BYTES])
            if not self.publishers_gate.admits(key, query, str(fields.get("ip", ""))):
                return 403
            self.viewers.publisher_comes(key)
        return status

    def _why_not_publish(self, path: str) -> int | None:
        key = StreamKey(self.name, *split_path(path))
        if not _is_path(path) or not is_readable(key):
            return 400  # one that the list could name otherwise would slip past its revocation
        self._watch.asked(key)
        self._poll.hurry()
        return 403 if self.is_revoked(key) else None

    def _may_use_service(self, fields: dict[str, Any]) -> bool:
        is_known = self._credentials is not None and self._is_account(fields, self._credentials)
        return is_known or _is_loopback(str(fields.get("ip", "")))

    async def _ask_forward(self, hook: ServerApi, target: str, fields: dict[str, Any]) -> int:
        try:
            answer = await hook.ask("POST", target, body=fields, wants_json=False)
        except IngestUnavailable:
            # The server, too, lets nobody in while its hook is down.
            self.forward_failures_total += 1
            return 503
        return 200 if 200 <= answer.status < 300 else max(400, answer.status)

    def _is_account(self, fields: dict[str, Any], account: tuple[str, str]) -> bool:
        given = (str(fields.get("user", "")), str(fields.get("password", "")))
        return all(
            hmac.compare_digest(a.encode("utf-8", "replace"), b.encode()) for a, b in zip(given, account, strict=True)
        )

    def _asks_about(self, publisher: Publisher) -> bool:
        """What the server pulls by itself it asks nobody about."""
        return not self._behind[publisher.key, publisher.connection].is_pull

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[_Live] = []
        for page in range(_PAGES):
            answer = await self._api.ask("GET", "/v3/paths/list", params={"itemsPerPage": _PAGE_ITEMS, "page": page})
            if answer.status != 200:
                raise self._api.refuse(answer)
            with self._reading(answer) as content:
                found += [live for live in map(self._live, content["items"]) if live is not None]
                pages = int(content["pageCount"])
            if page + 1 >= pages:
                break
            if len(found) > PUBLISHERS_LIMIT:
                raise self._too_many()
        self._behind = {(live.publisher.key, live.publisher.connection): live for live in found}
        return [live.publisher for live in found]

    async def _drop(self, publisher: Publisher) -> int:
        live = self._behind.get((publisher.key, publisher.connection))
        if live is None:
            return 0
        return await (self._end_pull(live) if live.is_pull else self._kick(live))

    def _live(self, item: dict[str, Any]) -> _Live | None:
        source, path = item["source"], str(item["name"])
        if source is None or source["type"] == "redirect":
            return None
        source_type, source_id = str(source["type"]), str(source.get("id") or "")
        # Pulls on demand have a source that sleeps; older releases say `ready` for `online`.
        if source_type not in _KICKS and not item.get("online", item.get("ready")):
            return None
        key = StreamKey(self.name, *split_path(path))
        # A pull has no id; a connection's id may be logged and must not hold the key.
        connection = source_id or f"{source_type}-{self._connection_id(key)}"
        return _Live(self._publisher(key, connection), path, str(item.get("confName", "")), source_type, source_id)

    async def _kick(self, live: _Live) -> int:
        target = f"/v3/{_KICKS[live.source_type]}/kick/{quote(live.source_id, safe='')}"
        answer = await self._api.ask("POST", target)
        if answer.status == 404:  # it left since it was listed
            return 0
        if answer.status != 200:
            raise self._api.refuse(answer)
        return 1

    async def _end_pull(self, live: _Live) -> int:
        if live.config_name != live.path:
            raise IngestUnavailable(
                f"{_SERVER} pulls this stream by the config of many paths: take its source out of there by hand"
            )
        answer = await self._api.ask("GET", f"/v3/config/paths/get/{quote(live.path, safe='/')}")
        with self._reading(answer) as content:
            source = str(content["source"])
        await self._set_source(live.path, "publisher")
        self._pulled[live.publisher.key] = source
        return 1

    async def _set_source(self, path: str, source: str) -> None:
        target = f"/v3/config/paths/patch/{quote(path, safe='/')}"
        answer = await self._api.ask("PATCH", target, body={"source": source})
        if answer.status != 200:
            raise self._api.refuse(answer)


def _forward(url: HookUrl | None) -> tuple[ServerApi, str] | None:
    """The platform's own hook and the target of its requests; the address in errors has neither path nor query."""
    if url is None:
        return None
    parts = urlsplit(url.reveal())
    api = ServerApi(
        "the platform's authentication hook",
        f"{parts.scheme}://{parts.netloc}",
        setting="ingest.forward",
        timeout_seconds=_FORWARD_SECONDS,
    )
    return api, parts._replace(scheme="", netloc="").geturl() or "/"


def _is_path(path: str) -> bool:
    return (
        0 < len(path) <= 2 * PART_LIMIT_CHARACTERS
        and path.isprintable()
        and not path.startswith("/")
        and not path.endswith("/")
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

"""A platform's own API, written to our contract: it lists, cuts, denies and restores; every request is signed.

docs/ingest-platform.md is the contract. Each question is one POST of JSON with the header `Stopframe-Signature`; the
platform may ask us back, signed the same way, before it lets somebody publish.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from detector.config.addresses import SourceUrl
from detector.config.hold import HoldingSection
from detector.config.references import Secret
from detector.config.servers import HookUrl
from detector.config.units import Between, Duration
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import PUBLISHERS_LIMIT, AskedServer, is_readable, items, text
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, json_fields
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ServerApi
from detector.ingest.tokens import SIGNATURE_HEADER, is_signed, stamped_signature
from streams.job import SourceKind

SCHEMA = "stopframe.platform/1"
_NOWHERE = "http://127.0.0.1:9000"
_KINDS = frozenset({SourceKind.RTMP, SourceKind.HTTP_TS, SourceKind.HTTP_FLV, SourceKind.HLS})


class PlatformSettings(HoldingSection):
    """A platform's own API, by signed webhooks."""

    kind: Literal["platform"] = "platform"
    """`platform` is an API of your own, written to docs/ingest-platform.md."""
    url: HookUrl = HookUrl.parse(f"{_NOWHERE}/stopframe")
    """Where every question is posted."""
    secret: Secret | None = None
    """What both sides sign with: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often it is asked who publishes; its own webhooks make us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("2s")
    """How long one answer may take."""


class Platform(AskedServer):
    """One platform. An `IngestServer`; `wall_clock` dates signatures."""

    tells_of_publishers: ClassVar[bool] = True
    title: ClassVar[str] = "the platform"

    def __init__(
        self,
        settings: PlatformSettings,
        revocations: Revocations,
        name: str = "platform",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(settings.url.value or _NOWHERE)
        self._target = parts._replace(scheme="", netloc="").geturl() or "/"
        address = f"{parts.scheme}://{parts.netloc}"
        api = ServerApi(self.title, address, setting="ingest.url", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._wall_clock = wall_clock
        self._sources: dict[StreamKey, tuple[SourceKind, str]] = {}

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """Where the platform says that the stream is read."""
        if key not in self._sources:
            raise IngestUnavailable("the platform has not told where this stream is read: ask again")
        return self._sources[key]

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: in force here at once, and told to the platform, which keeps it."""
        await super().revoke(key)
        await self._command("revoke", key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`: the platform first, so that a failure leaves the key denied on both sides."""
        await self._command("restore", key)
        await super().restore(key)

    def is_genuine(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the platform signed the question, within the last five minutes."""
        secret = self._settings.secret
        header = headers.get(SIGNATURE_HEADER, "")
        return secret is not None and is_signed(secret.current(), header, body, now=self._wall_clock())

    def answer_hook(self, body: bytes) -> HookAnswer:
        """Answer `publish` and `play` with 200 or 403, and hear of `changed`."""
        try:
            fields = json_fields(body)
            action = text(fields["action"])
            key = StreamKey(self.name, text(fields.get("app", "")), text(fields.get("name", "")))
            viewer, address = text(fields.get("query", "")), text(fields.get("address", ""))
        except (BadForm, KeyError, TypeError):
            return HookAnswer(400, HookOutcome.UNREADABLE)
        if action == "publish":
            is_let_in = self._may_publish(key, viewer, address)
            return HookAnswer(200, HookOutcome.LET_IN) if is_let_in else HookAnswer(403, HookOutcome.DENIED)
        if action == "play":
            is_let_in = is_readable(key) and self._may_watch(key, viewer)
            return HookAnswer(200, HookOutcome.TOLD) if is_let_in else HookAnswer(403, HookOutcome.HELD)
        self._poll.hurry()
        return HookAnswer(200, HookOutcome.TOLD)

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        sources: dict[StreamKey, tuple[SourceKind, str]] = {}
        cursor: str | None = None
        while True:
            answer = await self._ask({"action": "list", "cursor": cursor})
            with self._reading(answer) as content:
                page = items(content["publishers"])
                for item in page:
                    key = StreamKey(self.name, text(item.get("app", "")), text(item["name"]))
                    url = SourceUrl.parse(text(item["url"]))
                    source = (url.kind_as(text(item.get("format", "auto"))), url.reveal())
                    if source[0] not in _KINDS:
                        raise ValueError("no stream that is read from a platform")
                    sources[key] = source
                    connection = text(item["connection"])
                    found.append(self._publisher(key, connection, text(item.get("address", ""))))
                following = content.get("next")
                if following is not None and (text(following) == cursor or not page):
                    raise ValueError("a page that leads to itself")
            if len(found) > PUBLISHERS_LIMIT:
                raise self._too_many()
            cursor = following
            if cursor is None:
                self._sources = sources
                return found

    async def _drop(self, publisher: Publisher) -> int:
        answer = await self._ask(
            {"action": "cut", **_named(publisher.key), "connection": publisher.connection},
        )
        with self._reading(answer) as content:
            count = content["count"]
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= PUBLISHERS_LIMIT:
                raise TypeError("no count")
            return count

    async def _command(self, action: str, key: StreamKey) -> None:
        answer = await self._ask({"action": action, **_named(key)})
        with self._reading(answer) as content:
            if content["ok"] is not True:
                raise ValueError("not done")

    async def _ask(self, question: dict[str, Any]) -> Any:
        secret = self._settings.secret
        if secret is None:
            raise IngestUnavailable("requests to the platform are signed: write ingest.secret")
        body = json.dumps({"schema": SCHEMA, **question}).encode()
        headers = {
            "content-type": "application/json",
            SIGNATURE_HEADER: stamped_signature(secret.current(), int(self._wall_clock()), body),
        }
        answer = await self._api.ask("POST", self._target, content=body, headers=headers)
        if answer.status != 200:
            raise self._api.refuse(answer)
        return answer


def _named(key: StreamKey) -> dict[str, str]:
    return {"app": key.app, "name": key.name}

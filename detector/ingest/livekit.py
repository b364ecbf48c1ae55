"""LiveKit: its server API lists participants who publish video and removes them, its signed webhooks tell of changes.

A participant's token cannot be taken back: who was removed may come again until it ends, and is then removed again.
What came in over an ingress (RTMP, WHIP) is denied for good, by deleting the ingress.

API as in github.com/livekit/protocol at commit d74e7cdb: `protobufs/livekit_room.proto`, `livekit_ingress.proto`,
`livekit_webhook.proto`; signatures as in its `webhook/verifier.go`. Never run against a real LiveKit.
"""

import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from detector.config.references import Secret
from detector.config.sections import IngestSection
from detector.config.servers import HttpServerUrl, ReadUrl
from detector.config.units import Between, Duration
from detector.config.values import Username
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import PUBLISHERS_LIMIT, AskedServer, items, text
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, json_fields
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from detector.ingest.tokens import bearer_token, token_claims
from streams.job import SourceKind

MAY_RETURN = "the participant may come back while its token lasts, and is removed again then: refuse it new tokens"
_TOKEN_SECONDS = 60
_VIDEO = ("VIDEO", 1)
_NO_SUCH = "not_found"


class LiveKitSettings(IngestSection):
    """LiveKit."""

    kind: Literal["livekit"] = "livekit"
    """`livekit` is LiveKit."""
    api: HttpServerUrl = HttpServerUrl("http", "127.0.0.1", 7880)
    """Its HTTP port."""
    read: ReadUrl = ReadUrl.parse("rtmp://127.0.0.1:1935/egress/{app}/{name}")
    """Where the platform's egress puts each participant: `{app}` is the room, `{name}` the identity."""
    api_key: Username = "stopframe"
    """The API key that we sign with."""
    api_secret: Secret | None = None
    """Its secret: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("2s")
    """How often it is asked who publishes, one question for each room; its webhooks make us ask at once."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("1s")
    """How long one answer of the API may take."""


class LiveKit(AskedServer):
    """One LiveKit. An `IngestServer`: rooms are apps, identities are names; `wall_clock` dates tokens."""

    title: ClassVar[str] = "LiveKit"

    def __init__(
        self,
        settings: LiveKitSettings,
        revocations: Revocations,
        name: str = "livekit",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        api = ServerApi(self.title, str(settings.api), setting="ingest.api", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._wall_clock = wall_clock
        self._live: dict[StreamKey, str] = {}
        self._denied_as: dict[StreamKey, str] = {}
        self._returned = 0

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """Wherever the platform's egress puts the participant: our reader speaks no WebRTC."""
        return self._settings.read.for_stream(key.app, key.name)

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: who is in the room stays until the cut, who comes later is cut when seen."""
        self._denied_as[key] = self._live.get(key, "")
        await super().revoke(key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`; an ingress that was deleted is made anew by the platform."""
        await super().restore(key)
        self._denied_as.pop(key, None)

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """As `IngestServer.cut`; an ingress is deleted beforehand, so that it brings nobody back."""
        is_for_good = False
        with contextlib.suppress(IngestUnavailable):  # there may be no such service
            is_for_good = await self._delete_ingress(key)
        result = await super().cut(key, connection)
        return CutResult(result.count, result.gone_at, note=MAY_RETURN if result.count and not is_for_good else "")

    def problems(self) -> list[str]:
        """As `IngestServer.problems`; those who came back are named as a number."""
        found = super().problems()
        if self._returned:
            found.append(
                f"{self._returned} participants of denied identities are back in their LiveKit rooms: refuse them "
                "tokens, and let tokens last for minutes"
            )
        return found

    def is_genuine(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the webhook's token is signed with our API secret and names this body's SHA-256."""
        if self._settings.api_secret is None:
            return False
        token = headers.get("authorization", "").removeprefix("Bearer ")
        claims = token_claims(self._settings.api_secret.reveal(), token, now=self._wall_clock())
        if claims is None:
            return False
        digest = base64.b64encode(hashlib.sha256(body).digest())
        return hmac.compare_digest(digest, str(claims.get("sha256", "")).encode("utf-8", "replace"))

    def answer_hook(self, body: bytes) -> HookAnswer:
        """Hear of one change: LiveKit tells, it asks nobody, so a denied identity is removed when it is heard of."""
        try:
            text(json_fields(body)["event"])
        except (BadForm, KeyError, TypeError):
            return HookAnswer(400, HookOutcome.UNREADABLE)
        self._poll.hurry()
        return HookAnswer(200, HookOutcome.TOLD)

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        for room in await self._rooms():
            grant = {"roomAdmin": True, "room": room}
            answer = await self._ask("RoomService", "ListParticipants", {"room": room}, grant)
            with self._reading(answer) as content:
                for participant in items(content.get("participants", [])):
                    if any(_is_video(track) for track in items(participant.get("tracks", []))):
                        key = StreamKey(self.name, room, text(participant["identity"]))
                        found.append(self._publisher(key, text(participant["sid"])))
            if len(found) > PUBLISHERS_LIMIT:
                raise self._too_many()
        self._live = {publisher.key: publisher.connection for publisher in found}
        denied = [publisher for publisher in found if self.is_revoked(publisher.key)]
        self._returned = sum(self._denied_as.get(one.key) != one.connection for one in denied)
        return found

    async def _rooms(self) -> list[str]:
        """Rooms that somebody may publish in: others cost no question."""
        answer = await self._ask("RoomService", "ListRooms", {}, {"roomList": True})
        with self._reading(answer) as content:
            rooms = items(content.get("rooms", []))
            return [text(room["name"]) for room in rooms if room.get("num_publishers", room.get("numPublishers")) != 0]

    async def _drop(self, publisher: Publisher) -> int:
        key = publisher.key
        grant = {"roomAdmin": True, "room": key.app}
        answer = await self._ask("RoomService", "RemoveParticipant", {"room": key.app, "identity": key.name}, grant)
        return 1 if answer.status == 200 else 0

    async def _delete_ingress(self, key: StreamKey) -> bool:
        """Whether there was an ingress for `key`; there is none any more."""
        grant = {"ingressAdmin": True}
        answer = await self._ask("Ingress", "ListIngress", {"room_name": key.app}, grant)
        with self._reading(answer) as content:
            found = [
                text(ingress.get("ingress_id", ingress.get("ingressId")))
                for ingress in items(content.get("items", []))
                if ingress.get("participant_identity", ingress.get("participantIdentity")) == key.name
            ]
        for number in found:
            await self._ask("Ingress", "DeleteIngress", {"ingress_id": number}, grant)
        return bool(found)

    async def _ask(self, service: str, method: str, question: dict[str, Any], grant: dict[str, Any]) -> ApiAnswer:
        """One call; an error `not_found` is returned as it came, all others raise."""
        secret, now = self._settings.api_secret, int(self._wall_clock())
        if secret is None:
            raise IngestUnavailable("LiveKit wants signed questions: write ingest.api_key and ingest.api_secret")
        claims = {"iss": self._settings.api_key, "nbf": now - 10, "exp": now + _TOKEN_SECONDS, "video": grant}
        token = bearer_token(secret.reveal(), claims)
        answer = await self._api.ask("POST", f"/twirp/livekit.{service}/{method}", body=question, token=token)
        is_gone = answer.status == 404 and isinstance(answer.content, dict) and answer.content.get("code") == _NO_SUCH
        if answer.status != 200 and not is_gone:
            raise self._api.refuse(answer)
        return answer


def _is_video(track: dict[str, Any]) -> bool:
    """Protocol buffers leave fields out that are at their first value, which is AUDIO here."""
    return track.get("type", "AUDIO") in _VIDEO and not track.get("muted", False)

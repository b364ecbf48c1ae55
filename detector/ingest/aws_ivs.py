"""Amazon IVS (low-latency): its control plane lists streams, deletes stream keys and stops streams.

API as in the "Amazon IVS Low-Latency Streaming API Reference" of the AWS documentation, version 2020-07-14. Questions
are signed with AWS Signature Version 4. Never run against AWS.
"""

import json
import re
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from detector.config.references import Secret
from detector.config.sections import IngestSection
from detector.config.servers import HttpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import HostName
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.asked import PUBLISHERS_LIMIT, AskedServer, items, text
from detector.ingest.revocations import Revocations
from detector.ingest.server_api import ApiAnswer, ServerApi
from detector.ingest.tokens import AwsCredentials, aws_headers
from detector.redaction import hide_url
from streams.job import SourceKind

_ARN = re.compile(r"arn:(aws[a-z-]*):ivs:([a-z0-9-]+):([0-9]{1,20}):channel/([A-Za-z0-9]{1,100})")
_PLAYBACK = re.compile(r"https://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?/[\x21-\x7e]{1,2000}")
_PAGE_ITEMS = 100
_CHANNELS_AT_ONCE = 50
_NOT_LIVE = frozenset({"ChannelNotBroadcasting", "ResourceNotFoundException", "StreamUnavailable"})
_LIVE = "LIVE"
NEW_KEY = "its stream keys are deleted: an undo makes a new one, which the platform must hand out"
_QUOTA = 402
"""The status of `ServiceQuotaExceededException`: a channel has one stream key, and has it already."""


class AwsIvsSettings(IngestSection):
    """Amazon IVS."""

    kind: Literal["aws-ivs"] = "aws-ivs"
    """`aws-ivs` is Amazon Interactive Video Service, low-latency."""
    region: HostName = "us-east-1"
    """The region whose channels are watched."""
    endpoint: HttpServerUrl | None = None
    """Where its control plane answers; null for the region's own, `https://ivs.REGION.amazonaws.com:443`."""
    access_key_id: Secret | None = None
    """The access key's id, of an identity that may do what docs/ingest-aws-ivs.md lists."""
    secret_access_key: Secret | None = None
    """Its secret: `${NAME}` for an environment variable or `{file: PATH}` for a file."""
    session_token: Secret | None = None
    """The session token that belongs to temporary credentials."""
    poll: Annotated[Duration, Between("500ms", "1m")] = Duration.parse("2s")
    """How often it is asked who is live: AWS allows five such questions a second in an account."""
    timeout: Annotated[Duration, Between("100ms", "10s")] = Duration.parse("2s")
    """How long one answer may take."""


class AwsIvs(AskedServer):
    """The channels of one region. An `IngestServer`: accounts are apps, channels are names.

    `wall_clock` dates signatures. IVS asks nobody who may publish: a channel is denied by deleting its stream keys,
    which is done there, not here.
    """

    title: ClassVar[str] = "Amazon IVS"

    def __init__(
        self,
        settings: AwsIvsSettings,
        revocations: Revocations,
        name: str = "aws-ivs",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        where = settings.endpoint or HttpServerUrl("https", f"ivs.{settings.region}.amazonaws.com", 443)
        is_plain_port = (where.scheme, where.port) in {("https", 443), ("http", 80)}
        self._host = where.host if is_plain_port else str(where).partition("://")[2]
        api = ServerApi(self.title, str(where), setting="ingest.endpoint", timeout_seconds=settings.timeout.seconds)
        super().__init__(name, revocations, api, poll_seconds=settings.poll.seconds, clock=clock)
        self._settings = settings
        self._wall_clock = wall_clock
        self._partition = "aws"
        self._playback: dict[StreamKey, str] = {}
        self._unplayable = 0

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """The channel's playback URL: HLS, some seconds behind."""
        if key not in self._playback:
            raise IngestUnavailable("Amazon IVS has not told yet where this channel is played: ask again")
        return SourceKind.HLS, self._playback[key]

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: deletes every stream key of the channel, which only IVS itself can do."""
        await super().revoke(key)
        answer = await self._ask("ListStreamKeys", {"channelArn": self._arn(key)})
        if _error(answer) in _NOT_LIVE:
            return  # there is no such channel any more
        with self._reading(self._checked(answer)) as content:
            arns = [text(item["arn"]) for item in items(content["streamKeys"])]
        for arn in arns:
            deleted = await self._ask("DeleteStreamKey", {"arn": arn})
            if _error(deleted) not in _NOT_LIVE:
                self._checked(deleted)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`: makes a new stream key. The old one is gone for good; hand out the new one."""
        if self.is_revoked(key):
            answer = await self._ask("CreateStreamKey", {"channelArn": self._arn(key)})
            if answer.status != _QUOTA and _error(answer) != "ResourceNotFoundException":
                self._checked(answer)
        await super().restore(key)

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """As `IngestServer.cut`; where the stream keys could not be deleted, an encoder comes back at once."""
        result = await super().cut(key, connection)
        return CutResult(result.count, result.gone_at, note=NEW_KEY if result.count else "")

    def problems(self) -> list[str]:
        """As `IngestServer.problems`; channels that nobody tells us how to read are named as a number."""
        found = super().problems()
        if self._unplayable:
            found.append(
                f"{self._unplayable} live channels are not watched, as Amazon IVS does not tell where they are played: "
                "allow ivs:BatchGetChannel for all of them"
            )
        return found

    async def _ask_for_live(self) -> list[Publisher]:
        found: list[Publisher] = []
        token: str | None = None
        while True:
            question: dict[str, Any] = {"maxResults": _PAGE_ITEMS}
            answer = self._checked(await self._ask("ListStreams", question | ({"nextToken": token} if token else {})))
            with self._reading(answer) as content:
                for stream in items(content["streams"]):
                    if stream.get("state") == _LIVE:
                        key = self._key(text(stream["channelArn"]))
                        found.append(self._publisher(key, text(stream["streamId"])))
                following = content.get("nextToken") or None
                if following is not None and (text(following) == token or not content["streams"]):
                    raise ValueError("a page that leads to itself")
            if len(found) > PUBLISHERS_LIMIT:
                raise self._too_many()
            token = following
            if token is None:
                break
        await self._learn_playback({publisher.key for publisher in found})
        self._unplayable = sum(publisher.key not in self._playback for publisher in found)
        return [publisher for publisher in found if publisher.key in self._playback]

    async def _learn_playback(self, live: set[StreamKey]) -> None:
        """Where channels are played: fifty at a time, once for each that is live."""
        self._playback = {key: url for key, url in self._playback.items() if key in live}
        unknown = sorted(live - self._playback.keys(), key=lambda key: key.path)
        for begin in range(0, len(unknown), _CHANNELS_AT_ONCE):
            arns = [self._arn(key) for key in unknown[begin : begin + _CHANNELS_AT_ONCE]]
            answer = self._checked(await self._ask("BatchGetChannel", {"arns": arns}))
            with self._reading(answer) as content:
                for channel in items(content.get("channels", [])):
                    url = text(channel["playbackUrl"])
                    if not _PLAYBACK.fullmatch(url):
                        raise ValueError("no playback URL")
                    hide_url(url)
                    self._playback[self._key(text(channel["arn"]))] = url

    async def _drop(self, publisher: Publisher) -> int:
        answer = await self._ask("StopStream", {"channelArn": self._arn(publisher.key)})
        if _error(answer) in _NOT_LIVE:
            return 0
        self._checked(answer)
        return 1

    def _key(self, arn: str) -> StreamKey:
        match = _ARN.fullmatch(arn)
        if match is None:
            raise ValueError("no channel")
        self._partition = match[1]
        return StreamKey(self.name, match[3], match[4])

    def _arn(self, key: StreamKey) -> str:
        return f"arn:{self._partition}:ivs:{self._settings.region}:{key.app}:channel/{key.name}"

    async def _ask(self, operation: str, question: dict[str, Any]) -> ApiAnswer:
        settings = self._settings
        if settings.access_key_id is None or settings.secret_access_key is None:
            raise IngestUnavailable(
                "Amazon IVS wants signed questions: write ingest.access_key_id and ingest.secret_access_key"
            )
        who = AwsCredentials(
            settings.access_key_id.current(),
            settings.secret_access_key.current(),
            settings.region,
            "ivs",
            settings.session_token.current() if settings.session_token else None,
        )
        body = json.dumps(question).encode()
        headers = aws_headers(
            who,
            "POST",
            self._host,
            f"/{operation}",
            body,
            now=self._wall_clock(),
            extra={"content-type": "application/json"},
        )
        return await self._api.ask("POST", f"/{operation}", content=body, headers=headers)

    def _checked(self, answer: ApiAnswer) -> ApiAnswer:
        if answer.status == 403:
            raise IngestUnavailable(
                "Amazon IVS refused the signature or the permission: correct ingest.access_key_id and "
                "ingest.secret_access_key, the rights of that identity, and this machine's clock"
            )
        if not 200 <= answer.status < 300:
            raise self._api.refuse(answer)
        return answer


def _error(answer: ApiAnswer) -> str:
    """The name of the error that an answer holds, empty without one."""
    content = answer.content if answer.status >= 400 and isinstance(answer.content, dict) else {}
    name = content.get("__type", content.get("code", ""))
    return str(name).rpartition("#")[2]

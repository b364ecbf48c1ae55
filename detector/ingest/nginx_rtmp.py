"""nginx with the RTMP module: its hooks ask us, its stat page lists, its control module drops.

Contract: github.com/arut/nginx-rtmp-module, `ngx_rtmp_notify_module.c`, `ngx_rtmp_control_module.c` and
`ngx_rtmp_stat_module.c`. What nginx.conf must hold is in configs/examples/nginx-rtmp.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx
import structlog

from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.admittance import OpenDoor, PublisherGate
from detector.ingest.board import PublisherBoard
from detector.ingest.hooks import BadForm, HookAnswer, HookOutcome, first_values
from detector.ingest.nginx_roll import Entry, Roll
from detector.ingest.nginx_settings import NginxRtmpSettings
from detector.ingest.nginx_stat import STAT_LIMIT_BYTES, BadStat, StatPublisher, is_readable, parse_stat
from detector.ingest.revocations import Revocations
from detector.ingest.viewers import OpenGate, PlayWatch, ViewerGate, ViewerList
from detector.outgoing import TooLong, client, read_body, why_unreached
from detector.redaction import hide_secret
from streams.job import SourceKind

log = structlog.get_logger()

_ANSWER_SECONDS = 1.0
"""How long the control module and the stat page may take: they answer from one worker's memory."""
_JOIN_SECONDS = 0.03
"""From our reader's `on_play` until it has joined the stream: one round trip of nginx to itself, measured, and some."""
_REFUSAL_SECONDS = 0.8
"""How long a cut waits for a publisher that control cannot reach to be refused at its next `on_update`."""
_ENDED_SECONDS = 30.0
_REMEMBERED = 10_000
_NONCE = "stopframe"
_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")


class NginxRtmp:
    """One nginx. An `IngestServer` that answers hooks; `clock` is monotonic, in seconds."""

    can_cut = True
    tells_of_publishers = True

    def __init__(
        self,
        settings: NginxRtmpSettings,
        revocations: Revocations,
        name: str = "nginx-rtmp",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.polls_failed_total = 0
        self.viewers: ViewerGate = OpenGate()
        self.publishers_gate: PublisherGate = OpenDoor()
        self._settings = settings
        self._revocations = revocations
        self._clock = clock
        self._roll = Roll(name, settings.update_interval.seconds)
        self._board = PublisherBoard()
        self._watching, self._plays = ViewerList(), PlayWatch()
        self._quarantined: dict[str, str] = {}
        self._ended_by_hook: dict[StreamKey, tuple[str, float]] = {}
        # Our own readers show this in their play arguments; it ends with the process.
        self._nonce = secrets.token_hex(16)
        hide_secret(self._nonce)
        self._fault = ""
        self._failing_since: float | None = None
        self._http: httpx.AsyncClient | None = None
        self._poller: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to read the stat page; a server that is down is asked until it is up."""
        # One connection for each question: a kept one would hide that several workers answer.
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=0)
        self._http = client(_ANSWER_SECONDS, limits=limits)
        self._poller = asyncio.create_task(self._poll_forever(), name=f"ingest[{self.name}].poll")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more; every `changes()` ends. Publishers stay live."""
        assert self._poller is not None
        assert self._http is not None
        self._poller.cancel()
        with suppress(asyncio.CancelledError):
            await self._poller
        self._board.close()
        await self._http.aclose()

    async def publishers(self) -> list[Publisher]:
        """Who is live now: what stat lists, and nobody else."""
        await self._read_stat()
        return [entry.publisher for entry in self._roll.entries.values() if entry.is_listed]

    def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`; goes on while the server is down, which `problems` tells."""
        return self._board.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """Drop, or send to quarantine. One on a worker that control does not reach goes at its next `on_update`."""
        found = self._find(key, connection)
        if not found:
            await self._read_stat()
            found = self._find(key, connection)
        count = 0
        for entry in found:
            count += await self._cut_one(entry)
        gone_at = self._clock() if count else None
        ended = self._ended_by_hook.pop(key, None)
        if ended is not None and connection in (None, ended[0]) and self._clock() - ended[1] < _ENDED_SECONDS:
            count, gone_at = count + 1, gone_at or ended[1]
        return CutResult(count=count, gone_at=gone_at)

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: the hook refuses `key`."""
        await self._revocations.add(key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`."""
        await self._revocations.remove(key)

    def is_revoked(self, key: StreamKey) -> bool:
        """Whether the hook refuses `key`."""
        return key in self._revocations

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """An RTMP URL that names app and stream key apart, and shows nginx's `on_play` that the reader is ours."""
        play = quote(f"{key.name}?{_NONCE}={self._nonce}", safe="", errors="surrogateescape")
        return SourceKind.RTMP, f"{self._settings.rtmp}/?app={quote(key.app, safe='')}&playpath={play}"

    def problems(self) -> list[str]:
        """What keeps nginx from being watched or obeyed, one sentence each."""
        found = [self._fault] if self._fault else []
        missing, unheard = len(self._roll.missing()), len(self._roll.unheard(self._clock()))
        if missing:
            found.append(
                f"{missing} publishers are live by nginx's hooks and missing in its stat page, so they cannot be "
                "dropped: they stayed on an old worker after a reload, or there are several workers; set "
                "worker_processes 1 and worker_shutdown_timeout, or end the old worker"
            )
        if self._roll.has_several_workers:
            found.append(
                "several nginx workers answer in turns and each knows its own publishers: set worker_processes 1"
            )
        if unheard:
            found.append(
                f"{unheard} publishers are listed by nginx and not told by its hooks, so their keys cannot be denied: "
                "set on_publish, on_publish_done and on_update in nginx.conf"
            )
        found += self._plays.problems(self.viewers, self._board.current(), self._clock(), "set on_play in nginx.conf")
        return [*found, *self._revocations.problems()]

    # Hooks

    async def answer_hook(self, body: bytes) -> HookAnswer:
        """Answer one of nginx's callbacks; a publisher waits for it. A revoked key is answered from memory alone."""
        try:
            fields = first_values(body)
        except BadForm:
            return HookAnswer(413, HookOutcome.UNREADABLE)
        key = StreamKey(self.name, fields.get("app", ""), fields.get("name", ""))
        match fields.get("call", ""):
            case "publish" | "update_publish" as call:
                return await self._on_publisher(call, key, fields)
            case "publish_done":
                return self._on_publish_done(fields.get("clientid", ""), key.name)
            case "play":
                return self._on_play(key, fields.get("clientid", ""), fields.get(_NONCE, ""))
            case "play_done":
                self._watching.left(fields.get("clientid", ""))
                return HookAnswer(200, HookOutcome.TOLD)
            case _:
                return HookAnswer(200, HookOutcome.TOLD)

    async def _on_publisher(self, call: str, key: StreamKey, fields: Mapping[str, str]) -> HookAnswer:
        clientid = fields.get("clientid", "")
        if not clientid.isdecimal() or not is_readable(key.app) or not is_readable(key.name):
            # What no reader can ask for could be published and never be seen.
            return HookAnswer(403, HookOutcome.UNREADABLE)
        if self._is_quarantine(key.name):
            is_ours = self._quarantined.get(clientid) == key.name
            return HookAnswer(200, HookOutcome.TOLD) if is_ours else HookAnswer(403, HookOutcome.DENIED)
        if self._settings.apps and key.app not in self._settings.apps:
            return HookAnswer(200, HookOutcome.TOLD)
        if call == "publish":
            return await self._on_publish(clientid, key, fields)
        return self._on_update(clientid, key, fields.get("addr", ""))

    async def _why_not_publish(self, clientid: str, key: StreamKey) -> HookAnswer | None:
        if key in self._revocations:
            if self._settings.quarantine is None:
                return HookAnswer(403, HookOutcome.DENIED)
            return HookAnswer(302, HookOutcome.DENIED, location=self._quarantine_for(clientid))
        is_held = self.viewers.is_shut and not await self._has_no_viewers(key)
        return HookAnswer(403, HookOutcome.HELD) if is_held else None

    async def _on_publish(self, clientid: str, key: StreamKey, fields: Mapping[str, str]) -> HookAnswer:
        # A server that was started again counts its clients anew: this one is not who was sent to quarantine.
        self._quarantined.pop(clientid, None)
        refusal = await self._why_not_publish(clientid, key)
        if refusal is not None:
            return refusal
        address = fields.get("addr", "")
        if not self.publishers_gate.admits(key, fields, address):
            return HookAnswer(403, HookOutcome.DENIED)
        deadline = self._settings.hook_deadline.seconds
        entry = self._roll.published(clientid, key, address, self._clock())
        if not deadline:
            self._show()
            return HookAnswer(200, HookOutcome.LET_IN)
        entry.is_held = True
        try:
            async with asyncio.timeout(deadline):
                if len(self._find(key)) > 1:
                    # Whoever publishes already stays the one: nginx will refuse the second, unless stat lost the first.
                    with suppress(IngestUnavailable):
                        await self._read_stat()
                self._show()
                if entry.publisher not in self._board.current():
                    return HookAnswer(200, HookOutcome.LET_IN)
                await entry.attached.wait()
                await asyncio.sleep(_JOIN_SECONDS)
        except TimeoutError:
            return HookAnswer(200, HookOutcome.TOO_LATE)
        finally:
            entry.is_held = False
        # The key may have been revoked while we waited.
        is_denied = key in self._revocations
        return HookAnswer(403, HookOutcome.DENIED) if is_denied else HookAnswer(200, HookOutcome.ATTACHED)

    def _on_publish_done(self, clientid: str, name: str) -> HookAnswer:
        entry = self._roll.remove(clientid)
        if entry is not None and entry.is_condemned:
            self._ended_by_hook[entry.publisher.key] = (entry.publisher.connection, self._clock())
            while len(self._ended_by_hook) > _REMEMBERED:
                del self._ended_by_hook[next(iter(self._ended_by_hook))]
        if self._is_quarantine(name) or entry is None:
            self._quarantined.pop(clientid, None)  # whom control redirects ends its old name first and goes on
        self._show()
        return HookAnswer(200, HookOutcome.TOLD)

    def _on_update(self, clientid: str, key: StreamKey, address: str) -> HookAnswer:
        if clientid in self._quarantined:
            return HookAnswer(200, HookOutcome.TOLD)  # redirected in its hook, it keeps its old name in later ones
        known = self._roll.entries.get(clientid)
        entry = self._roll.updated(clientid, key, address, self._clock())
        if entry is not known:
            self._show()
        if entry.is_condemned and key in self._revocations:
            # nginx ends a publisher whose update is refused, on whichever worker it is.
            return HookAnswer(403, HookOutcome.DENIED)
        return HookAnswer(200, HookOutcome.TOLD)

    def _on_play(self, key: StreamKey, clientid: str, nonce: str) -> HookAnswer:
        if secrets.compare_digest(nonce.encode("utf-8", "surrogateescape"), self._nonce.encode()):
            self._plays.heard(key)
            for entry in self._find(key):
                entry.attached.set()
        elif self.viewers.is_shut:
            if not self._may_watch(key):
                return HookAnswer(403, HookOutcome.HELD)
            self._watching.came(key, clientid)
        return HookAnswer(200, HookOutcome.TOLD)

    def _may_watch(self, key: StreamKey) -> bool:
        """Whether viewers may see everybody who may be publishing `key`; somebody must: else they wait for anyone."""
        if self._settings.apps and key.app not in self._settings.apps:
            return True
        connections = [entry.publisher.connection for entry in self._find(key)]
        may_see = [self.viewers.may_watch(key, connection) for connection in connections]
        return key not in self._revocations and bool(may_see) and all(may_see)

    async def _has_no_viewers(self, key: StreamKey) -> bool:
        """Whether nobody waits here for whoever publishes `key` next; those who saw the last publisher are dropped.

        False where somebody publishes already, whom nginx would keep anyway, or where nginx does not answer.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self._find(key):
                    await self._read_stat()
                if any(entry.is_listed for entry in self._find(key)):
                    return False
                if _PLAIN.fullmatch(key.name):  # the control module takes names undecoded
                    await self._control("drop/subscriber", key.app, f"name={key.name}")
                for viewer in self._watching.of(key):
                    await self._control("drop/subscriber", key.app, f"clientid={viewer}")
                    self._watching.left(viewer)
        except (IngestUnavailable, TimeoutError):
            return False
        return True

    # Stat and control

    async def _poll_forever(self) -> None:
        while True:
            with suppress(IngestUnavailable):  # kept in `problems`, asked again
                await self._read_stat()
            await asyncio.sleep(self._settings.poll.seconds)

    async def _read_stat(self) -> None:
        asked_at = self._clock()
        try:
            page = parse_stat(await self._ask(str(self._settings.stat), "ingest.stat"))
        except (BadStat, IngestUnavailable) as error:
            self.polls_failed_total += 1
            self._fault = f"{error}: correct ingest.stat" if isinstance(error, BadStat) else str(error)
            self._failing_since = asked_at if self._failing_since is None else self._failing_since
            self._roll.unreachable(self._failing_since, self._clock())
            self._show()
            raise IngestUnavailable(self._fault) from None
        self._fault, self._failing_since = "", None
        self._roll.listed(page, tuple(p for p in page.publishers if self._is_ours(p)), self._clock())
        self._show()

    async def _cut_one(self, entry: Entry) -> int:
        key = entry.publisher.key
        newname = None if self._settings.quarantine is None else self._quarantine_for(entry.clientid)
        if newname is not None and await self._control(
            "redirect/publisher", key.app, f"clientid={entry.clientid}&newname={newname}"
        ):
            return 1
        self._quarantined.pop(entry.clientid, None)
        count = await self._control("drop/publisher", key.app, f"clientid={entry.clientid}")
        if count:
            # nginx closes it before it answers anything else; its publish_done is on the way.
            self._roll.remove(entry.clientid)
            self._show()
            return count
        await self._wait_for_refusal(entry)
        return 0

    async def _wait_for_refusal(self, entry: Entry) -> None:
        """Have the next `on_update` end it; one that comes after this wait counts for the next cut."""
        if entry.publisher.key not in self._revocations or entry.heard_at is None:
            return
        entry.is_condemned = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFUSAL_SECONDS):
                await entry.gone.wait()

    async def _control(self, what: str, app: str, whom: str) -> int:
        """How many the control module acted on; publishers are named by clientid, as it takes names undecoded."""
        url = f"{self._settings.control}/{what}?app={quote(app, safe='')}&{whom}"
        answer = (await self._ask(url, "ingest.control")).strip()
        return int(answer) if answer.isdigit() and len(answer) < 10 else 0

    async def _ask(self, url: str, setting: str) -> bytes:
        assert self._http is not None, "use it inside `async with`"
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), self._http.stream("GET", url) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise IngestUnavailable(
                        f"nginx answered {answer.status_code} at {setting}: correct it, or nginx.conf"
                    )
                return await read_body(answer, STAT_LIMIT_BYTES)
        except TooLong:
            raise IngestUnavailable(f"nginx sent too much at {setting}: is it the right address?") from None
        except TimeoutError:
            raise IngestUnavailable(f"nginx did not answer at {setting} within {_ANSWER_SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = f"nginx cannot be reached at {setting}: {why_unreached(error)}; start it, or correct the address"
            raise IngestUnavailable(what) from None

    # Bookkeeping

    def _find(self, key: StreamKey, connection: str | None = None) -> list[Entry]:
        return [entry for entry in self._roll.of(key) if connection in (None, entry.publisher.connection)]

    def _show(self) -> None:
        self._board.replace(self._roll.on_air(self._clock()))

    def _is_ours(self, told: StatPublisher) -> bool:
        if told.clientid in self._quarantined or self._is_quarantine(told.name):
            return False
        return not self._settings.apps or told.app in self._settings.apps

    def _quarantine_for(self, clientid: str) -> str:
        name = self._quarantined[clientid] = f"{self._settings.quarantine}-{clientid}"
        while len(self._quarantined) > _REMEMBERED:
            del self._quarantined[next(iter(self._quarantined))]
        return name

    def _is_quarantine(self, name: str) -> bool:
        prefix, _, number = name.rpartition("-")
        return prefix == self._settings.quarantine and number.isdecimal()

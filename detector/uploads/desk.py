"""Files that a platform has looked at before it publishes them: taken in, looked at in turn, answered.

They meet what `stopframe scan` is: the same caged reader, the same analysis, the same rules. What is their own is that
strangers' bytes come at strangers' pace, many at once, beside live streams that go first.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

import structlog

from detector.analysis.pool import AnalysisPool
from detector.config.config import Config
from detector.config.uploads import UploadsSection
from detector.events import Signal, Step
from detector.looking import MediumLook, ScanSettings
from detector.media_files import Medium
from detector.metric_words import UploadEnd
from detector.metrics import Metrics
from detector.settings import policy_settings, reader_job
from detector.uploads.answer import Provenance, UploadAnswer
from detector.uploads.ask import Ask, Pace, UploadRefused, too_long
from detector.uploads.file import Received, UploadDisk, UploadFile
from detector.uploads.turns import LARGE_BYTES, NoTurn, Turns, UploadShare
from models.manifest import Manifest
from streams.job import SourceKind
from streams.keeper import Nursery
from streams.wire import UNKNOWN_FORMAT, EndCode

log = structlog.get_logger()

DRAIN_SECONDS: Final = 3.0
"""How long what is being looked at may go on when the service ends."""

_NICENESS: Final = 15
"""Readers of uploads stand back behind those of live streams."""

_RETRY_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadParts:
    """What looks at uploads. `config` is the one in force; `is_held` says whether `BANK/entry` is in quarantine."""

    nursery: Nursery
    pool: AnalysisPool
    metrics: Metrics
    manifests: Sequence[Manifest]
    config: Callable[[], Config]
    is_held: Callable[[str], bool]


class Uploads:
    """`with Uploads(parts, folder) as uploads`: for each upload `place`, in it `file`, then `receive` and `look`."""

    def __init__(self, parts: UploadParts, folder: Path) -> None:
        self._parts = parts
        self._disk = UploadDisk(folder, lambda: self.settings.disk_limit.bytes)
        self._turns = Turns(lambda: self.settings.look_count)
        self._share = UploadShare(parts.pool)
        self._provenance = Provenance(parts.pool)
        self._present = 0
        self._is_stopping = False
        self._is_idle = asyncio.Event()
        self._coming: set[asyncio.Timeout] = set()
        self._looking: set[asyncio.Timeout] = set()

    def __enter__(self) -> Self:
        self._disk.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._disk.__exit__()

    @property
    def settings(self) -> UploadsSection:
        """What the config in force says."""
        return self._parts.config().uploads

    async def drain(self) -> None:
        """Take no more, let what is looked at come to its end for a moment, refuse the rest."""
        self._is_stopping = True
        _end_now(self._coming)
        self._is_idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS if self._looking else 0.0):
                await self._is_idle.wait()
        if self._looking:
            log.warning("uploads.broken_off", count=len(self._looking))
        _end_now(self._looking)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One upload is here for as long as the block lasts. Raises `UploadRefused`."""
        if self._is_stopping:
            raise _stopping()
        if self._present >= self.settings.at_once:
            sentence = f"{self._present} files are here already (uploads.at_once); send it again later."
            raise UploadRefused(HTTPStatus.TOO_MANY_REQUESTS, UploadEnd.CROWDED, sentence, retry_seconds=_RETRY_SECONDS)
        self._present += 1
        self._show()
        try:
            yield
        finally:
            self._present -= 1
            self._show()

    def file(self) -> AbstractAsyncContextManager[UploadFile]:
        """Give a file for one upload, freed with the block."""
        return self._disk.file()

    async def receive(self, file: UploadFile, ask: Ask, body: AsyncIterator[bytes]) -> Received:
        """Take a body in. Raises `UploadRefused`: it is too long, too slow, or there is no room for it."""
        settings, began_at = self.settings, time.monotonic()
        if ask.length_bytes is not None:
            file.expect(ask.length_bytes)
        pace = Pace(began_at, settings.slowest.bytes, settings.receive_within.seconds)
        async with self._until_stopped(self._coming):
            while True:
                try:
                    async with asyncio.timeout(max(0.0, pace.ends_at(file.received_bytes) - time.monotonic())):
                        part = await anext(body, None)
                except TimeoutError:
                    raise pace.refusal(file.received_bytes, time.monotonic()) from None
                if part is None:
                    break
                if file.received_bytes + len(part) > settings.size_limit.bytes:
                    raise too_long(settings.size_limit.bytes)
                came_at = time.monotonic()
                await file.add(part)
                pace.excuse(time.monotonic() - came_at)
                self._show()
            received = await file.finish()
        self._parts.metrics.upload_received(received.length_bytes, time.monotonic() - began_at)
        return received

    async def look(self, received: Received, ask: Ask) -> UploadAnswer:
        """Look at a file when its turn comes. Raises `UploadRefused`: it does not come, or the service ends."""
        asked_at, settings = time.monotonic(), self.settings
        is_large = received.length_bytes > LARGE_BYTES
        try:
            async with (
                self._until_stopped(self._looking),
                self._turns.turn(is_large=is_large, wait_seconds=settings.wait.seconds),
            ):
                waited = time.monotonic() - asked_at
                answer = await self._look(received, ask)
        except NoTurn:
            raise _late(settings) from None
        self._parts.metrics.upload_looked_at(waited, time.monotonic() - asked_at - waited, answer.cpu_seconds)
        return answer

    async def _look(self, received: Received, ask: Ask) -> UploadAnswer:
        config = self._parts.config()
        job = reader_job(config, "", SourceKind.FILE, "", live=False, manifests=self._parts.manifests)
        answer = UploadAnswer(received, await self._provenance.read(config), is_live=config.enforcement.live)
        settings = ScanSettings(
            job=replace(job, niceness=_NICENESS),
            policy=policy_settings(config, is_staged=False),
            closer_look=config.closer_look_for(""),
            live_deadline_seconds=config.analysis.deadline.seconds,
            soften=self._soften,
            until=Step.CUT if ask.until_first_cut else None,
            ends_at=time.monotonic() + config.uploads.look_within.seconds,
        )
        medium = Medium(answer.name, descriptor=received.descriptor)
        look = MediumLook(medium, self._share, settings, answer.tell)
        code, fault = await look.read(self._parts.nursery)
        if code == EndCode.NOT_MEDIA and look.fault_detail == UNKNOWN_FORMAT:
            sentence = (
                "the file is not MPEG-TS, FLV, MP4, Matroska, WebM, PNG, JPEG or WebP, or could be two of them; "
                "convert it to one of these."
            )
            raise UploadRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, UploadEnd.NOT_MEDIA, sentence)
        if fault is None:
            code, fault = look.what_was_not_seen(code)
        answer.end(code, fault, look)
        return answer

    def _soften(self, signal: Signal) -> Signal:
        """An entry in quarantine may ask for reviews alone, here as on live streams."""
        return replace(signal, step=min(signal.step, Step.REVIEW)) if self._parts.is_held(signal.source) else signal

    @asynccontextmanager
    async def _until_stopped(self, scopes: set[asyncio.Timeout]) -> AsyncIterator[None]:
        """End the block by a refusal where the service ends."""
        if self._is_stopping:
            raise _stopping()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                scopes.add(scope)
                try:
                    yield
                finally:
                    scopes.discard(scope)
                    if not self._looking:
                        self._is_idle.set()
        except TimeoutError:
            if not scope.expired():
                raise
            raise _stopping() from None

    def _show(self) -> None:
        self._parts.metrics.set_uploads(self._present, self._disk.account.held_bytes)


def _end_now(scopes: set[asyncio.Timeout]) -> None:
    for scope in scopes:
        scope.reschedule(asyncio.get_running_loop().time())


def _stopping() -> UploadRefused:
    sentence = "the service is ending; send the file again to another one, or later."
    return UploadRefused(HTTPStatus.SERVICE_UNAVAILABLE, UploadEnd.STOPPING, sentence, retry_seconds=_RETRY_SECONDS)


def _late(settings: UploadsSection) -> UploadRefused:
    sentence = f"its turn did not come within the {settings.wait.seconds:g} s of uploads.wait; send it again later."
    return UploadRefused(HTTPStatus.SERVICE_UNAVAILABLE, UploadEnd.LATE, sentence, retry_seconds=_RETRY_SECONDS)

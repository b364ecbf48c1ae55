"""The incident bank: what was just cut is known at once, so that who streams it again is cut, too.

One bad card beside a rival's picture must not cut the rival. So only frames go in that themselves hit at the threshold
of a cut, by a list of people's or by a class and never by this bank, and none that looks like anything another live
stream showed in its last hour; the bank cuts only streams that began after the incident, and asks for a review of all
others. Entries are called after their incident; they expire, and go when the incident is taken back.
"""

import asyncio
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from detector.metric_words import KeptFrame
from detector.metrics import Metrics
from detector.trail import REMEMBERED_SECONDS, HitFrame, ShownRows, Trail
from models.arrays import IndexCorrupt
from models.bank_store import INCIDENT_BANK, BankMissing, add_entries, open_bank, remove_entry
from models.picture_rows import PictureRows, picture_rows
from models.resemblance import resembling
from streams.frame import PICTURE_SIDE, PLANE_SIDE

log = structlog.get_logger()

_Answer = TypeVar("_Answer")

INCIDENTS_KEPT: Final = 100
"""Incidents in the bank at once; the oldest makes room."""

FRAMES_KEPT: Final = 4
"""Frames of one incident in the bank."""

_FRAMES_TRIED: Final = 32
"""Frames of one incident that are looked at to find so many: those that look like another's take no place."""

_CONTINUES_SECONDS: Final = 600.0
"""Who comes back within this time has not begun anew."""

_SETTLED_SECONDS: Final = 30.0
"""Whoever is there so soon after the service began may have been there before it."""

_TRAILS_KEPT: Final = 4096
_EMPTY_KEPT: Final = 1000
"""Incidents remembered beside them of which the bank has no frames, or none yet; the queue is far shorter."""

_EXPIRE_EVERY_SECONDS: Final = 60.0
_TRY_AGAIN_SECONDS: Final = 3.0
"""How soon what a disk refused is tried again: it had no room, and may have."""
_QUEUE_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class IncidentBankSettings:
    """Whether the bank takes frames, and how long it keeps them."""

    is_on: bool = True
    keep_seconds: float = 24 * 3600.0


@dataclass(slots=True)
class _Known:
    """One incident: its stream's session, when it was (monotonic) and until when it counts (Unix time).

    `fingerprints` are of all frames that were tried, `places` how many more may be kept.
    """

    session: str
    at_seconds: float
    expires_at: float
    fingerprints: list[int]
    first_frame_at: float = 0.0
    places: int = FRAMES_KEPT
    rows: int = 0


class IncidentBank:
    """Keeps the trails of all streams and the bank on disk. `run` does the work; nothing else here waits for it.

    Args:
        banks_dir: Where the bank lies beside the users' banks.
        reload: Has the analysis processes take up what changed.
        settings: What the config in force says.
        forget: Hears of entries that are gone, as the breaker counts them (`incidents/<incident>`).
    """

    def __init__(  # noqa: PLR0913 - by name; each is one thing that it asks or tells
        self,
        banks_dir: Path,
        *,
        reload: Callable[[], None],
        metrics: Metrics,
        settings: Callable[[], IncidentBankSettings] = IncidentBankSettings,
        forget: Callable[[str], None] = lambda _source: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._bank_dir = banks_dir / INCIDENT_BANK
        self._reload = reload
        self._metrics = metrics
        self._settings = settings
        self._forget = forget
        self._clock = clock
        self._wall = wall
        self._trails: dict[str, Trail] = {}
        self._known: dict[str, _Known] = {}
        self._exempt: dict[str, None] = {}
        self._cuts: asyncio.Queue[tuple[str, Trail, tuple[HitFrame, ...]]] = asyncio.Queue(_QUEUE_LIMIT)
        self._unwritten: deque[tuple[str, Trail, Sequence[HitFrame]]] = deque(maxlen=_QUEUE_LIMIT)
        self._writing = asyncio.Lock()
        self._fault = ""
        self._began_at = clock()

    # What sessions ask and tell

    def follow(self, stream_id: str, session: str) -> Trail:
        """The trail of a stream whose session begins: the one that it had, where it was away for moments only."""
        now = self._clock()
        before = self._trails.pop(stream_id, None)
        away = 0.0 if before is None or before.left_at is None else now - before.left_at
        began_at = now if before is None or away > _CONTINUES_SECONDS else before.began_at
        if before is None or before.is_cut or away > REMEMBERED_SECONDS:
            trail = Trail(stream_id, session, began_at, self._standing)
        else:
            trail = before
            trail.session, trail.began_at, trail.left_at = session, began_at, None
            trail.hits.clear()
        self._trails[stream_id] = trail
        if len(self._trails) > _TRAILS_KEPT:
            self._forget_one()
        return trail

    def _forget_one(self) -> None:
        """Of streams that are gone, one whose trail protects nobody, else one that showed least.

        Thousands of short streams are easily made; they must not wash away what a long one showed.
        """
        away = [one for one in self._trails.values() if one.left_at is not None]
        if away:
            now = self._clock()
            del self._trails[min(away, key=lambda one: (_protects(one, now), len(one))).stream_id]

    def left(self, trail: Trail, session: str) -> None:
        """The session ended. What it showed protects it for another hour, so that nobody can outwait a reconnect."""
        if trail.session != session:  # the stream is back already
            return
        trail.left_at = self._clock()
        trail.hits.clear()

    def _standing(self, trail: Trail, entry: str) -> bool | None:
        known = self._known.get(entry)
        if known is None or known.session == trail.session:
            return None
        return trail.began_at > known.at_seconds and trail.stream_id not in self._exempt

    def cut_made(self, incident_id: str, trail: Trail) -> None:
        """A stream is cut, or goes on hitting while it is: its frames that hit so far are to be known."""
        if not self._settings().is_on:
            return
        trail.is_cut = True
        known = self._known.get(incident_id)
        seen = known.fingerprints if known else []
        places = FRAMES_KEPT if known is None else min(known.places, _FRAMES_TRIED - len(seen))
        fresh = tuple(hit for hit in trail.hits if hit.fingerprint not in seen)[: max(0, places)]
        if not fresh:
            return
        if known is None:
            now, until = self._clock(), self._wall() + self._settings().keep_seconds
            known = self._known[incident_id] = _Known(trail.session, now, until, [], fresh[0].at_seconds)
        known.fingerprints += [hit.fingerprint for hit in fresh]
        known.places -= len(fresh)
        try:
            self._cuts.put_nowait((incident_id, trail, fresh))
        except asyncio.QueueFull:
            self._metrics.incident_frames(KeptFrame.NO_ROOM, len(fresh))

    # What operators do

    async def withdraw(self, incident_id: str, stream_id: str) -> None:
        """The incident was taken back: its frames go, and what the bank says of its stream asks for a review at most.

        Where the disk refuses, the entries count no more all the same.
        """
        self.exempt(stream_id)
        if self._known.pop(incident_id, None) is not None:
            await self._remove([incident_id])

    def exempt(self, stream_id: str) -> None:
        """A cut of this stream was taken back, now or in an earlier run: the bank cuts it no more."""
        self._exempt[stream_id] = None
        if (trail := self._trails.get(stream_id)) is not None:
            trail.is_cut = False  # what it showed is its own again, and protects it
        if len(self._exempt) > _TRAILS_KEPT:
            del self._exempt[next(iter(self._exempt))]

    def problems(self) -> list[str]:
        """One sentence where the bank cannot be read or written."""
        return [self._fault] if self._fault else []

    # The work

    async def run(self) -> None:
        """Take up what an earlier run left, then store and expire, for ever."""
        await self._load()
        while True:
            cut = None
            with suppress(TimeoutError):
                async with asyncio.timeout(_TRY_AGAIN_SECONDS if self._unwritten else _EXPIRE_EVERY_SECONDS):
                    cut = await self._cuts.get()
            if cut is not None:
                await self._store(*cut)
            elif self._unwritten:
                await self._store(*self._unwritten.popleft())
            await self._expire()

    async def _load(self) -> None:
        """Entries of earlier runs count as incidents of when the streams had settled that were there at the start."""
        async with self._writing:
            entries = await self._on_disk(self._entries)
        keep, settled_at = self._settings().keep_seconds, self._began_at + _SETTLED_SECONDS
        for entry in entries or ():
            self._known.setdefault(entry, _Known("", settled_at, _unix_time(entry) + keep, [], places=0, rows=1))
        self._tell()

    def _entries(self) -> list[str]:
        try:
            rows = open_bank(self._bank_dir).rows("pdq")
        except BankMissing:
            return []
        except IndexCorrupt as error:
            shutil.rmtree(self._bank_dir, ignore_errors=True)  # nothing in it is anybody's; it would stay unreadable
            log.warning("incident_bank.began_anew", why=str(error))
            return []
        return [] if rows is None else sorted({rows.names[number] for number in range(len(rows.hashes))})

    async def _store(self, incident_id: str, trail: Trail, hits: Sequence[HitFrame]) -> None:
        known = self._known.get(incident_id)
        if known is None:  # taken back meanwhile
            return
        now = self._clock()
        others = _together([other.shown(now) for other in self._trails.values() if _is_another(other, trail, now)])
        async with self._writing:
            counts = await self._on_disk(lambda: self._put(incident_id, known.first_frame_at, hits, others))
        if counts is None:
            self._unwritten.append((incident_id, trail, hits))
            self._metrics.incident_frames(KeptFrame.FAILED, len(hits))
            return
        rows, alike, dull = counts
        known.rows += rows
        known.places += alike + dull
        self._metrics.incident_frames(KeptFrame.STORED, len(hits) - alike - dull)
        self._metrics.incident_frames(KeptFrame.ANOTHERS, alike)
        self._metrics.incident_frames(KeptFrame.DULL, dull)
        log.info(
            "incident_bank.took", incident=incident_id, stream=trail.stream_id, rows=rows, frames=len(hits), alike=alike
        )
        if incident_id not in self._known:
            await self._remove([incident_id])
        elif rows:
            self._reload()
        self._tell()

    def _put(
        self, incident_id: str, first_frame_at: float, hits: Sequence[HitFrame], others: ShownRows
    ) -> tuple[int, int, int]:
        """Write what may be written; how many rows, frames that look like another's, frames too dull."""
        kept: list[tuple[PictureRows, int]] = []
        alike = dull = 0
        for hit in hits:
            plane, picture = _pixels(hit)
            size = hit.frame.width, hit.frame.height
            found = picture_rows(plane, picture, *size, is_video=True)
            if not len(found):
                dull += 1
            elif _resembles(found, others) or _resembles(
                picture_rows(plane[:, ::-1].copy(), picture[:, ::-1].copy(), *size, is_video=True), others
            ):
                alike += 1
            else:
                kept.append((found, max(0, round(1000 * (hit.at_seconds - first_frame_at)))))
        rows = sum(len(found) for found, _ in kept)
        if rows:
            add_entries(
                self._bank_dir,
                np.concatenate([found.hashes for found, _ in kept]),
                [incident_id] * rows,
                seconds=np.concatenate([found.seconds for found, _ in kept]),
                has_second=np.ones(rows, np.bool_),
                positions_ms=np.concatenate([np.full(len(found), place, np.int32) for found, place in kept]),
                is_window=np.concatenate([found.is_window for found, _ in kept]),
            )
        return rows, alike, dull

    async def _expire(self) -> None:
        now = self._wall()
        gone = [entry for entry, known in self._known.items() if known.expires_at <= now]
        # Incidents of which nothing could be taken cost the others no place; they have a bound of their own.
        for most, has_rows in ((INCIDENTS_KEPT, True), (_EMPTY_KEPT, False)):
            left = [entry for entry, known in self._known.items() if (known.rows > 0) is has_rows and entry not in gone]
            gone += left[: max(0, len(left) - most)]
        for entry in gone:
            self._known.pop(entry, None)
        if gone:
            await self._remove(gone)

    async def _remove(self, entries: Sequence[str]) -> None:
        async with self._writing:
            removed = await self._on_disk(lambda: sum(_remove(self._bank_dir, entry) for entry in entries))
        for entry in entries:
            self._forget(f"{INCIDENT_BANK}/{entry}")
        if removed:
            log.info("incident_bank.gave_up", incidents=list(entries)[:16], rows=removed)
            self._reload()
        self._tell()

    async def _on_disk(self, work: Callable[[], _Answer]) -> _Answer | None:
        """Do it in a thread; None, and a problem in health until the next that works, where the disk refuses."""
        try:
            answer = await asyncio.to_thread(work)
        except (OSError, IndexCorrupt, ValueError) as error:
            if not self._fault:
                log.warning("incident_bank.failed", why=str(error)[:200])
            self._fault = (
                f"the bank of what was just cut cannot be written ({str(error)[:200]}): re-streams of it are judged by "
                f"what else is known alone; see to the disk under {self._bank_dir.parent}"
            )
            return None
        self._fault = ""
        return answer

    def _tell(self) -> None:
        self._metrics.set_incidents_known(sum(known.rows > 0 for known in self._known.values()))


def _is_another(other: Trail, trail: Trail, now: float) -> bool:
    return other.stream_id != trail.stream_id and _protects(other, now)


def _protects(trail: Trail, now: float) -> bool:
    """Whether what a stream showed is its own: not that of one that was cut, nor of one gone for longer than that."""
    return not trail.is_cut and (trail.left_at is None or now - trail.left_at <= REMEMBERED_SECONDS)


def _together(shown: Sequence[ShownRows]) -> ShownRows:
    if not shown:
        return ShownRows(np.zeros((0, 32), np.uint8), np.zeros((0, 64), np.uint8), np.zeros(0, np.bool_))
    return ShownRows(
        np.concatenate([one.hashes for one in shown]),
        np.concatenate([one.seconds for one in shown]),
        np.concatenate([one.has_second for one in shown]),
    )


def _resembles(rows: PictureRows, others: ShownRows) -> bool:
    return bool(resembling(rows.hashes, rows.seconds, others.hashes, others.seconds, others.has_second).any())


def _pixels(hit: HitFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    plane = np.frombuffer(hit.frame.plane, np.uint8).reshape(PLANE_SIDE, PLANE_SIDE)
    return plane, np.frombuffer(hit.frame.picture, np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)


def _remove(bank_dir: Path, entry: str) -> int:
    with suppress(BankMissing):
        return remove_entry(bank_dir, entry)
    return 0


def _unix_time(incident_id: str) -> float:
    """When an incident was opened, by its UUIDv7 (RFC 9562, section 5.7); 0 for any other name."""
    try:
        return (uuid.UUID(incident_id).int >> 80) / 1000
    except ValueError:
        return 0.0

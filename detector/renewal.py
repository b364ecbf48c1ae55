"""New readers for running streams, in turn: what a reload changes must not make all streams blind at one moment."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from detector.session import StreamSession
from detector.session_settings import SessionSettings

_SHARE_AT_ONCE = 0.1
_LONGEST_WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05


class Moves(Protocol):
    """Who watches a source where it is no longer read; `detector.supervisor.Supervisor` knows."""

    def is_moved(self, session: StreamSession) -> bool:
        """Whether this one does."""

    def move(self, session: StreamSession) -> StreamSession:
        """Let the session end and begin one where the source is read now."""


class Renewal:
    """Brings sessions to the wanted settings and places, a tenth at a time: each until its new reader gave a frame."""

    def __init__(
        self,
        sessions: Callable[[], Iterable[StreamSession]],
        wanted: Callable[[StreamSession], SessionSettings],
        moves: Moves,
    ) -> None:
        self._sessions = sessions
        self._wanted = wanted
        self._moves = moves
        self._is_due = asyncio.Event()

    def begin(self) -> None:
        """Look for sessions that are not as wanted; what is under way turns to what is wanted now."""
        self._is_due.set()

    async def run(self) -> None:
        """Do it whenever it is due, for ever."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self._renew()

    async def _renew(self) -> None:
        outdated = [
            session
            for session in self._sessions()
            # Who has left gets no new reader: the old one still reads what had come.
            if not session.is_left and self._is_outdated(session)
        ]
        at_once = max(1, int(_SHARE_AT_ONCE * len(outdated)))
        for first in range(0, len(outdated), at_once):
            if self._is_due.is_set():
                return
            await asyncio.gather(*(self._bring(session) for session in outdated[first : first + at_once]))

    def _is_outdated(self, session: StreamSession) -> bool:
        return self._moves.is_moved(session) or session.settings != self._wanted(session)

    async def _bring(self, session: StreamSession) -> None:
        begun_at = time.monotonic()
        was_live = session.state == "live"
        if session.is_left:
            return
        if self._moves.is_moved(session):
            session = self._moves.move(session)
        else:
            await session.reconfigure(self._wanted(session))
        while was_live and session.state != "ended" and (session.last_sample_at or 0.0) < begun_at:
            if time.monotonic() > begun_at + _LONGEST_WAIT_SECONDS:
                return
            await asyncio.sleep(_LOOK_SECONDS)

"""New readers for running streams, in turn: what a reload changes must not make all streams blind at one moment."""

import asyncio
import time
from collections.abc import Callable, Iterable

from detector.session import SessionSettings, StreamSession

_SHARE_AT_ONCE = 0.1
_LONGEST_WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05


class Renewal:
    """Brings sessions to their wanted settings, a tenth of them at a time, each until its new reader gave a frame."""

    def __init__(
        self, sessions: Callable[[], Iterable[StreamSession]], wanted: Callable[[StreamSession], SessionSettings]
    ) -> None:
        self._sessions = sessions
        self._wanted = wanted
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
            if not session.is_left and session.settings != self._wanted(session)
        ]
        at_once = max(1, int(_SHARE_AT_ONCE * len(outdated)))
        for first in range(0, len(outdated), at_once):
            if self._is_due.is_set():
                return
            await asyncio.gather(*(self._bring(session) for session in outdated[first : first + at_once]))

    async def _bring(self, session: StreamSession) -> None:
        begun_at = time.monotonic()
        was_live = session.state == "live"
        if session.is_left:
            return
        await session.reconfigure(self._wanted(session))
        while was_live and session.state != "ended" and (session.last_sample_at or 0.0) < begun_at:
            if time.monotonic() > begun_at + _LONGEST_WAIT_SECONDS:
                return
            await asyncio.sleep(_LOOK_SECONDS)

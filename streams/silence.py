"""A look at what a source has sent while its next packet is waited for: a thread of its own, and a lock."""

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from streams.sender import Counters

PAUSE_SECONDS = 2.0
"""So long without a packet is no jitter of a network any more, and well before the source is given up."""


STIR_SECONDS = 0.5
"""So long without a packet is listened for what was not wanted so far: nobody calls a source quiet any sooner."""


class Silence:
    """Calls `look` once when no packet came for a pause, and `give_up` once when none came for `limit_seconds`.

    `stir` is called once before, when none came for `STIR_SECONDS`, or a pause if that is less.

    `with silence:` is held by the thread that reads, and with it the lock under which all is done; only in
    `with silence.waiting():` others may work. So the calls, which come from another thread, never meet the reader's
    own work. Heartbeats go on meanwhile, with `working_since` as for any other work, and the time limit for reading
    waits. Nothing is read any more once `is_over`. What any call raises is raised in `check`.

    `has_looked` says whether anything was called so far: before, there is nothing to check.

    A pause is `PAUSE_SECONDS`, or `pause_seconds` or the limit if that is less.
    """

    def __init__(
        self,
        counters: Counters,
        look: Callable[[], None],
        give_up: Callable[[], None],
        limit_seconds: float,
        *,
        stir: Callable[[], None] | None = None,
    ) -> None:
        self.pause_seconds = PAUSE_SECONDS
        self.is_over = False
        self.has_looked = False
        self._counters = counters
        self._steps = (look, give_up) if stir is None else (stir, look, give_up)
        self._limit_seconds = limit_seconds
        self._done = 0
        self._since = math.nan
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._waiting = _Waiting(self)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="silence", daemon=True)

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._lock.release()
        self._thread.join()

    def waiting(self) -> "_Waiting":
        """Let the lock go while the next packet is waited for."""
        return self._waiting

    def begin_wait(self) -> None:
        """Do what `waiting` does when it is entered: for those who do it for each packet."""
        self._done = 0
        self._since = time.monotonic()
        self._lock.release()

    def end_wait(self) -> None:
        """Do what `waiting` does when it is left."""
        self._lock.acquire()
        self._since = math.nan

    def check(self) -> None:
        """Raise what a look raised."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        wait_seconds = 0.0
        while not self._ending.wait(wait_seconds):
            # Never longer than a pause: what is waited for from now on is not missed, and nobody has to say so.
            wait_seconds = max(0.0, min(self._due_in(time.monotonic()), self._after(0)))

    @property
    def _pause(self) -> float:
        return min(PAUSE_SECONDS, self.pause_seconds, self._limit_seconds)

    def _after(self, step: int) -> float:
        """How long nothing must have come for a step."""
        to_come = len(self._steps) - step
        if to_come == 1:
            return self._limit_seconds
        return self._pause if to_come == 2 else min(STIR_SECONDS, self._pause)

    def _due_in(self, now: float) -> float:
        """Look if it is time; return how long it is until the next one."""
        since, done = self._since, self._done
        if math.isnan(since) or done == len(self._steps) or self._failure is not None:
            return math.inf
        due_at = since + self._after(done)
        if now < due_at:
            return due_at - now
        with self._lock:
            # A packet may have come before the lock was got.
            if self._since == since and self._done == done:
                self._look()
        return 0.0

    def _look(self) -> None:
        step = self._steps[self._done]
        self._done += 1
        self.is_over = self._done == len(self._steps)
        self.has_looked = True
        counters = self._counters
        overdue_at, counters.overdue_at = counters.overdue_at, math.inf
        counters.working_since = time.monotonic()
        try:
            step()
        except Exception as error:  # noqa: BLE001 - hostile bytes raise anything: it is the reading thread's to tell
            self._failure = error
        finally:
            counters.working_since = math.nan
            counters.overdue_at = max(overdue_at, time.monotonic())


class _Waiting:
    """Entered for every packet: a generator would cost several times as much."""

    def __init__(self, silence: Silence) -> None:
        self._silence = silence

    def __enter__(self) -> None:
        self._silence.begin_wait()

    def __exit__(self, *_: object) -> None:
        self._silence.end_wait()

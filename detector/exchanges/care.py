"""The lists of a running service: each fetched in its time by a process of its own, and told of when it grows old."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from detector.banks.rebuilding import module_process
from detector.config.config import Config
from detector.config.exchanges import ExchangeSection
from detector.exchanges.job import SyncJob
from detector.exchanges.order import job_of
from detector.exchanges.records import Outcome, SyncState, read_state, write_state
from detector.exchanges.schedule import is_stale, pause_seconds
from detector.metrics import Metrics
from detector.works import Work

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
_draw: Callable[[], float] = random.random
_LONGEST_SYNC_SECONDS = 12 * 3600.0
_MOST_ANSWER_BYTES = 64 << 10
_TOLD_BYTES = 2000

_HOURS = ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"))


@dataclass(slots=True)
class _Listed:
    """One list as the service knows it. `since` is when it began to ask for it (Unix time)."""

    section: ExchangeSection
    since: float
    state: SyncState | None = None
    is_told_stale: bool = False


class Exchanges:
    """Keeps the banks of the config's `exchanges` as new as their lists; `config` gives the config in force."""

    def __init__(self, config: Callable[[], Config], metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._lists: dict[str, _Listed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (Work("exchanges", self.run),)

    def banks(self) -> frozenset[str]:
        """The banks that lists fill."""
        return frozenset(section.bank for section in self._config().exchanges)

    async def run(self) -> None:
        """Have a task for each list of the config in force, for ever."""
        try:
            while True:
                await self._follow()
                self._tell()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._tasks.clear()

    def problems(self) -> list[str]:
        """One sentence for each list that is old, or that waits for somebody's word."""
        now = time.time()
        found = []
        for name, listed in self._lists.items():
            state, section = listed.state, listed.section
            why = state.sentence if state is not None else ""
            if state is not None and state.outcome == Outcome.REFUSED:
                found.append(why)
            elif state is not None and state.waits_for_word:
                found.append(
                    f"list {name} waits for somebody's word on {state.came:,} rows that come and {state.went:,} that "
                    f"go ('stopframe lists accept {name}'), and could not be had since: {why}"
                )
            elif is_stale(state, section.stale_after.seconds, listed.since, now):
                age = now - (state.fresh_at if state is not None and state.fresh_at else listed.since)
                said = f"is {_age(age)} old" if age >= 0 else "is of an unknown age, since the clock was set back"
                found.append(f"list {name} {said}: {why or 'never had'}; 'stopframe lists sync {name}' tries it now")
        return found

    def notes(self) -> list[str]:
        """One sentence for each list that could not be had the last time, and is not old yet."""
        now = time.time()
        return [
            f"list {name} could not be had: {listed.state.sentence}"
            for name, listed in self._lists.items()
            if listed.state is not None
            and listed.state.outcome == Outcome.FAILED
            and not is_stale(listed.state, listed.section.stale_after.seconds, listed.since, now)
        ]

    async def _follow(self) -> None:
        """Begin and end tasks as the config in force says; one whose line changed begins anew."""
        config = self._config()
        wanted = {section.name: section for section in config.exchanges}
        for name, task in list(self._tasks.items()):
            if task.done():
                task.result()  # a fault of ours ends this work as a whole, which health then names
            if name not in wanted or wanted[name] != self._lists[name].section:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del self._tasks[name]
                if name not in wanted:
                    del self._lists[name]
                    self._metrics.list_gone(name)
        for name, section in wanted.items():
            if name not in self._tasks:
                known = self._lists.get(name)
                state = await asyncio.to_thread(read_state, config.state_dir, name)
                self._lists[name] = _Listed(section, known.since if known else time.time(), state)
                self._tasks[name] = asyncio.create_task(self._keep(name), name=f"exchange.{name}")

    async def _keep(self, name: str) -> None:
        """Sync one list again and again, also by what a command did meanwhile."""
        listed, drawn = self._lists[name], _draw()
        while True:
            state_dir = self._config().state_dir
            found = await asyncio.to_thread(read_state, state_dir, name)
            # On a full disk what lies there is older than what is known here: nobody is asked again at once for that.
            if found is not None and (listed.state is None or found.tried_at > listed.state.tried_at):
                listed.state, drawn = found, _draw()
            # Drawn once for each pause: the smallest of many draws would be the same everywhere.
            pause = pause_seconds(listed.state, listed.section.every.seconds, listed.since, time.time(), drawn)
            if pause > 0:
                await asyncio.sleep(min(pause, _LOOK_SECONDS))
                if pause > _LOOK_SECONDS:
                    continue
            before = listed.state
            state = await self._sync(listed)
            if state.outcome == Outcome.BUSY:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            listed.state, drawn = state, _draw()
            self._told(before, state)

    async def _sync(self, listed: _Listed) -> SyncState:
        config, section = self._config(), listed.section
        try:
            job = await asyncio.to_thread(job_of, config, section)
            async with asyncio.timeout(_LONGEST_SYNC_SECONDS):
                return await _in_process(job)
        except (TimeoutError, OSError, ValueError, LookupError) as error:
            why = str(error) or f"it took longer than {_LONGEST_SYNC_SECONDS / 3600:g} hours"
        state = listed.state or SyncState(section.name, section.bank)
        state = replace(
            state,
            outcome=Outcome.FAILED.value,
            tried_at=time.time(),
            failures=state.failures + 1,
            sentence=f"the sync of {section.name} broke off: {why}",
        )
        with contextlib.suppress(OSError):  # health has it, and the next try may find room
            await asyncio.to_thread(write_state, config.state_dir, state)
        return state

    def _told(self, before: SyncState | None, state: SyncState) -> None:
        """Count and log what a sync came to; what stays as it is is said once."""
        before = before or SyncState(state.exchange, state.bank)
        self._metrics.list_synced(state.exchange, state.outcome)
        news: Mapping[str, int] = {
            what: getattr(state, what) - getattr(before, what)
            for what in ("added", "changed", "withdrawn", "bad", "quarantined")
        }
        for what, count in news.items():
            self._metrics.list_hashes(state.exchange, what, count)
        if state.outcome == Outcome.SYNCED:
            if any(news.values()) or before.outcome != Outcome.SYNCED:
                log.info("list.synced", list=state.exchange, bank=state.bank, version=state.version, **news)
        elif (state.outcome, state.sentence) != (before.outcome, before.sentence):
            if state.outcome == Outcome.REFUSED:
                log.warning("list.refused", list=state.exchange, why=state.sentence)
            else:
                log.warning("list.failed", list=state.exchange, why=state.sentence)

    def _tell(self) -> None:
        """Show each list's age and rows, and log when it has become old."""
        now = time.time()
        for name, listed in self._lists.items():
            state = listed.state
            fresh_at = state.fresh_at if state is not None and state.fresh_at else listed.since
            self._metrics.set_list(name, rows=state.rows if state else 0, age_seconds=max(0.0, now - fresh_at))
            stale = is_stale(state, listed.section.stale_after.seconds, listed.since, now)
            if stale and not listed.is_told_stale:
                log.warning("list.stale", list=name, age_seconds=round(now - fresh_at))
            listed.is_told_stale = stale


async def _in_process(job: SyncJob) -> SyncState:
    """Run one sync in a process of its own. Raises OSError or ValueError where that ended without a word."""
    async with module_process("detector.exchanges", has_input=True) as process:
        said, told = await process.communicate(job.encode())
    try:
        return SyncState.of(json.loads(said[:_MOST_ANSWER_BYTES]))
    except (ValueError, TypeError, KeyError):
        last = told[-_TOLD_BYTES:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ValueError(f"its process ended with {process.returncode} ({last or 'it said nothing'})") from None


def _age(seconds: float) -> str:
    for least, unit, word in _HOURS:
        if seconds >= least:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds:.0f} seconds"

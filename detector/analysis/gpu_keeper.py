"""Keeps the one process that owns the GPU: starts it, watches it, replaces it, and says when it is away.

It dies or hangs by a driver's fault or by a model's. The analysis processes hear of it at once and have the processor
score until another is warm. What it was doing then is written in memory that outlives it: a model that ended it three
times within an hour stays on the processor.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from detector.analysis.channel import Channel, open_channel
from detector.analysis.gpu_link import Count, Link, LinkEnd, Tally, pack_state
from detector.analysis.gpu_messages import (
    COMPILE_SECONDS,
    LOAD_SECONDS,
    GpuReady,
    GpuSetup,
    GpuTask,
    pack_gpu_setup,
    parse_gpu_ready,
    send_descriptors,
)
from detector.analysis.messages import AnalysisProtocolError, Kind, ModelSetup
from streams.job import SandboxMode
from streams.nursery import Nursery, NurseryBroken

log = structlog.get_logger()

QUARANTINE_AFTER: Final = 3
_BLAME_SECONDS: Final = 3600.0
_WARM_SECONDS: Final = 30.0
_WATCH_SECONDS: Final = 0.2
_LEAST_HANG_SECONDS: Final = 0.5
_HANG_TIMES: Final = 4.0  # a batch of many pictures takes longer than one
_PAUSE_SECONDS: Final = 0.25
_OPEN: Final = ("devices", "libraries", "most system calls")
_LONGEST_PAUSE_SECONDS: Final = 60.0


class _Hung(Exception):
    """No sign for too long, in a batch or between two."""


class _NothingServed(Exception):
    """It could open none of the models."""


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """Which models run on the GPU, how many processes ask, and where TensorRT may keep what it compiles."""

    models: tuple[ModelSetup, ...]
    askers: int
    sandbox: SandboxMode
    model_timeout_seconds: float
    engines: Path | None = None


class GpuKeeper:
    """Owns the process. Use as `async with`; it is there for as long as any model is to run on the GPU.

    `entry` is what the process runs, found in `search_paths` first.
    """

    def __init__(
        self,
        settings: GpuSettings,
        *,
        entry: str = "detector.analysis.gpu_process:main",
        search_paths: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._nursery = Nursery(entry, search_paths=search_paths)
        self._links = [Link() for _ in range(settings.askers)]
        self._tally, self._descriptor = Tally.make()
        self._ready: GpuReady | None = None
        self._task: asyncio.Task[None] | None = None
        self._first_try = asyncio.Event()
        self._lost_at: dict[str, list[float]] = {}
        self._quarantined: set[str] = set()
        self._why = "it is starting"
        self.restarts = 0

    async def __aenter__(self) -> Self:
        """Start the process; wait a while for it to be warm, so that the first frames find it."""
        await self._nursery.__aenter__()
        self._task = asyncio.create_task(self._keep(), name="gpu")
        with suppress(TimeoutError):
            async with asyncio.timeout(_WARM_SECONDS):
                await self._first_try.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._nursery.__aexit__(kind, error, trace)
        for link in self._links:
            link.close()
        self._tally.close()
        os.close(self._descriptor)

    def descriptors_of(self, asker: int) -> tuple[int, ...]:
        """What an analysis process is given to ask by."""
        return self._links[asker].near_descriptors

    def end_of(self, asker: int) -> LinkEnd:
        """The end that an analysis process asks by, for this process; it is closed with the keeper."""
        return self._links[asker].near_end()

    @property
    def ready(self) -> GpuReady | None:
        """What the process said of itself when it was warm; None while it is away."""
        return self._ready

    @property
    def has_failed(self) -> bool:
        """Whether a first process was tried, and none is there now."""
        return self._first_try.is_set() and self.is_away

    @property
    def is_away(self) -> bool:
        """Whether no process serves the GPU now."""
        return self._ready is None

    def problems(self) -> list[str]:
        """One sentence for each thing that an operator should know of."""
        found = [
            f"model {name} was taken off the GPU after it ended the GPU's process {QUARANTINE_AFTER} times and runs on "
            "the processor; replace it"
            for name in sorted(self._quarantined)
        ]
        if self._ready is not None:
            return found + [f"on the GPU: {why}; the processor runs it" for why in self._ready.refused.values()]
        names = ", ".join(model.name for model in self._settings.models if model.name not in self._quarantined)
        return [*found, f"the GPU's process is away ({self._why}); the processor runs {names}"] if names else found

    def cage(self) -> dict[str, Any] | None:
        """Which parts of the cage its process has not, by its word, and what no cage could close; None while away."""
        if self._ready is None:
            return None
        return {"missing": list(self._ready.missing_cage), "open": list(_OPEN)}

    def load(self) -> dict[str, float]:
        """Batches, pictures in them, questions without scores in time, and malformed ones, since the start."""
        wanted = (Count.BATCHES, Count.PICTURES, Count.UNANSWERED, Count.MALFORMED)
        return {f"gpu_{count.name.lower()}": self._tally[count] for count in wanted}

    async def _keep(self) -> None:
        pause = _PAUSE_SECONDS
        while models := [one for one in self._settings.models if one.name not in self._quarantined]:
            was_ready = False
            try:
                async with await self._nursery.spawn() as child:
                    ends = [descriptor for link in self._links for descriptor in link.far_descriptors]
                    send_descriptors(child.socket, [self._descriptor, *ends])
                    with contextlib.closing(await open_channel(child.socket)) as channel:
                        ready = await self._set_up(channel, models)
                        was_ready = True
                        self._ready = ready
                        self._first_try.set()
                        await self._watch(channel)
            except (OSError, EOFError, AnalysisProtocolError, NurseryBroken, TimeoutError, _Hung) as error:
                self._note_loss(error)
            except _NothingServed as error:
                self._why = str(error)
            finally:
                self._ready = None
                self._tell_away()
                self._first_try.set()
            pause = _PAUSE_SECONDS if was_ready else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _set_up(self, channel: Channel, models: Sequence[ModelSetup]) -> GpuReady:
        tasks = tuple(GpuTask(model.place, model.name, model.source, model.provider) for model in models)
        engines = "" if self._settings.engines is None else str(self._settings.engines)
        self._tally[Count.AT_WORK] = 0
        channel.send(pack_gpu_setup(GpuSetup(tasks, self._settings.sandbox.value, engines)))
        each = [COMPILE_SECONDS if model.provider == "tensorrt" else LOAD_SECONDS for model in models]
        async with asyncio.timeout(2 * sum(each)):
            kind, body = await channel.receive()
        if kind is not Kind.READY:
            raise AnalysisProtocolError(f"{kind.name} instead of READY")
        ready = parse_gpu_ready(body)
        if not ready.runs_on:
            raise _NothingServed("; ".join(ready.refused.values()) or "it serves no model")
        log.info("gpu.ready", gpu=ready.gpu, runs_on=ready.runs_on, refused=ready.refused, batch_ms=ready.batch_ms)
        return ready

    async def _watch(self, channel: Channel) -> None:
        """Return never; raise when it ends, speaks unasked, or gives no sign."""
        limit = max(_LEAST_HANG_SECONDS, _HANG_TIMES * self._settings.model_timeout_seconds)
        beats, changed_at = -1, self._clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    kind, _ = await channel.receive()
                    raise AnalysisProtocolError(f"{kind.name}, though nothing was asked")
            now, last = self._clock(), beats
            beats = self._tally[Count.BEATS]
            if beats != last:
                changed_at = now
            elif now - changed_at > limit:
                raise _Hung

    def _tell_away(self) -> None:
        for link in self._links:
            with suppress(OSError):  # who does not listen finds out when it is not answered
                link.far.send(pack_state(()), socket.MSG_DONTWAIT)

    def _note_loss(self, error: Exception) -> None:
        self.restarts += 1
        place = self._tally[Count.AT_WORK] - 1
        model = next((one.name for one in self._settings.models if one.place == place), "")
        self._why = "it hung" if isinstance(error, _Hung) else f"it ended, {type(error).__name__}"
        log.warning("gpu.process_lost", model=model, why=type(error).__name__)
        if not model:
            return
        now = self._clock()
        times = [at for at in self._lost_at.get(model, []) if now - at < _BLAME_SECONDS]
        self._lost_at[model] = [*times, now]
        if len(self._lost_at[model]) >= QUARANTINE_AFTER:
            self._quarantined.add(model)
            log.warning("gpu.model_quarantined", model=model, losses=QUARANTINE_AFTER)

"""Files watched as the service watches live streams, and what every part of it used.

Sessions, readers in their cage and analysis against banks are the product's own, at a multiple of real time; what a
service has beside them once and for all (database, HTTP, MQTT) is not here. Each line on stdin is a JSON object of
`Errand`; stdout carries one JSON line for each, an `Account`. The process stays, so that nothing is loaded twice.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.processes import ServiceTree, pss_bytes
from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import load_manifests, pool_settings
from detector.config.config import Config
from detector.config.loading import load_config
from detector.events import Decision, StreamKey
from detector.logs import configure_logs
from detector.metric_words import CrashKind
from detector.metrics import Metrics
from detector.reader_figures import ReaderFigures
from detector.session import SessionParts, StreamSession
from detector.settings import session_settings
from streams.frame import SampleReason
from streams.job import SourceKind
from streams.nursery import Nursery
from streams.wire import EndCode, Heartbeat

_ROOT = Path(__file__).resolve().parents[1]


_SETTLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Errand:
    """Watch each of `paths` once, all at the same time, under `config`, `speed` times as fast as they were shown."""

    config: str
    paths: Sequence[str]
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Account:
    """What it came to, of all files together: CPU seconds by part, samples by reason, how the readers ended.

    `judged` counts the frames that were decided about, `dropped` those that were not looked at, `asked` the
    pictures about which a model was asked; `analysis_pss_bytes` is
    the memory of each analysis process when all was read, None where the kernel does not show it.
    """

    service: float = 0.0
    readers: float = 0.0
    analysis: float = 0.0
    judged: int = 0
    dropped: int = 0
    asked: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    bursts: int = 0
    spikes: int = 0
    keyframes_decoded: int = 0
    decoding: dict[str, float] = field(default_factory=dict)
    analysis_pss_bytes: list[int | None] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """Keyframes that were decoded and gave no sample, and samples that were not judged: too much came at once."""
        replaced = max(0, self.keyframes_decoded - self.samples.get(SampleReason.KEYFRAME.value, 0))
        return replaced + max(0, sum(self.samples.values()) - self.judged)

    @property
    def total(self) -> float:
        """CPU seconds of all parts."""
        return self.service + self.readers + self.analysis


class _OneLook(Metrics):
    # The metrics of one session that is over when its file is.
    def __init__(self) -> None:
        super().__init__()
        self.session: StreamSession | None = None
        self.ends: Counter[str] = Counter()

    def reader_ended(self, code: EndCode) -> None:
        super().reader_ended(code)
        self._over(code.value)

    def crashed(self, kind: CrashKind) -> None:
        super().crashed(kind)
        self._over(kind.value)

    def _over(self, word: str) -> None:
        self.ends[word] += 1
        if self.session is not None:
            self.session.leave()


class _Beats(ReaderFigures):
    # Keeps what the last heartbeat said when its reader is gone.
    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.keyframes_decoded = 0
        self.decoding: dict[str, float] = {}

    def beat(self, beat: Heartbeat) -> None:
        super().beat(beat)
        self.keyframes_decoded = beat.keyframes_decoded
        self.decoding = {
            "keyframes": beat.keyframe_cpu_seconds,
            "through": beat.through_cpu_seconds,
            "whole": beat.whole_cpu_seconds,
        }


async def _serve() -> None:
    """Go on errands that stdin names, the nursery and the pool of one state kept for the next."""
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(Nursery("streams.reader:main"))
        pool: AnalysisPool | None = None
        folder = ""
        tree = ServiceTree(os.getpid())
        async for line in _lines():
            errand = Errand(**json.loads(line))
            config = load_config(errand.config)
            settings = pool_settings(config, load_manifests(config))
            if pool is None or folder != str(config.state_dir):
                pool = await stack.enter_async_context(AnalysisPool(settings))
                folder = str(config.state_dir)
            pool.reconfigure(settings)
            await asyncio.sleep(_SETTLE_SECONDS)  # what it takes to start is no clip's
            account = await _watched(errand, config, nursery, pool, tree)
            print(json.dumps(asdict(account)), flush=True)


async def _watched(errand: Errand, config: Config, nursery: Nursery, pool: AnalysisPool, tree: ServiceTree) -> Account:
    dropped = pool.dropped.total()
    before = tree.cpu_seconds()
    looks = [_look(number, path, errand, config, nursery, pool) for number, path in enumerate(errand.paths)]
    sessions = await asyncio.gather(*looks)
    used = tree.cpu_seconds() - before
    samples: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for _, metrics, _ in sessions:
        ends += metrics.ends
        for reason in SampleReason:
            samples[reason.value] += round(metrics.value("stopframe_samples_total", reason=reason.value))
    return Account(
        service=used.service,
        readers=used.readers,
        analysis=used.analysis,
        judged=sum(session.judge.judged for session, _, _ in sessions),
        dropped=pool.dropped.total() - dropped,
        asked=sum(
            round(metrics.value("stopframe_model_frames_total", model=rule.name, how="asked"))
            for _, metrics, _ in sessions
            for rule in pool.model_rules
        ),
        samples={reason: count for reason, count in samples.items() if count},
        ends=dict(ends),
        bursts=sum(session.figures.bursts for session, _, _ in sessions),
        keyframes_decoded=sum(beats.keyframes_decoded for _, _, beats in sessions),
        decoding=dict(sum((Counter(beats.decoding) for _, _, beats in sessions), Counter[str]())),
        spikes=sum(session.figures.spikes for session, _, _ in sessions),
        analysis_pss_bytes=[pss_bytes(one.pid) for one in tree.analysts()],
    )


async def _look(
    number: int, path: str, errand: Errand, config: Config, nursery: Nursery, pool: AnalysisPool
) -> tuple[StreamSession, _OneLook, _Beats]:
    settings = session_settings(config, f"files/{number}", SourceKind.FILE, path, load_manifests(config))
    metrics = _OneLook()
    session = StreamSession(
        f"file{number}",
        StreamKey("files", "files", str(number)),
        replace(settings, job=replace(settings.job, speed=errand.speed)),
        SessionParts(nursery, pool, metrics, _ignore),
    )
    session.figures = beats = _Beats(metrics)
    metrics.session = session
    await session.run()
    return session, metrics, beats


async def _ignore(_: StreamSession, __: Decision) -> None:
    """Nothing is cut here."""


async def _lines() -> AsyncIterator[str]:
    """What stdin says, line by line, while the loop goes on."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, name="errands", daemon=True).start()
    while line := await lines.get():
        yield line


if __name__ == "__main__":
    configure_logs("error", "json")
    asyncio.run(_serve())

"""A GPU's batches: how long each size takes, and what frames a second and what latency many askers get.

The process is the service's own, with its cage, and the askers speak to it as analysis processes do. Where no GPU or no
runtime for one is here, nothing is measured and the reason is given.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis.gpu_keeper import GpuKeeper, GpuSettings
from detector.analysis.gpu_link import GpuLink
from detector.analysis.messages import ModelSetup
from models.frame_shape import PICTURE_SIDE
from models.manifest import Manifest
from models.providers import GPUS, ProviderUnavailable, available_providers, choose_provider
from streams.job import SandboxMode

ASKERS: Final = (1, 4, 16, 64)
_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 2.0
_WARM_UP_SECONDS: Final = 120.0


@dataclass(slots=True)
class GpuLoad:
    """What so many askers got, each of which asks for the next picture when it has the scores of the last."""

    askers: int
    frames_per_second: float
    median_ms: float
    p99_ms: float
    mean_batch: float
    unanswered: int


@dataclass(slots=True)
class GpuFigures:
    """One model on one provider. `why` says why there are no figures."""

    model: str
    provider: str
    gpu: str = ""
    batch_ms: Mapping[int, float] = field(default_factory=dict)
    loads: Sequence[GpuLoad] = ()
    why: str = ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """For the report: the batches, then what askers got."""
        both = {"model": self.model, "provider": self.provider, "gpu": self.gpu}
        for size, spent in self.batch_ms.items():
            yield {**both, "batch": size, "batch_ms": spent, "frames_per_s": round(1000 * size / max(spent, 1e-6), 1)}
        for load in self.loads:
            yield {
                **both,
                "askers": load.askers,
                "frames_per_s": round(load.frames_per_second, 1),
                "latency_ms": [round(load.median_ms, 2), round(load.p99_ms, 2)],
                "mean_batch": round(load.mean_batch, 2),
                "unanswered": load.unanswered,
            }


def gpu_figures(models: Mapping[str, Manifest], *, is_quick: bool = False) -> tuple[list[GpuFigures], str]:
    """The figures of each model on each GPU provider that is installed, and why there are none."""
    providers = [name for name in available_providers() if name in GPUS]
    if not providers:
        try:
            choose_provider(GPUS[0])
        except ProviderUnavailable as error:
            return [], str(error)
    found = []
    for provider in providers[:1] if is_quick else providers:
        for reference, manifest in models.items():
            print(f"  {manifest.name} on {provider}", flush=True)
            setup = ModelSetup(manifest.name, reference, provider)
            found.append(asyncio.run(figures_of(GpuKeeper(_settings(setup)), setup)))
    whys = [one.why for one in found if one.why]
    return [one for one in found if not one.why], "; ".join(dict.fromkeys(whys))


def _settings(setup: ModelSetup) -> GpuSettings:
    return GpuSettings((setup,), max(ASKERS), SandboxMode.PREFER, _PATIENCE_SECONDS)


async def figures_of(
    keeper: GpuKeeper, setup: ModelSetup, *, askers: Sequence[int] = ASKERS, seconds: float = _SECONDS
) -> GpuFigures:
    """What the process of `keeper`, which is not entered yet, gives; it has links for so many askers."""
    async with keeper:
        ends_at = time.monotonic() + (_WARM_UP_SECONDS if setup.provider == "cuda" else 10 * _WARM_UP_SECONDS)
        while keeper.ready is None:
            if keeper.has_failed or time.monotonic() > ends_at:
                return GpuFigures(setup.name, setup.provider, why="; ".join(keeper.problems()))
            await asyncio.sleep(0.05)
        ready = keeper.ready
        links = [GpuLink(keeper.end_of(one), patience_seconds=_PATIENCE_SECONDS) for one in range(max(askers))]
        loads = [await asyncio.to_thread(_loaded, keeper, links[:count], setup.place, seconds) for count in askers]
    return GpuFigures(setup.name, setup.provider, ready.gpu, ready.batch_ms.get(setup.name, {}), loads)


def _loaded(keeper: GpuKeeper, links: Sequence[GpuLink], place: int, seconds: float) -> GpuLoad:
    spent: list[float] = []
    missing: list[int] = []
    before = keeper.load()
    begun_at = time.monotonic()
    threads = [
        threading.Thread(target=_ask, args=(link, place, begun_at + seconds, spent, missing), name=f"asker[{number}]")
        for number, link in enumerate(links)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun_at
    after = keeper.load()
    batches, pictures = (after[key] - before[key] for key in ("gpu_batches", "gpu_pictures"))
    in_ms = sorted(1000 * one for one in spent) or [float("nan")]
    return GpuLoad(
        askers=len(links),
        frames_per_second=len(spent) / took,
        median_ms=statistics.median(in_ms),
        p99_ms=in_ms[min(len(in_ms) - 1, round(0.99 * len(in_ms)))],
        mean_batch=pictures / batches if batches else float("nan"),
        unanswered=len(missing),
    )


def _ask(link: GpuLink, place: int, ends_at: float, spent: list[float], missing: list[int]) -> None:
    picture: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (PICTURE_SIDE,) * 2 + (3,), dtype=np.uint8)
    while (now := time.monotonic()) < ends_at:
        link.deadline_at = now + _PATIENCE_SECONDS
        if link.ask(place, (picture, PICTURE_SIDE, PICTURE_SIDE), 0.0) is None:
            missing.append(1)
            time.sleep(0.01)
        else:
            spent.append(time.monotonic() - now)

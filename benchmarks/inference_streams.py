"""What a stream costs with a model on every sample: reader, service and analysis of a 1080p30 stream, as `throughput`.

The model is asked about each sample, but for those that only moved beside another: `asked_per_s` counts.
Keyframes alone, and as shipped; on files, several times as fast as they were shown, and over RTMP at their own pace.
Hashes are looked up as shipped, in all views, in a bank of 20,000: pages of a longer one are mapped by each analysis
process and count in its memory, though they are given up when memory is short (a million: 55 to 90 MB more).
"""

import asyncio
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import ServerMissing
from benchmarks.camera_clips import CALM, OBS_LIKE, UNIT_SECONDS, MadeClip, make
from benchmarks.file_watcher import FileWatcher
from benchmarks.running import ServiceFailed
from benchmarks.throughput_live import LiveCost, LivePlan, watch_live
from benchmarks.watched_files import Account

KEYFRAMES: Final = "keyframes"
SHIPPED: Final = "as shipped"
SHIPPED_CALM: Final = "as shipped, little movement"
"""What shows nothing but movement beside another frame is not shown to models: that decides what the rest costs."""

_SAMPLING: Final = {KEYFRAMES: "{mode: keyframes, bursts: 0%, spikes: false}", SHIPPED: "{}", SHIPPED_CALM: "{}"}
_CLIPS: Final = {KEYFRAMES: OBS_LIKE, SHIPPED: OBS_LIKE, SHIPPED_CALM: CALM}
_ROUNDS: Final = {KEYFRAMES: 10, SHIPPED: 20, SHIPPED_CALM: 20}
"""As shipped the draw of bursts has to come out even."""
_SPEED: Final = 10.0
_LIVE: Final = ", live"
_PARTS: Final = ("readers", "service", "analysis")
_TRIES: Final = 3
ROWS: Final = 20_000


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Which ways to sample are run how often, and whether and how over RTMP: with the first provider alone."""

    modes: Sequence[str]
    trials: int
    live: LivePlan | None


@dataclass(slots=True)
class StreamCost:
    """CPU milliseconds for each second of a stream by part, trial by trial, and the memory of analysis processes."""

    parts: list[Mapping[str, float]] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    left_out: int = 0
    pss_bytes: list[int] = field(default_factory=list)
    asked_per_second: list[float] = field(default_factory=list)

    @property
    def streams_per_core(self) -> float:
        """At the median."""
        return 1000.0 / statistics.median(sum(one.values()) for one in self.parts)

    def row(self, provider: str, mode: str) -> dict[str, Any]:
        """As it is reported."""
        totals = [sum(one.values()) for one in self.parts]
        return {
            "clip": _CLIPS[mode.removesuffix(_LIVE)].name,
            "way": f"{mode}, {provider}",
            "cpu_ms_per_s": round(statistics.median(totals), 3),
            "spread_ms": [round(min(totals), 3), round(max(totals), 3)],
            "streams_per_core": round(self.streams_per_core, 1),
            **{part: round(statistics.median(one[part] for one in self.parts), 3) for part in self.parts[0]},
            "samples_per_s": round(statistics.median(self.samples_per_second), 3),
            **({"asked_per_s": round(statistics.median(self.asked_per_second), 3)} if self.asked_per_second else {}),
            "left_out": self.left_out,
            "analysis_pss_mb": round(max(self.pss_bytes) / 1e6, 1) if self.pss_bytes else None,
        }


def stream_costs(
    plan: StreamPlan, providers: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, str, StreamCost | str]]:
    """Yield provider, mode and cost, or one sentence on why there is none; `providers` maps to the section `models`."""
    clips = make([*dict.fromkeys(_CLIPS[mode] for mode in plan.modes)])
    made = {mode: clips[_CLIPS[mode]] for mode in plan.modes}
    for number, (provider, models) in enumerate(providers.items()):
        with FileWatcher(folder / f"files-{number}", ROWS, models=models) as watcher:
            costs = {mode: StreamCost() for mode in plan.modes}
            for _ in range(plan.trials):
                short, long = (
                    _watched(watcher, made[KEYFRAMES], KEYFRAMES, rounds) for rounds in (1, _ROUNDS[KEYFRAMES])
                )
                start = _start(short, long, _ROUNDS[KEYFRAMES])
                for mode, cost in costs.items():
                    account = long if mode == KEYFRAMES else _watched(watcher, made[mode], mode, _ROUNDS[mode])
                    _note(cost, account, start, _ROUNDS[mode] * UNIT_SECONDS)
        for mode, cost in costs.items():
            yield provider, mode, cost
        if plan.live is not None and number == 0:
            for mode in (KEYFRAMES, SHIPPED):
                yield (
                    provider,
                    f"{mode}{_LIVE}",
                    _live(plan.live, made[mode], folder / f"live-{number}-{mode[:2]}", mode, models),
                )


def _watched(watcher: FileWatcher, made: MadeClip, mode: str, rounds: int) -> Account:
    """Again, a few times, where other load on the machine had samples left out."""
    for _ in range(_TRIES):
        account = watcher.watch([made.lengthened(rounds)], _SAMPLING[mode], speed=_SPEED)
        if not account.left_out:
            break
    return account


def _start(short: Account, long: Account, rounds: int) -> Mapping[str, float]:
    """CPU seconds by part that any run begins with: one round less what a round takes."""
    return {part: getattr(short, part) - (getattr(long, part) - getattr(short, part)) / (rounds - 1) for part in _PARTS}


def _note(cost: StreamCost, account: Account, start: Mapping[str, float], seconds: float) -> None:
    cost.parts.append({part: 1000 * (getattr(account, part) - start[part]) / seconds for part in _PARTS})
    cost.samples_per_second.append(account.judged / seconds)
    cost.asked_per_second.append(account.asked / seconds)
    cost.left_out += account.left_out
    cost.pss_bytes += [one for one in account.analysis_pss_bytes if one]


def _live(plan: LivePlan, made: MadeClip, folder: Path, mode: str, models: str) -> StreamCost | str:
    folder.mkdir(parents=True)
    try:
        seen: LiveCost = asyncio.run(
            watch_live(plan, made.path, folder, sampling=_SAMPLING[mode], matching="{}", models=models)
        )
    except (ServerMissing, ServiceFailed) as error:
        return str(error)
    return StreamCost(
        [{part: 1000 * getattr(seen.ours, part) / seen.stream_seconds for part in _PARTS}],
        [seen.judged / seen.stream_seconds],
        0,
        [one for one in seen.analysis_pss_bytes if one],
    )

"""What the evasion benchmark measures on the virtual clock, cell by cell: each is a task for a process of its own."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from benchmarks.hidden_clips import (
    RATE,
    Control,
    HiddenClip,
    Hiding,
    Scene,
    Size,
    camera,
    card,
    secret,
    speaker,
    still,
    text,
)
from benchmarks.virtual_clock import LoopedClip, Watching, cpu_seconds, share_that_shows
from detector.config.config import Config
from detector.cpu.planning import chance_between_keyframes
from streams.sampling import SamplingMode, SamplingSettings

SIZE: Final[Size] = (384, 216)
HORIZONS_SECONDS: Final = (10.0, 30.0, 60.0)
CURVE_STEP_SECONDS: Final = 2.0
SETTLED_GOPS: Final = 5
"""After so many GOPs a sampler knows its stream."""

CPU_SECONDS: Final = 80.0
"""Of a stream, over which CPU time is taken: two blocks of twenty GOPs of 2 s. Where it is not compared, a quarter."""

CLEANS: Final[Sequence[Scene]] = (camera, speaker, still)
TARGETS: Final = {"photograph": secret, "card": card, "text": text}


def as_shipped() -> SamplingSettings:
    """Return the settings of a config that says nothing."""
    return Config().sampling_for("live/stream")


def keyframes_only(settings: SamplingSettings) -> SamplingSettings:
    """Return what the settings come to without anything but keyframes."""
    return replace(settings, mode=SamplingMode.KEYFRAMES, burst_share=0.0, spikes=False)


@dataclass(frozen=True, slots=True)
class Usual:
    """Something is hidden by whoever lets his encoder control its rate as usual."""

    name: str
    hiding: Hiding
    control: Control
    target: str = "photograph"
    gop: int = 60
    intra_refresh: bool = False
    open_gop: bool = False
    codec: str = "libx264"
    is_promised: bool = False

    def clips(self, count: int) -> list[HiddenClip]:
        """One clip for each clean content, at most `count`; the target first appears at another place of its GOP."""
        clip = HiddenClip(
            camera,
            self.hiding,
            self.control,
            gops=360 // self.gop,
            gop=self.gop,
            size=SIZE,
            target=TARGETS[self.target],
            intra_refresh=self.intra_refresh,
            open_gop=self.open_gop,
            codec=self.codec,
        )
        starts = (250, 415, 755) if self.gop > 300 else (180, 197, 223)
        return [
            replace(clip, clean=clean, hidden_from=start, gops=max(clip.gops, -(-(start + 200) // self.gop)))
            for clean, start in list(zip(CLEANS, starts, strict=True))[:count]
        ]


def usual_row(case: Usual, runs: int, contents: int, within_seconds: float, seed: int) -> dict[str, Any]:
    """Join each clip at random moments of its clean part; say in how many of `runs` the target was found in time."""
    settings = as_shipped()
    clips = [LoopedClip(clip) for clip in case.clips(contents)]
    draw = random.Random(f"{case} {seed}")
    delays: list[float] = []
    reasons: Counter[str] = Counter()
    for number in range(runs):
        looped = clips[number % len(clips)]
        first_hidden, gop = looped.clip.first_hidden, looped.clip.gop
        # Before the latest clean keyframe: until one comes nobody sees anything.
        joined_at = draw.randrange(min(first_hidden // gop, 2) * gop + 1)
        sighting = Watching(looped, settings, draw.getrandbits(64), joined_at=joined_at).run_to(looped.seconds)
        if sighting is not None:
            delays.append(sighting.at - first_hidden / RATE)
            reasons[sighting.reason.value] += 1
    in_time = sum(delay <= within_seconds for delay in delays)
    bare = keyframes_only(settings)
    return {
        "kind": "usual",
        "hidden": case.name,
        "control": case.control.value,
        "target": case.target,
        "is_promised": case.is_promised,
        "runs": runs,
        "found_in_time": in_time / runs,
        "p50_s": median(delays) if delays else None,
        "max_s": max(delays, default=None),
        "found_by": dict(reasons),
        "found_by_keyframes_alone": None
        if case.intra_refresh  # there are none: every mode decodes through
        else sum(Watching(looped, bare, seed).run_to(looped.seconds) is not None for looped in clips),
        **_cost(clips[0], settings, seed, CPU_SECONDS / 4),
    }


@dataclass(frozen=True, slots=True)
class Knowing:
    """Something is hidden by a streamer who knows this code: nothing in his sizes points at it."""

    hiding: Hiding
    control: Control
    gop: int

    @property
    def name(self) -> str:
        """What the attack is called."""
        return self.control.value if self.hiding is Hiding.LATER else self.hiding.value

    def clip(self) -> HiddenClip:
        """Twelve seconds of it, to be repeated without end."""
        return HiddenClip(
            camera, self.hiding, self.control, gops=360 // self.gop, clean_gops=0, gop=self.gop, size=SIZE, target=card
        )


def knowing_rows(attack: Knowing, shares: Sequence[float], runs: int, seed: int) -> list[dict[str, Any]]:
    """Let the target appear at moments all over a block of GOPs; how soon it is found, beside what is planned."""
    looped = LoopedClip(attack.clip())
    shows = share_that_shows(looped)
    gop_seconds = attack.gop / RATE
    rows = []
    for share in shares:
        settings = replace(as_shipped(), burst_share=share)
        delays, blind = found_after(looped, settings, runs, seed)
        planned = [
            chance_between_keyframes(settings, gop_seconds, within, sizes_show=0.0, decoys=shows)
            for within in HORIZONS_SECONDS
        ]
        row = {
            "kind": "knowing",
            "attack": attack.name,
            "gop_s": gop_seconds,
            "bursts": round(share, 4),
            "runs": runs,
            "sizes_show": shows,
            "spikes_blind": blind,
            "curve": [
                _share_within(delays, step * CURVE_STEP_SECONDS)
                for step in range(round(HORIZONS_SECONDS[-1] / CURVE_STEP_SECONDS) + 1)
            ],
        }
        for within, chance in zip(HORIZONS_SECONDS, planned, strict=True):
            row[f"found_in_{within:g}_s"] = _share_within(delays, within)
            row[f"planned_in_{within:g}_s"] = chance
        rows.append({**row, **_cost(looped, settings, seed, CPU_SECONDS)})
    return rows


def found_after(looped: LoopedClip, settings: SamplingSettings, runs: int, seed: int) -> tuple[list[float], float]:
    """Return how long after it appeared the target was found in each run, and the share of packets of a blind stream.

    Not found is inf; blind is blind to spikes. The moments at which the target appears lie evenly over one block of
    GOPs, so that each place in one is as likely.
    """
    gop_seconds = looped.clip.gop / RATE
    block_seconds = gop_seconds * max(1, round(1 / settings.burst_share)) if settings.burst_share else 20.0
    delays, blind, packets = [], 0, 0
    draw = random.Random(f"{looped.clip.hiding} {looped.clip.control} {settings} {seed}")
    for number in range(runs):
        joined_at = draw.choice(looped.keyframes)
        settled_at = joined_at / RATE + SETTLED_GOPS * gop_seconds
        appears_at = settled_at + block_seconds * (number + draw.random()) / runs
        run = Watching(looped, settings, draw.getrandbits(64), joined_at=joined_at, target_from_seconds=appears_at)
        sighting = run.run_to(appears_at + HORIZONS_SECONDS[-1])
        delays.append(float("inf") if sighting is None else sighting.at - appears_at)
        blind += run.spikes_blind
        packets += run.packets
    return delays, blind / packets


def moment_row(hiding: Hiding, share: float, runs: int, seed: int) -> dict[str, Any]:
    """The target is shown again and again for moments, with usual rate control and keyframes each 2 s."""
    looped = LoopedClip(replace(Knowing(hiding, Control.ABR, 60).clip(), target=secret))
    settings = replace(as_shipped(), burst_share=share)
    delays, _ = found_after(looped, settings, runs, seed)
    found = {f"found_in_{within:g}_s": _share_within(delays, within) for within in (5.0, *HORIZONS_SECONDS)}
    return {
        "kind": "moments",
        "hidden": hiding.value,
        "bursts": round(share, 4),
        "runs": runs,
        **found,
        **control_fields(looped, seed),
        **_cost(looped, settings, seed, CPU_SECONDS / 4),
    }


def control_row(seed: int) -> dict[str, Any]:
    """Something between keyframes that are a second apart: what those alone find, and a look at each whole second."""
    looped = LoopedClip(Knowing(Hiding.BETWEEN_KEYFRAMES, Control.ONE_FRAME, RATE).clip())
    return {"kind": "control", "hidden": Hiding.BETWEEN_KEYFRAMES.value, "gop_s": 1.0, **control_fields(looped, seed)}


def control_fields(looped: LoopedClip, seed: int) -> dict[str, Any]:
    """How often keyframes alone, and a look at each whole second, find the target in one round of a clip."""
    shown = looped.shown()
    run = Watching(looped, keyframes_only(as_shipped()), seed)
    run.run_to(looped.seconds)
    return {
        "frames_with_target": sum(shown) / len(shown),
        "found_by_keyframes_alone": len(run.sightings),
        "found_by_whole_seconds": sum(shown[::RATE]),
    }


def _share_within(delays: Sequence[float], seconds: float) -> float:
    return sum(delay <= seconds for delay in delays) / len(delays)


def _cost(looped: LoopedClip, settings: SamplingSettings, seed: int, seconds: float) -> dict[str, float]:
    """CPU ms for each second of the stream, and how many times as much as keyframes alone take."""
    taken = cpu_seconds(looped, settings, seconds, seed)
    bare = cpu_seconds(looped, keyframes_only(settings), seconds, seed)
    return {"cpu_ms_per_s": 1e3 * taken / seconds, "times_keyframes_only": taken / bare}

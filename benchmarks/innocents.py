"""Two hours of streams that nobody should be cut from: benign clips, looped, on a clock that is only counted.

Every clip is one stream that shows it over and over; a frame of each second, at a random instant of it, goes through
the real pixels, views, hashes, banks and models, and the shipped rules judge it in its order. All banks and classes
stand at step cut and enforcement is live: the harshest that shipped thresholds allow. The bank holds benign pictures of
other packages, as `hashes add` stores them, and nothing of the clips. What was looked at once is not looked at again
when the loop comes back to it: without a stream's history an inspection is a function of the frame alone.
"""

import io
import random
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np

from benchmarks.accuracy_material import load, read_picture
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from detector import sample_clip
from detector.config.config import Config
from detector.config.sections import ClassSection
from detector.events import Observation, Step
from detector.policy import BankRule, ClassRule, History, PolicySettings, decide
from models.bank_store import add_entries, open_bank
from models.classifier import Classifier
from models.evidence import Inspection
from models.inspector import Inspector
from models.manifest import load_manifest
from models.manifest_yaml import ManifestError
from models.picture_rows import picture_rows
from streams.decoder import PixelReader

_HOURS: Final = 2.0
_BANK: Final = "BENIGN_PICTURES"
_MODELS: Final = ("standin-cards", "opennsfw")
_HARMLESS: Final = frozenset({"sfw", "other"})
_QUICK_PICTURES: Final = 120
_QUICK_STEP_SECONDS: Final = 1.0
_FULL_STEP_SECONDS: Final = 0.25
_LONGEST_SECONDS: Final = 90.0
_MOST_STILLS: Final = 600


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one clip with their times in it; `seconds` is how long it lasts."""

    name: str
    seconds: float
    shown: Sequence[tuple[float, Inspection]]


@dataclass(slots=True)
class Outcome:
    """What came of it, by stream where it is told so."""

    seconds: float = 0.0
    judged: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    reviews: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    highest: dict[str, float] = field(default_factory=dict)


def measure(options: Options) -> Report:
    """Judge two hours; a quick run looks at fewer frames of each clip and at a shorter list, for as many hours."""
    material = load()
    pictures = [*material.known, *material.unrelated][: _QUICK_PICTURES if options.is_quick else _MOST_STILLS]
    models, missing = _models()
    settings: dict[str, Any] = {
        "hours": _HOURS,
        "clips": [*(path.name for path in material.clips), "made: detector.sample_clip"],
        "looped": True,
        "frame_every_seconds": _QUICK_STEP_SECONDS if options.is_quick else _FULL_STEP_SECONDS,
        "bank": f"{len(pictures)} benign pictures ({material.said['material']}), none of them in a clip",
        "models": [model.name for model in models],
        "missing_models": missing,
        "rules": "shipped thresholds, every bank and class at step cut, live",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("innocents", settings)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="stopframe-innocents-") as scratch:
        rows = _fill(Path(scratch) / _BANK, pictures)
        inspector = Inspector(clock=time.thread_time, banks=[open_bank(Path(scratch) / _BANK)], classifiers=models)
        sources = [*material.clips, None]
        clips = [_looked_at(path, settings["frame_every_seconds"], inspector) for path in sources]
    outcome = judged([clip for clip in clips if clip.shown], rules(models), _HOURS * 3600.0, options.seed)
    settings["bank_rows"] = rows
    results = [
        {
            "stream": clip.name,
            "clip_s": clip.seconds,
            "frames": len(clip.shown),
            "cuts": outcome.cuts[clip.name],
            "reviews": outcome.reviews[clip.name],
        }
        for clip in clips
    ]
    results.append({"highest_scores": outcome.highest, "signals": dict(outcome.by)})
    return Report("innocents", settings, results, _checks(outcome, missing))


def rules(models: Sequence[Classifier]) -> PolicySettings:
    """The shipped thresholds and quorum, with everything that may cut at step cut."""
    config, section = Config(), ClassSection()
    labels = [(model.name, label) for model in models for label in model.manifest.model_info.labels]
    labels = [one for one in labels if one[1] not in _HARMLESS]
    return PolicySettings(
        banks={_BANK: BankRule(step=Step.CUT)},
        classes={f"{name}/{label}": ClassRule(Step.CUT, section.review, section.cut) for name, label in labels},
        votes_k=config.votes.k,
        votes_of=config.votes.of,
        live=True,
    )


def judged(clips: Sequence[Frames], policy: PolicySettings, seconds: float, seed: int) -> Outcome:
    """Show each clip over and over for its part of `seconds`; a stream that is cut begins anew, without votes."""
    outcome, draw = Outcome(), random.Random(seed)
    for clip in clips:
        history, share = History(), seconds / len(clips)
        times = [shown_at for shown_at, _ in clip.shown]
        for second in range(round(share)):
            at = second + draw.random()
            # The frame that is shown then: no two seconds of a round have the same one.
            inspection = clip.shown[bisect_right(times, at % clip.seconds) - 1][1]
            observation = Observation(
                clip.name, clip.name, second, "interval", at, at, at, at, is_corrupt=False, inspection=inspection
            )
            history, verdict = decide(policy, history, observation)
            outcome.judged += 1
            for score in inspection.scores:
                name = f"{score.model}/{score.label}"
                outcome.highest[name] = max(outcome.highest.get(name, 0.0), score.score)
            for signal in verdict.signals:
                outcome.by[f"{signal.source} {signal.step.word}"] += 1
            if verdict.action is Step.CUT:
                outcome.cuts[clip.name] += 1
                history = History()
            elif verdict.action is Step.REVIEW:
                outcome.reviews[clip.name] += 1
        outcome.seconds += round(share)
    return outcome


def _models() -> tuple[list[Classifier], list[str]]:
    found: list[Classifier] = []
    missing: list[str] = []
    for name in _MODELS:
        try:
            found.append(Classifier(load_manifest(name)))
        except (ManifestError, OSError) as error:
            missing.append(f"{name}: {error}")
    return found, missing


def _fill(folder: Path, pictures: Sequence[Path]) -> int:
    """Store pictures as `hashes add` does; how many rows that are."""
    reader, count = PixelReader(), 0
    hashes, seconds, windows, names = [], [], [], []
    for number, path in enumerate(pictures):
        rgb = np.ascontiguousarray(read_picture(path)[:, :, ::-1])
        pixels = reader.pixels(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p"))
        rows = picture_rows(pixels.plane, pixels.picture, rgb.shape[1], rgb.shape[0], is_video=False)
        hashes.append(rows.hashes)
        seconds.append(rows.seconds)
        windows.append(rows.is_window)
        names += [f"picture-{number}"] * len(rows)
        count += len(rows)
    add_entries(
        folder,
        np.concatenate(hashes),
        names,
        seconds=np.concatenate(seconds),
        has_second=np.ones(count, np.bool_),
        is_window=np.concatenate(windows),
    )
    return count


def _looked_at(path: Path | None, step_seconds: float, inspector: Inspector) -> Frames:
    """Inspect the frames of a clip."""
    reader = PixelReader()
    shown = []
    for at, frame in _frames(path, step_seconds):
        pixels = reader.pixels(frame)
        looked = inspector.inspect(pixels.plane.tobytes(), pixels.picture.tobytes(), frame.width, frame.height)
        shown.append((at, looked))
    seconds = shown[-1][0] + step_seconds if shown else 0.0
    return Frames("made: detector.sample_clip" if path is None else path.name, seconds, shown)


def _frames(path: Path | None, step_seconds: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames so far apart, from 0 on."""
    source = io.BytesIO(sample_clip.clip(640, 360, 15, 1.0, 8.0)) if path is None else str(path)
    due = 0.0
    with av.open(source, "r") as container:
        stream = container.streams.video[0]
        rate = min(float(stream.average_rate or 25), 60.0)  # some files say nonsense about their times
        for number, frame in enumerate(container.decode(stream)):
            at = number / rate
            if at > _LONGEST_SECONDS:
                return
            if at + 1e-6 >= due:
                due += step_seconds
                yield at, frame.reformat(format="yuv420p")


def _checks(outcome: Outcome, missing: Sequence[str]) -> list[Check]:
    checks = [
        at_most("innocent streams cut", float(sum(outcome.cuts.values())), "cuts", 0.0),
        at_least("stream time judged", outcome.seconds / 3600.0, "h", _HOURS - 0.01),
    ]
    return checks + [not_measured("a model took part", "", 1.0, why) for why in missing]

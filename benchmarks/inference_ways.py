"""One way to run one model, in a process of its own: `python -m benchmarks.inference_ways MODEL WAY`.

A process for each way, so that the CPU time of all its threads and its memory are its own. Each line on stdin is a JSON
object of `Errand`; stdout carries a JSON object for each, after one with what loading took.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.inference_pictures import Picture, PicturesMissing, pictures, squeezed
from benchmarks.processes import pss_bytes
from detector.memory import return_freed
from models.classifier import Classifier, ModelError, StopSwitch
from models.frame_shape import PICTURE_SIDE
from models.manifest import Manifest, load_manifest, read_model
from models.manifest_yaml import ManifestError
from models.preprocess import Preprocessor
from models.providers import ProviderUnavailable

BARE: Final = "bare session"
"""ONNX Runtime alone on a tensor that is there already, with the options that Stopframe sets."""
PLAIN: Final = "onnxruntime's defaults"
"""The same without any option: a thread for each core, which wait by spinning."""

_ROOT: Final = Path(__file__).resolve().parents[1]


class WayMissing(Exception):
    """Raised by `WayProcess.wait_ready`: the model cannot be run in this way here. One sentence."""


@dataclass(frozen=True, slots=True)
class Errand:
    """Score `frames` pictures, waiting `gap_seconds` after each; with `wants_scores`, every picture once instead."""

    frames: int = 0
    gap_seconds: float = 0.0
    wants_scores: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """CPU milliseconds for each frame and in each gap, of all threads; memory; scores by picture in labels' order."""

    frame_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    pss_bytes: int | None = None
    scores: list[list[float]] = field(default_factory=list)


class WayProcess:
    """`with WayProcess(model, way) as process`: begins to load. `wait_ready` comes before the first errand."""

    def __init__(self, model: str, way: str, label: str = "") -> None:
        self.model, self.way = model, way
        self.label = label or way
        self.load_seconds = 0.0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.inference_ways", self.model, self.way],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def wait_ready(self) -> None:
        """Wait until it is loaded; raises `WayMissing` where it cannot be run."""
        hello = self._read()
        if "missing" in hello:
            raise WayMissing(hello["missing"])
        self.load_seconds = hello["load_seconds"]

    def go(self, errand: Errand) -> Answer:
        """Go on one errand."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(errand)) + "\n")
        self._process.stdin.flush()
        return Answer(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WayMissing(f"the process that ran {self.model} as {self.way} ended")
        found: dict[str, Any] = json.loads(line)
        return found


Score = Callable[[Picture], Sequence[float]]


def _made(manifest: Manifest, way: str) -> Score:
    if way in (BARE, PLAIN):
        return _session(manifest, StopSwitch().session_options if way == BARE else onnxruntime.SessionOptions())
    classifier = Classifier(manifest, provider=way)
    return lambda picture: list(classifier.score(picture, PICTURE_SIDE, PICTURE_SIDE).values())


def _session(manifest: Manifest, options: Any) -> Score:
    """The session alone; its tensor is made beforehand, out of the measured time."""
    session = onnxruntime.InferenceSession(read_model(manifest), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    preprocessor = Preprocessor(manifest.model_info)
    tensors: dict[int, NDArray[Any]] = {}

    def score(picture: Picture) -> Sequence[float]:
        if id(picture) not in tensors:
            tensors[id(picture)] = preprocessor.fill(picture, PICTURE_SIDE, PICTURE_SIDE).copy()
        return [float(value) for value in session.run(None, {name: tensors[id(picture)]})[0][0].ravel()]

    return score


def _shown() -> list[Picture]:
    try:
        return [squeezed(picture, PICTURE_SIDE, PICTURE_SIDE) for picture in pictures().values()]
    except PicturesMissing:
        draw = np.random.default_rng(1)
        return [draw.integers(0, 256, (PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8) for _ in range(8)]


def _answer(errand: Errand, score: Score, shown: Sequence[Picture]) -> Answer:
    if errand.wants_scores:
        return Answer(scores=[list(score(picture)) for picture in shown])
    frame_ms, gap_ms = [], []
    for number in range(errand.frames):
        picture = shown[number % len(shown)]
        began = time.process_time()
        score(picture)
        ended = time.process_time()
        frame_ms.append(1000 * (ended - began))
        if errand.gap_seconds:
            time.sleep(errand.gap_seconds)
            gap_ms.append(1000 * (time.process_time() - ended))
    return Answer(frame_ms, gap_ms, pss_bytes(os.getpid()))


def main() -> int:
    """Serve errands until stdin ends."""
    model, way = sys.argv[1:]
    shown = _shown()
    before = time.perf_counter()
    try:
        score = _made(load_manifest(model), way)
    except (ManifestError, ModelError, ProviderUnavailable) as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return 0
    loaded = time.perf_counter()
    for picture in shown:
        score(picture)  # tensors and whatever else is made once
    return_freed()
    print(json.dumps({"load_seconds": loaded - before}), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(_answer(Errand(**json.loads(line)), score, shown))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

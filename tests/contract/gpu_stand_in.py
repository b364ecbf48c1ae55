"""The GPU's process without a GPU: the processor scores, and a batch takes as long as its cost model says.

The real keeper forks it and the real cage holds it; only what finds and opens a model is another.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.analysis.gpu_link import Look
from detector.analysis.gpu_process import serve
from detector.analysis.gpu_worker import ScoresMany
from detector.analysis.model_loading import ModelFound
from models.classifier import Classifier, read_content
from models.manifest import load_manifest
from models.providers import Provider

STAND_IN = Provider("cuda", "CPUExecutionProvider", "fp32")
"""A GPU's provider by name, the processor by what runs it."""

FIXED_SECONDS, PICTURE_SECONDS = 0.02, 0.0005


class Costly:
    """A classifier whose batches take a fixed time and one for each picture. A deadly one ends at white or black."""

    largest_batch = 8

    def __init__(
        self, classifier: Classifier, fixed_seconds: float = FIXED_SECONDS, *, is_deadly: bool = False
    ) -> None:
        self.labels = classifier.labels
        self._classifier = classifier
        self._fixed_seconds = fixed_seconds
        self._is_deadly = is_deadly

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        """As `models.classifier.Classifier.score_many`."""
        levels = {int(picture.min()) for picture, _, _ in looks if picture.min() == picture.max()}
        if self._is_deadly and 255 in levels:
            os._exit(9)
        if self._is_deadly and 0 in levels:
            time.sleep(3600)
        until = time.monotonic() + self._fixed_seconds + PICTURE_SECONDS * len(looks)
        found = [scores for look in looks for scores in self._classifier.score_many([look])]
        time.sleep(max(0.0, until - time.monotonic()))
        return found


def find(source: str, provider: str) -> ModelFound:
    """The model, to be run by the stand-in."""
    assert provider == "cuda"
    return ModelFound(read_content(load_manifest(source)), STAND_IN)


def _costly(found: ModelFound, *, is_deadly: bool = False) -> ScoresMany:
    return Costly(Classifier(found.content, provider=found.provider), is_deadly=is_deadly)


def main(fd: int) -> None:
    """Batches of 20 ms and more."""
    serve(fd, find, _costly)


def one_by_one(fd: int) -> None:
    """A tenth of a second and more for each picture, and no two together."""
    serve(fd, find, lambda found: _Single(Classifier(found.content, provider=found.provider), 0.15))


class _Single(Costly):
    largest_batch = 1


def deadly(fd: int) -> None:
    """Ends at a white picture, and never comes back from a black one."""
    serve(fd, find, lambda found: _costly(found, is_deadly=True))


def intruder(fd: int) -> None:
    """Tries what somebody would who took the caged process over, and tells by its scores what went."""
    serve(fd, find, lambda found: _Intruder(Classifier(found.content, provider=found.provider)))


class _Intruder(Costly):
    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        """Scores of 1 for each thing that it could do: the labels' order is that of the tries."""
        tries = (_reads, _writes, _connects, _starts)
        return [{label: float(goes()) for label, goes in zip(self.labels, tries, strict=True)} for _ in looks]


def _reads() -> bool:
    return _goes(lambda: Path("/etc/passwd").read_bytes())


def _writes() -> bool:
    return _goes(lambda: Path("/tmp/stopframe-intruder").write_bytes(b"x"))


def _connects() -> bool:
    return _goes(lambda: socket.socket(socket.AF_UNIX))


def _starts() -> bool:
    return _goes(os.fork)


def _goes(what: Callable[[], object]) -> bool:
    try:
        what()
    except OSError:
        return False
    return True

"""The process that tries a model with one provider: caged like an analysis process, and gone afterwards.

`python -m detector.analysis.provider_trial REFERENCE PROVIDER SANDBOX`: one line of JSON comes out.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.analysis.model_loading import LOAD_SECONDS, find_model, open_classifier
from models.classifier import Classifier, ModelContent, ModelError
from models.manifest_yaml import ManifestError
from models.preprocess import PICTURE_SIDE
from models.providers import ProviderUnavailable
from models.trial import Trial, runs_within
from streams.job import SandboxMode
from streams.sandbox import CagePolicy, SandboxUnavailable, enter

BUDGET_SECONDS: Final = 0.5
"""How long a model runs with each provider, beside loading."""

MEMORY_LIMIT_BYTES: Final = 8 << 30

_PROCESS_SECONDS: Final = 2 * LOAD_SECONDS
_OPEN_FILES: Final = 256
_MOST_TOLD: Final = 1 << 20


def try_here(reference: str, provider: str, sandbox: SandboxMode, budget_seconds: float = BUDGET_SECONDS) -> Trial:
    """Run a model with a provider in this process, which goes into the cage for good, but for a GPU's sake."""
    try:
        found = find_model(reference, provider=provider)
        pictures = trial_pictures(found.content)
        if not found.provider.is_gpu:
            enter(CagePolicy(None, found.provider.readable_paths, MEMORY_LIMIT_BYTES, _OPEN_FILES, sandbox))
        # A GPU's runtime reserves more address space than the machine has memory.
        limit = 1 << 46 if found.provider.is_gpu else MEMORY_LIMIT_BYTES
        classifier = open_classifier(found, memory_limit_bytes=limit)
        return replace(measure(classifier, pictures, budget_seconds), provider=provider)
    except (ManifestError, ModelError, ProviderUnavailable, SandboxUnavailable) as error:
        return Trial(provider, refused=str(error)[:400])


def measure(classifier: Classifier, pictures: list[NDArray[np.uint8]], budget_seconds: float = BUDGET_SECONDS) -> Trial:
    """What a picture costs here with the provider of a classifier, and the scores of these pictures."""
    provider = classifier.provider
    clock = time.perf_counter if provider.is_gpu else time.process_time
    scores = tuple(classifier.score(picture, PICTURE_SIDE, PICTURE_SIDE) for picture in pictures)
    runs = runs_within(budget_seconds, _timed(classifier, pictures[0], clock))
    spent = min(_timed(classifier, pictures[0], clock) for _ in range(runs))
    return Trial(provider.name, provider.precision, spent, scores)


def _timed(classifier: Classifier, picture: NDArray[np.uint8], clock: Any) -> float:
    begun = clock()
    classifier.score(picture, PICTURE_SIDE, PICTURE_SIDE)
    return float(clock() - begun)


def trial_pictures(content: ModelContent) -> list[NDArray[np.uint8]]:
    """The model's check picture, where it has one, then soft patches of colour: the same at each trial."""
    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    soft = [cv2.resize(one, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_CUBIC) for one in patches]
    check = [] if content.check_picture is None else [content.check_picture]
    return [*check, *(np.asarray(one, np.uint8) for one in soft)]


@contextmanager
def _standard_output_alone() -> Iterator[int]:
    """Standard output for the answer, and for nothing that a library prints."""
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        yield answer
    finally:
        os.close(answer)


def main() -> None:
    """Be the process of one trial."""
    reference, provider, sandbox = sys.argv[1:4]
    cv2.setNumThreads(1)
    with _standard_output_alone() as answer:
        trial = try_here(reference, provider, SandboxMode(sandbox))
        os.write(answer, json.dumps(asdict(trial)).encode())
        os._exit(0)  # no runtime gets to tidy up in a cage that may refuse it what it needs for that


if __name__ == "__main__":
    main()

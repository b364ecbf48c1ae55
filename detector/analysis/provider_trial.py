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

from detector.analysis.gpu_curve import batch_curve
from detector.analysis.gpu_process import enter_gpu_cage, open_on_gpu
from detector.analysis.model_loading import LOAD_SECONDS, find_model, open_classifier
from detector.analysis.provider_pictures import trial_pictures
from models.classifier import Classifier, ModelError
from models.frame_shape import PICTURE_SIDE
from models.manifest_yaml import ManifestError
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
    """Run a model with a provider in this process, which goes into the cage for good; for a GPU into the wider one."""
    try:
        found = find_model(reference, provider=provider)
        if found.provider.is_gpu:
            enter_gpu_cage((), sandbox)
            classifier = open_on_gpu(found)
        else:
            enter(CagePolicy(None, found.provider.readable_paths, MEMORY_LIMIT_BYTES, _OPEN_FILES, sandbox))
            classifier = open_classifier(found, memory_limit_bytes=MEMORY_LIMIT_BYTES)
        pictures = trial_pictures(found.content)  # decodes what may be anybody's: in the cage, like the model
        return replace(measure(classifier, pictures, budget_seconds), provider=provider)
    except (ManifestError, ModelError, ProviderUnavailable, SandboxUnavailable) as error:
        return Trial(provider, refused=str(error)[:400])


def measure(classifier: Classifier, pictures: list[NDArray[np.uint8]], budget_seconds: float = BUDGET_SECONDS) -> Trial:
    """What a picture costs here with the provider of a classifier, and the scores of these pictures.

    On a GPU it is its share of the batch that is best, timed as the process that owns the GPU times them.
    """
    provider, clock = classifier.provider, time.process_time
    scores = tuple(classifier.score(picture, PICTURE_SIDE, PICTURE_SIDE) for picture in pictures)
    if provider.is_gpu:
        curve = batch_curve(classifier, pictures, clock=time.perf_counter, budget_seconds=budget_seconds / 4)
        spent = min(seconds / size for size, seconds in curve.items())
        return Trial(provider.name, provider.precision, spent, scores)
    runs = runs_within(budget_seconds, _timed(classifier, pictures[0], clock))
    spent = min(_timed(classifier, pictures[0], clock) for _ in range(runs))
    return Trial(provider.name, provider.precision, spent, scores)


def _timed(classifier: Classifier, picture: NDArray[np.uint8], clock: Any) -> float:
    begun = clock()
    classifier.score(picture, PICTURE_SIDE, PICTURE_SIDE)
    return float(clock() - begun)


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

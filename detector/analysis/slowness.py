"""A model that takes longer than it does, for rehearsals; and how an analysis process is told."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.asking import Scorer


@dataclass(frozen=True, slots=True)
class Slowness:
    """Each score comes `seconds` later, while the monotonic clock shows `begins_at` or more and less than `ends_at`."""

    seconds: float
    begins_at: float
    ends_at: float


def slowed(scorer: Scorer, slowness: Mapping[str, float]) -> Scorer:
    """Return the classifier, slow if the setup of its process says so (the fields of `Slowness`)."""
    return SlowScorer(scorer, Slowness(**slowness)) if slowness else scorer


class SlowScorer:
    """A classifier that answers late. It waits inside its own step, so that a hang is blamed on the model."""

    def __init__(self, scorer: Scorer, slowness: Slowness) -> None:
        self.name = scorer.name
        self.sha256 = scorer.sha256
        self.provider = getattr(scorer, "provider", None)
        self.wants_shape = bool(getattr(scorer, "wants_shape", False))
        self._scorer = scorer
        self._slowness = slowness

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """As `models.asking.Scorer.score`."""
        scores = self._scorer.score(picture, width, height)
        if self._slowness.begins_at <= time.monotonic() < self._slowness.ends_at:
            time.sleep(self._slowness.seconds)
        return scores

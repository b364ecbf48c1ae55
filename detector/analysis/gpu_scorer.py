"""An analysis process's classifier whose work the GPU's process does, and the processor while that is away or late."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.analysis.gpu_link import GpuLink
from models.classifier import ModelFailed
from models.providers import Provider

_SMOOTHING: Final = 0.9
_GRACE_SECONDS: Final = 0.1
_STAGE: Final = b"gpu:"


class StandsIn(Protocol):
    """The classifier that takes over while the GPU is away."""

    @property
    def provider(self) -> Provider:
        """What runs it."""
        ...

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """As `models.asking.Scorer.score`."""
        ...


@dataclass(frozen=True, slots=True)
class GpuModel:
    """What an analysis process knows of a model that runs on the GPU."""

    name: str
    sha256: str
    labels: tuple[str, ...]
    place: int
    provider: Provider
    wants_shape: bool = False


class GpuScorer:
    """A classifier whose work the GPU's process does, and the processor while that is away or late. For one thread.

    `provider` is what ran the last picture.
    """

    def __init__(
        self,
        link: GpuLink,
        model: GpuModel,
        stand_in: StandsIn | None,
        *,
        stand_in_seconds: float = 0.0,
        announce: Callable[[bytes], object] = bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.sha256, self.labels = model.name, model.sha256, model.labels
        self.provider = model.provider
        self.wants_shape = model.wants_shape
        self._link = link
        self._model = model
        self._stand_in = stand_in
        self._stand_in_seconds = stand_in_seconds
        self._announce = announce
        self._clock = clock

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """As `models.asking.Scorer.score`.

        The processor begins by the frame's deadline, or a tenth of a second later where the frame came just before it.

        Raises:
            ModelFailed: The GPU gave no answer, and it is too late for the processor, or nothing stands in.
        """
        self._announce(_STAGE + self.name.encode())  # nobody but the GPU is to blame for what happens now
        scores = self._link.ask(self._model.place, (picture, width, height), self._stand_in_seconds)
        if scores is not None and len(scores) == len(self.labels):
            self.provider = self._model.provider
            return dict(zip(self.labels, scores, strict=True))
        if self._stand_in is None:
            raise ModelFailed(self.name, "the GPU gave no answer in time, and the processor cannot run it")
        begun_at = self._clock()
        if begun_at > self._link.deadline_at + _GRACE_SECONDS:
            raise ModelFailed(self.name, "the GPU gave no answer in time, and it is too late for the processor")
        found = self._stand_in.score(picture, width, height)
        spent = self._clock() - begun_at
        self._stand_in_seconds = _SMOOTHING * self._stand_in_seconds + (1 - _SMOOTHING) * spent
        self.provider = self._stand_in.provider
        return found

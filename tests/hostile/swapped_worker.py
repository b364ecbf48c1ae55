"""An analysis process whose models can be swapped while it runs, as spoiled memory or a bad update would do it.

The order is a file in the banks' folder, which the cage lets be read: its text names the fault.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.analysis import worker
from detector.analysis.messages import parse_setup
from models.classifier import Classifier

ORDER = "swap"


class _Swapped:
    """A session that answers as another model would."""

    def __init__(self, session: Any, order: Path) -> None:
        self._session = session
        self._order = order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: list[str], feed: dict[str, NDArray[Any]], options: Any) -> list[NDArray[Any]]:
        fault = self._order.read_text() if self._order.exists() else ""
        if fault == "channels":
            feed = {name: np.ascontiguousarray(tensor[:, ::-1]) for name, tensor in feed.items()}
        answer: list[NDArray[Any]] = self._session.run(outputs, feed, options)
        if fault == "constant":
            return [np.eye(1, one.shape[-1], dtype=one.dtype) for one in answer]
        if fault == "nan":
            return [one * np.nan for one in answer]
        if fault == "quantised":  # a scale that is wrong by far
            return [(one / 8 + 0.21875).astype(one.dtype) for one in answer]
        return answer


def main(fd: int) -> None:
    """As `detector.analysis.worker.main`, with sessions that can be swapped."""
    load = worker.open_classifier
    found = []

    def load_swappable(*arguments: Any, **options: Any) -> Classifier:
        classifier = load(*arguments, **options)
        classifier._session = _Swapped(classifier._session, Path(found[0]) / ORDER)
        return classifier

    def noted(body: memoryview) -> Any:
        setup = parse_setup(body)
        found.append(setup.banks_folder)
        return setup

    worker.open_classifier = load_swappable  # type: ignore[assignment]
    worker.messages.parse_setup = noted  # type: ignore[assignment]
    worker.main(fd)

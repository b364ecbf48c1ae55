"""What the service makes of an analysis process's answer before anybody else sees it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from models.bank_store import CANARY_BANK
from models.evidence import ClassScore, Inspection

_FRAMES = 200
_STREAMS = 5
"""So many frames, that differ, of so many streams with the very same scores are no chance."""


_INT8: Final = "int8"
_NEAR: Final = 0.01
"""Two steps of 255, which the scores of a model cut to eight bits may have."""


def is_sure(scores: Iterable[float], precision: str) -> bool:
    """Whether a model of eight bits says yes or no to each label: such scores come back bit by bit, and prove nothing.

    Others compute in numbers so fine that no two pictures get the same ones.
    """
    return precision == _INT8 and all(min(score, 1 - score) <= _NEAR for score in scores)


def without_canary(inspection: Inspection) -> Inspection:
    """The answer about a stream's frame: none can be about the canary, whatever it shows."""
    if all(match.bank != CANARY_BANK for match in inspection.matches):
        return inspection
    return replace(inspection, matches=tuple(match for match in inspection.matches if match.bank != CANARY_BANK))


@dataclass(slots=True)
class _Same:
    """One model's last scores in one process, and how often in a row they were the same."""

    scores: tuple[float, ...]
    fingerprint: bytes
    frames: int = 1
    streams: set[str] = field(default_factory=set)


class ScoreDrift:
    """Notices a model whose scores on live frames do not vary at all, whatever its self-test says."""

    def __init__(self) -> None:
        self._same: dict[tuple[int, str], _Same] = {}

    def heard(self, process: int, stream: str, inspection: Inspection) -> None:
        """Take in an answer about a stream's frame. Scores are compared bit by bit: no working model repeats them."""
        by_model: dict[str, list[ClassScore]] = {}
        for score in inspection.scores:
            by_model.setdefault(score.model, []).append(score)
        for model, found in by_model.items():
            scores = tuple(score.score for score in found)
            if is_sure(scores, found[0].precision):
                self._same.pop((process, model), None)
                continue
            self._note((process, model), scores, stream, inspection.fingerprint)

    def forget(self, process: int) -> None:
        """Another process took that one's place."""
        for key in [key for key in self._same if key[0] == process]:
            del self._same[key]

    def constant(self) -> Iterator[tuple[int, str]]:
        """The processes and models whose scores do not vary."""
        for key, same in self._same.items():
            if same.frames >= _FRAMES and len(same.streams) >= _STREAMS:
                yield key

    def problems(self) -> list[str]:
        """One sentence for each of them."""
        return [
            f"model {model} in analysis process {process} gives the same scores for every frame of every stream; "
            f"run 'stopframe models check', restore the model's file, and restart stopframe"
            for process, model in sorted(self.constant())
        ]

    def _note(self, key: tuple[int, str], scores: tuple[float, ...], stream: str, fingerprint: bytes) -> None:
        same = self._same.get(key)
        if same is None or same.scores != scores or not any(scores):  # a detector finds nothing in most frames
            self._same[key] = _Same(scores, fingerprint, streams={stream})
        elif fingerprint != same.fingerprint:  # the same picture again says nothing
            same.fingerprint = fingerprint
            same.frames += 1
            if len(same.streams) < _STREAMS:
                same.streams.add(stream)

"""Which provider is to run a model: the arithmetic of a short trial, whose runs somebody else times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LEAST_GAIN: Final = 0.1
"""So much faster than a simpler provider another must be: less is noise, and each start would choose anew."""

MOST_DRIFT: Final = 0.05
"""How far its scores may lie from the plain processor's where a manifest states no tolerance."""

_FEWEST_RUNS, _MOST_RUNS = 3, 200


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of running a model with one provider.

    `seconds` is what one picture costs: time of the processor where it computes, else time on the clock, of its share
    in the batch that is best. `shared_by` so many processes this is, that would else run the model beside each other.
    `scores` are those of the trial's pictures, one after the other. `refused` says in one sentence why there are none.
    """

    provider: str
    precision: str = ""
    seconds: float = 0.0
    scores: tuple[Mapping[str, float], ...] = ()
    refused: str = ""
    shared_by: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider that runs the model, and for each of the others why it does not."""

    provider: str
    trials: tuple[Trial, ...] = ()
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def milliseconds(self) -> dict[str, float]:
        """What a picture costs with each provider that gave scores."""
        return {trial.provider: round(trial.seconds * 1000, 2) for trial in self.trials if not trial.refused}


def choose(trials: Sequence[Trial], tolerance: float = MOST_DRIFT) -> Choice:
    """The cheapest provider whose scores stay within `tolerance` of those of the first that gave any.

    `trials` stand in the order from simple to special, the plain processor first: a special one must be cheaper by
    `LEAST_GAIN` than what was chosen before it.

    Raises:
        ValueError: No provider gave scores; the sentence of the first.
    """
    sound = [trial for trial in trials if not trial.refused]
    if not sound:
        raise ValueError(trials[0].refused if trials else "no provider was tried")
    reference, passed_over = sound[0], {trial.provider: trial.refused for trial in trials if trial.refused}
    best = reference
    for trial in sound[1:]:
        drift = largest_difference(reference.scores, trial.scores)
        if not drift <= tolerance:
            passed_over[trial.provider] = f"its scores lie {drift:.3f} from those of {reference.provider}"
        elif trial.seconds * trial.shared_by < best.seconds * best.shared_by * (1 - LEAST_GAIN):
            best = trial
    return Choice(best.provider, tuple(trials), passed_over)


def largest_difference(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> float:
    """The largest difference of a score between two runs over the same pictures; infinite where they do not fit."""
    if len(first) != len(second) or any(one.keys() != other.keys() for one, other in zip(first, second, strict=True)):
        return float("inf")
    pairs = zip(first, second, strict=True)
    return max((abs(one[label] - other[label]) for one, other in pairs for label in one), default=0.0)


def runs_within(budget_seconds: float, first_seconds: float) -> int:
    """How many runs fit into the time, after a first that took `first_seconds`: a few always, and never very many."""
    if first_seconds <= 0:
        return _MOST_RUNS
    return max(_FEWEST_RUNS, int(min(_MOST_RUNS, budget_seconds / first_seconds)))

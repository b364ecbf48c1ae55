"""What the self-test asks of each model: the scores that its maker promised, and others for other pictures."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from detector.analysis.answers import is_sure
from models.cascade import TEST, Asking
from models.evidence import ClassScore, Inspection
from models.manifest import Manifest, ParityCheck

_DRIFT: Final = 0.05
"""How far a model's scores for one picture may move while the service runs, where its manifest gives no tolerance."""

_LEAST_ALIKE: Final = 4
"""So many different pictures with the same scores speak against a model that was never seen to give others."""

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """One model as the self-test knows it: its labels, and what it must say of its manifest's picture, if there is one.

    `place` is that among all models, as `Asking` counts them; `is_detector` that it may find nothing in a picture. The
    check picture itself lies with the analysis processes: it may be anybody's, and nothing of that kind is opened here.
    """

    name: str
    labels: frozenset[str]
    place: int = 0
    check: ParityCheck | None = None
    is_detector: bool = False

    @property
    def asking(self) -> Asking:
        """Shows its check picture to this model alone."""
        return replace(TEST, rested=TEST.awake & ~(1 << self.place), shows_check=True)

    def tolerance(self, provider: str) -> float:
        """How far its scores may lie from what they should be, with that provider."""
        return _DRIFT if self.check is None else self.check.tolerance_of(provider)


@dataclass(frozen=True, slots=True)
class ModelFault:
    """What is wrong with one model in one analysis process, as a clause that goes on after its name."""

    process: int
    model: str
    what: str

    def __str__(self) -> str:
        return f"model {self.model} in analysis process {self.process} {self.what}"


def checked_models(manifests: Sequence[Manifest], order: Sequence[str]) -> tuple[CheckedModel, ...]:
    """The models of these manifests; `order` has their names as `Asking` counts them."""
    return tuple(
        CheckedModel(
            one.name,
            frozenset(one.model_info.labels),
            order.index(one.name),
            one.check,
            is_detector=one.model_info.box_head is not None,
        )
        for one in manifests
        if one.name in order
    )


class ModelChecks:
    """Judges the models' answers to the self-test's pictures, test after test.

    `models` are all that are in use.
    """

    def __init__(self, models: Collection[CheckedModel]) -> None:
        self.models = tuple(models)
        self._has_varied: set[str] = set()
        self._alike: dict[tuple[int, str], tuple[tuple[float, ...], int]] = {}
        self._first: dict[tuple[str, str], Scores] = {}

    def judge(
        self, process: int, canary: Inspection, decoy: Inspection, checks: Mapping[str, Inspection]
    ) -> Iterator[ModelFault]:
        """One process's answers about the canary, another picture, and by model about its own check picture."""
        for model in self.models:
            asked = [canary, decoy, *([checks[model.name]] if model.name in checks else [])]
            what = self._fault(process, model, asked, has_check=model.name in checks)
            if what:
                yield ModelFault(process, model.name, what)

    def _fault(self, process: int, model: CheckedModel, asked: Sequence[Inspection], *, has_check: bool) -> str:
        if any(model.name in one.failed_models or not _scores_of(model, one) for one in asked):
            return "gave no valid answer"
        answers = [{score.label: score.score for score in _scores_of(model, one)} for one in asked]
        if any(set(scores) != model.labels for scores in answers):
            return "gave an answer that does not fit its labels"
        runs_on = _scores_of(model, asked[0])[0]
        if self._is_constant(process, model, answers, runs_on.precision):
            return "answers the same to every picture"
        tolerance = model.tolerance(runs_on.provider)
        if has_check and model.check is not None:
            for label, expected in model.check.expect.items():
                found = answers[-1][label]
                if abs(found - expected) > tolerance:
                    return f"gives {label} {found:.4f} for its check picture, where {expected:g} is right"
        return self._drifted(model, _scores_of(model, asked[0]), tolerance)

    def _is_constant(self, process: int, model: CheckedModel, answers: Sequence[Scores], precision: str) -> bool:
        """Bit by bit: who computes gives other numbers for other pictures, unless these say that nothing is there."""
        vectors = [tuple(scores[label] for label in sorted(scores)) for scores in answers]
        key = (process, model.name)
        says_nothing = not any(vectors[0]) if model.is_detector else is_sure(vectors[0], precision)
        if says_nothing or any(vector != vectors[0] for vector in vectors):
            self._has_varied.update({model.name} if any(map(any, vectors)) else ())
            self._alike.pop(key, None)
            return False
        before, alike = self._alike.get(key, (vectors[0], 1))
        # Of two pictures in each test the canary is always the same one.
        alike = alike + len(vectors) - 1 if before == vectors[0] else len(vectors)
        self._alike[key] = (vectors[0], alike)
        return model.name in self._has_varied or len(vectors) > 2 or alike >= _LEAST_ALIKE

    def _drifted(self, model: CheckedModel, scores: Sequence[ClassScore], tolerance: float) -> str:
        """The canary is the same picture each time: what a model said of it at first, it must go on saying."""
        runs_on = f"{scores[0].provider} {scores[0].precision}"
        first = self._first.setdefault((model.name, runs_on), {score.label: score.score for score in scores})
        for score in scores:
            if abs(score.score - first[score.label]) > tolerance:
                return f"gives {score.label} {score.score:.4f} for a picture to which it gave {first[score.label]:.4f}"
        return ""


def told(faults: Sequence[ModelFault]) -> list[str]:
    """One sentence for each model, with the processes in which it is broken, and the remedy."""
    by_model: dict[tuple[str, str], list[int]] = {}
    for fault in faults:
        by_model.setdefault((fault.model, fault.what), []).append(fault.process)
    remedy = "run 'stopframe models check', restore the model's file, and restart stopframe"
    return [
        f"model {model} {what} in analysis process {' and '.join(map(str, processes[:8]))}: "
        f"frames go unclassified; {remedy}"
        for (model, what), processes in by_model.items()
    ]


def _scores_of(model: CheckedModel, inspection: Inspection) -> list[ClassScore]:
    return [score for score in inspection.scores if score.model == model.name]

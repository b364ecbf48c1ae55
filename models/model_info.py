"""How pixels become a model's input and its output becomes scores: the values, and the only place that checks them.

The keys are those of the OpenVINO Model API (openvinotoolkit/model_api, parameters.py), plus `center_crop`,
`jpeg_quality` and `box_head`. Whatever file a value was found in, it passes through `read_model_info`.
"""

import re
from dataclasses import dataclass
from typing import Final

from models.manifest_yaml import Section

LAYOUTS: Final = ("NCHW", "NHWC")
INPUT_DTYPES: Final = ("f32", "u8")
RESIZE_TYPES: Final = ("standard", "crop", "fit_to_window", "fit_to_window_letterbox")
INTERPOLATION_MODES: Final = ("NEAREST", "LINEAR", "CUBIC", "AREA")
MODEL_TYPES: Final = ("Classification", "Detection")
BOX_HEADS: Final = ("RT-DETR", "YOLOX")
MAX_INPUT_SIDE: Final = 2048
MAX_LABELS: Final = 3000
"""Three times those of ImageNet: an answer about a frame has a score for each, and a limit of its own."""

MAX_LABEL_LENGTH: Final = 200
MAX_NORMALISATION: Final = 1e9

_CHILD = re.compile(r"child|minor(?!it)|underage|infant|toddler|teen|kid(?:s|$|\W)|loli|shota|pa?edo", re.IGNORECASE)
_ABUSE = re.compile(r"abus|sex|porn|explo|nud|groom|entice|erot|nsfw|protection", re.IGNORECASE)
_ABBREVIATION = re.compile(
    r"(?:^|[^a-z])(?:csam|csem|csea|csai|cp|cse)(?:[^a-z]|$)|pa?edo|lolicon|shotacon", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """How pixels become the model's input and its output becomes scores.

    `reverse_input_channels` keeps the Model API's meaning, in which frames are BGR: True means that the model wants
    RGB, False that it wants BGR. Stopframe's pictures are RGB, so True hands them over as they are.
    `output_raw_scores` True means that the graph ends before its softmax (or, with `multilabel` and with boxes, its
    sigmoid) and Stopframe applies it; False means that the outputs are probabilities already. `mean_values` are
    subtracted and `scale_values` divided by, in the model's channel order, on the 0-255 scale. `center_crop` cuts a
    square of that side out of the middle after resizing to `orig_width` x `orig_height`. With `jpeg_quality` what is
    left is encoded as JPEG and decoded again, as a model wants whose makers do the same. A `Detection` model has a
    `box_head`; a label's score is then that of its best box, 0 where the best is below `confidence_threshold`.
    """

    model_type: str
    labels: tuple[str, ...]
    multilabel: bool
    output_raw_scores: bool
    layout: str
    input_dtype: str
    reverse_input_channels: bool
    resize_type: str
    orig_width: int
    orig_height: int
    center_crop: int | None
    interpolation_mode: str
    pad_value: int
    mean_values: tuple[float, float, float]
    scale_values: tuple[float, float, float]
    box_head: str | None = None
    confidence_threshold: float = 0.0
    jpeg_quality: int | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the model's input, in pixels."""
        if self.center_crop is not None:
            return self.center_crop, self.center_crop
        return self.orig_width, self.orig_height


def names_child_abuse(text: str) -> bool:
    """Whether a label or category code speaks of child abuse: no classifier may be given such a meaning.

    Known material is found by hash lists whose entries people have verified; a classifier's guess is no evidence.
    """
    return bool(_ABBREVIATION.search(text) or (_CHILD.search(text) and _ABUSE.search(text)))


CHILD_ABUSE_REMEDY: Final = (
    "a classifier never decides about child abuse; match known material against hash lists instead"
)


def read_model_info(section: Section) -> ModelInfo:
    """Read and check the section `model_info`.

    Raises:
        ManifestError: A value is missing or wrong; one sentence with the file, the key and the remedy.
    """
    model_type = section.choice("model_type", MODEL_TYPES)
    is_detection = model_type == "Detection"
    info = ModelInfo(
        model_type=model_type,
        labels=_read_labels(section),
        multilabel=section.take("multilabel", bool, False),
        output_raw_scores=section.take("output_raw_scores", bool),
        layout=section.choice("layout", LAYOUTS),
        input_dtype=section.choice("input_dtype", INPUT_DTYPES, "f32"),
        reverse_input_channels=section.take("reverse_input_channels", bool),
        resize_type=section.choice("resize_type", RESIZE_TYPES, "standard"),
        orig_width=section.whole("orig_width", 1, MAX_INPUT_SIDE),
        orig_height=section.whole("orig_height", 1, MAX_INPUT_SIDE),
        center_crop=section.whole("center_crop", 1, MAX_INPUT_SIDE) if section.has("center_crop") else None,
        interpolation_mode=section.choice("interpolation_mode", INTERPOLATION_MODES, "LINEAR"),
        pad_value=section.whole("pad_value", 0, 255, 0),
        mean_values=section.three_numbers("mean_values", 0.0),
        scale_values=section.three_numbers("scale_values", 1.0),
        box_head=section.choice("box_head", BOX_HEADS) if is_detection else None,
        confidence_threshold=section.number("confidence_threshold", 0.0, 1.0, 0.0) if is_detection else 0.0,
        jpeg_quality=section.whole("jpeg_quality", 1, 100) if section.has("jpeg_quality") else None,
    )
    for key, values in (("mean_values", info.mean_values), ("scale_values", info.scale_values)):
        if any(abs(value) > MAX_NORMALISATION for value in values):
            raise section.fault(key, f"must stay within {MAX_NORMALISATION:g}; pixels lie in 0-255")
    if any(abs(value) < 1e-6 for value in info.scale_values):
        raise section.fault("scale_values", "divides by zero; write the standard deviation of each channel, or 1")
    if info.center_crop is not None and info.center_crop > min(info.orig_width, info.orig_height):
        raise section.fault("center_crop", "is larger than orig_width x orig_height; make it smaller")
    if info.input_dtype == "u8" and (any(info.mean_values) or info.scale_values != (1.0, 1.0, 1.0)):
        raise section.fault("input_dtype", "u8 takes raw pixels; drop mean_values and scale_values, or use f32")
    section.finish()
    return info


def _read_labels(section: Section) -> tuple[str, ...]:
    labels = section.texts("labels")
    if not 1 <= len(labels) <= MAX_LABELS:
        raise section.fault("labels", f"needs 1 to {MAX_LABELS} labels, one per output of the model")
    seen = set()
    for label in labels:
        if len(label) > MAX_LABEL_LENGTH or not label.isprintable():
            shown = ascii(label[:40])
            raise section.fault("labels", f"{shown} is no label; use up to {MAX_LABEL_LENGTH} printable characters")
        if label in seen:
            raise section.fault("labels", f"names a label twice ({label!r}); every output needs a name of its own")
        seen.add(label)
        if names_child_abuse(label):
            raise section.fault("labels", f"{label!r}: {CHILD_ABUSE_REMEDY}")
    return labels


def read_categories(section: Section, labels: tuple[str, ...]) -> dict[str, str]:
    """Read and check the section `categories`: a code for some of the labels.

    Raises:
        ManifestError: A label is not known, or a code speaks of child abuse.
    """
    categories = {}
    for label in section.keys:
        if label not in labels:
            raise section.fault(label, "is no label of this model; use one of model_info.labels")
        category = section.take(label, str)
        if names_child_abuse(category):
            raise section.fault(label, f"{category}: {CHILD_ABUSE_REMEDY}")
        categories[label] = category
    section.finish()
    return categories

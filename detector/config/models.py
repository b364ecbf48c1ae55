"""The `models` section: which models look at frames, on what they run, and when each of them is asked."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import Section
from detector.config.units import Between, Duration, Share
from detector.config.values import ClassName, EmptyMeansDefault, Score, Switch, read_model


def _zoo_name(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and "/" in read_model(value, info):
        raise ValueError("is a path; write it under path")
    return value


def _path(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and "/" not in read_model(value, info):
        raise ValueError("is a name of the zoo; write it under name, or as ./NAME if it is a folder")
    return read_model(value, info)


class ModelSection(Section):
    """One model: a plain name or path, or this."""

    name: Annotated[str | None, BeforeValidator(_zoo_name)] = None
    """A name of the zoo..."""
    path: Annotated[str | None, BeforeValidator(_path)] = None
    """...or a model.yaml or its folder, a Hugging Face directory, an ONNX file or a Triton model."""
    provider: Literal["auto", "cpu", "openvino", "openvino-fp32", "cuda", "tensorrt"] = "auto"
    """What runs it; `auto` is what is fastest here of what is installed."""
    after: Annotated[dict[ClassName, Score], EmptyMeansDefault()] = Field(default_factory=dict)
    """Scores of other models, by `model/label`, from which on this one is asked: for dear models.

    On the frame that reached one and on the stream's frames of the next 10 seconds; without any, about every frame.
    """
    reuse_for: Annotated[Duration, Between("0s", "10s")] = Duration.parse("0s")
    """How long an unchanged picture keeps its scores; 0s: every frame is looked at."""
    tiles: Switch = False
    """Whether parts of frames get looks of their own: within wide borders, in grids, on suspicious streams."""
    jitter: Annotated[Share, Between("0%", "20%")] = Share.parse("0%")
    """Share of each side up to which a frame is cropped at random before the model sees it."""

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if (self.name is None) == (self.path is None):
            what = "needs name (of the zoo) or path, one of the two"
            raise refuse(Conflict((), what))
        return self

    @property
    def reference(self) -> str:
        """What `models.manifest.load_manifest` takes."""
        return self.name or self.path or ""


class _PlainOrSection:
    """A plain name or path stands for a section with nothing else in it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(_section, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def _section(value: object, info: ValidationInfo) -> object:
    if isinstance(value, dict | ModelSection):
        return value
    reference = read_model(value, info)
    return {"path" if "/" in reference else "name": reference}


ModelEntry = Annotated[ModelSection, _PlainOrSection()]

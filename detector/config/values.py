"""The kinds of value that options share: words, names, scores, and what an empty key means."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from detector.config.references import absolute_path
from detector.config.wording import listed, shown
from detector.events import Step

_MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


class EmptyMeansDefault:
    """A key with nothing behind it, as when every line below it is commented out, is at its default."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        empty: Any = source.__origin__() if hasattr(source, "__origin__") else {}
        return core_schema.no_info_before_validator_function(
            lambda value: empty if value is None else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _step(value: object) -> Step:
    """The ladder's step for its word."""
    if isinstance(value, Step):
        return value
    words = {step.word: step for step in Step}
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{shown(value)} is no step of the ladder; write {listed(words)}")
    return words[value]


def read_workers(value: object) -> int | Literal["auto"]:
    """`auto`, or a number of workers. Raises ValueError with a sentence."""
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
        raise ValueError(f"{shown(value)} is no number of workers; write auto (one per core) or 1 to 256")
    return value


def read_model(value: object, info: ValidationInfo) -> str:
    """A zoo name as it is; a path made absolute."""
    if isinstance(value, str) and re.fullmatch(_MODEL_NAME, value) and not value.endswith((".yaml", ".yml")):
        return value
    if isinstance(value, str) and value.isprintable() and ("/" in value or value.endswith((".yaml", ".yml"))):
        return str(absolute_path(value, info))
    raise ValueError(
        f"{shown(value)} is no model; write a zoo name such as standin-cards, or a path such as ./my-model"
    )


def _matching(pattern: str, example: str) -> Any:
    """A validator for text of one form."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{shown(value)} has not the right form; write such as {example}")
        return value

    return BeforeValidator(lambda value: check(value) if isinstance(value, str) else value)


Name = Annotated[str, _matching(r"[A-Za-z0-9_-]{1,64}", "lobby-1 (letters, digits, _ and -)")]
BankName = Annotated[str, _matching(r"[A-Z_][A-Z0-9_]{0,63}", "MY_BANK (capitals, digits and _)")]
ClassName = Annotated[
    str, _matching(_MODEL_NAME + r"/[^\x00-\x1f\x7f]{1,200}", "standin-cards/smptebars (the model's name / the label)")
]
Prefix = Annotated[
    str, _matching(r"(?=.{1,128}$)[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", "stopframe or acme/stopframe (no + # $)")
]
Pattern = Annotated[str, _matching(r"[^\x00-\x1f\x7f]{1,500}", '"live/new-*"')]
HostName = Annotated[str, _matching(r"[A-Za-z0-9_.-]{1,253}", "live.example.com (letters, digits, _ . -)")]
Username = Annotated[str, _matching(r"[^\x00-\x1f\x7f]{1,256}", "stopframe")]
LadderStep = Annotated[
    Step,
    PlainValidator(_step),
    PlainSerializer(lambda step: step.word, when_used="json"),
    WithJsonSchema({"enum": [step.word for step in Step]}),
]
Score = Annotated[float, Field(strict=True, ge=0, le=1)]
FilePath = Annotated[Path, BeforeValidator(absolute_path)]
"""A file that is read when it is needed, not when the config is: `check` looks at no other file."""
Switch = Annotated[bool, Field(strict=True)]

"""The `banks` section: what the matches of each bank may do, to whom, how far off, and until when they may not."""

from enum import StrEnum, unique
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import Section
from detector.config.units import Moment, Share
from detector.config.values import LadderStep, Switch
from detector.config.wording import shown
from detector.events import Step
from models.radii import WIDEST


@unique
class BankKind(StrEnum):
    """What a bank is a list of."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


def _read_distance(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= WIDEST:
        raise ValueError(f"{shown(value)} is no distance; write auto (by the list's length) or 0 to {WIDEST}")
    return value


Distance = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_distance),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": WIDEST}]}),
]


class BankSection(Section):
    """What the matches of one bank may do."""

    kind: BankKind = BankKind.POSITIVE
    """`positive`: what is looked for; `negative`: what is known to be harmless, which takes back matches of others."""
    step: LadderStep = Step.REVIEW
    """The strongest step a match may reach."""
    max_distance: Distance = "auto"
    """Bits of 256 up to which one frame may act; `auto` goes by the list's length."""
    min_quality: Annotated[int, Field(strict=True, ge=0, le=100)] = 50
    """Below this quality of the frame a match may only ask for a review."""
    ratio: Share = Share.parse("100%")
    """Part of the streams on which the bank may act, always the same ones; on the others it is at step shadow."""
    plugins_may_cut: Switch = False
    """Whether installed hashes that vouch for their matches may act as `step` says; else they ask for reviews."""
    disable_until: Moment | None = None
    """Until this time nothing of the bank matches."""

    @model_validator(mode="after")
    def _negative_banks_only_take_back(self) -> Self:
        if self.kind is BankKind.NEGATIVE and self.step > Step.REVIEW:
            what = f"is {self.step.word}, but a negative bank only takes matches back; leave step out"
            raise refuse(Conflict(("step",), what, concerns=(("kind",),)))
        return self

    @property
    def disabled_until_seconds(self) -> float | None:
        """`disable_until` in Unix seconds."""
        return None if self.disable_until is None else self.disable_until.unix_seconds

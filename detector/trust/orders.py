"""What a command's arguments are, and what it does: the same as the control socket's commands, by the same code."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detector.api.control import HINT_WORD
from detector.api.view import (
    CutReport,
    HintReport,
    HintRequest,
    NoSuchIncident,
    NoSuchStream,
    NotNow,
    UndoReport,
    ViewError,
)
from detector.events import CutState
from detector.hints import LONGEST_SECONDS
from detector.overrides import CLOSEST_SECONDS, TooManyOverrides
from detector.overrides import LONGEST_SECONDS as LONGEST_OVERRIDE_SECONDS
from detector.trust.messages import CommandName, Result

Stream = Annotated[str, Field(pattern=r"^[A-Z2-7]{26}$")]
"""The whole id: a command that is written down somewhere must not mean another stream later."""

Incident = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]

_SEEN_AT_LONGEST: Final = 600.0


class Actor(Protocol):
    """The running service as commands see it."""

    async def cut(self, stream: str) -> CutReport:
        """As `ServiceView.cut`."""

    async def undo(self, incident: str) -> UndoReport:
        """As `ServiceView.undo`."""

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        """As `ServiceView.hint`."""

    def sample_closer(self, stream: str, detect_within_seconds: float, lasts_seconds: float) -> None:
        """Look at a live stream more closely for a while; raise `NoSuchStream` or `TooManyOverrides`."""


@runtime_checkable
class CutsForIncidents(Protocol):
    """An actor that cuts for a service, under the incident which that service has."""

    async def cut_for(self, stream: str, incident: str) -> CutReport:
        """As `Actor.cut`; an undo of the incident restores it."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class CutArguments(_Arguments):
    """Cut a live stream; `incident` is what an undo will name, where the sender has one."""

    stream: Stream
    incident: Incident | None = None


class UndoArguments(_Arguments):
    """Take back what an incident did."""

    incident: Incident


class HintArguments(_Arguments):
    """Have a live stream looked at more closely: somebody's word that it deserves it."""

    stream: Stream
    score: float = Field(ge=0.0, le=1.0)
    source: str = Field(pattern=HINT_WORD)
    reason: str = Field(pattern=HINT_WORD)
    lasts_s: float = Field(gt=0.0, le=LONGEST_SECONDS)


class SamplingArguments(_Arguments):
    """Have what a live stream shows for so long be seen, for a while."""

    stream: Stream
    detect_within_s: float = Field(ge=CLOSEST_SECONDS, le=_SEEN_AT_LONGEST)
    lasts_s: float = Field(gt=0.0, le=LONGEST_OVERRIDE_SECONDS)


ARGUMENTS: Final[Mapping[CommandName, type[_Arguments]]] = {
    CommandName.CUT: CutArguments,
    CommandName.UNDO: UndoArguments,
    CommandName.HINT: HintArguments,
    CommandName.SAMPLING: SamplingArguments,
}

_CUT_RESULTS: Final = {
    CutState.CONFIRMED: Result.DONE,
    CutState.NONE: Result.REFUSED,
}


async def obey(actor: Actor, command: CommandName, arguments: Mapping[str, Any]) -> tuple[Result, str]:
    """Do what a believed command says; returns what became of it and one word about it."""
    try:
        asked = ARGUMENTS[command].model_validate(dict(arguments))
    except ValidationError:
        return Result.REFUSED, "arguments"
    try:
        return await _act(actor, asked)
    except (NoSuchStream, NoSuchIncident):
        return Result.REFUSED, "not_found"
    except (NotNow, TooManyOverrides):
        return Result.REFUSED, "no_room"
    except ViewError:
        return Result.FAILED, "unavailable"


async def _act(actor: Actor, asked: _Arguments) -> tuple[Result, str]:
    if isinstance(asked, CutArguments):
        if asked.incident is None:
            report = await actor.cut(asked.stream)
        elif isinstance(actor, CutsForIncidents):
            report = await actor.cut_for(asked.stream, asked.incident)
        else:
            return Result.REFUSED, "arguments"
        return _CUT_RESULTS.get(report.cut_state, Result.FAILED), report.cut_state.value
    if isinstance(asked, UndoArguments):
        return (Result.DONE, "restored") if (await actor.undo(asked.incident)).is_restored else (Result.FAILED, "kept")
    if isinstance(asked, HintArguments):
        actor.hint(asked.stream, HintRequest(asked.score, asked.source, asked.reason, asked.lasts_s))
        return Result.DONE, "taken"
    assert isinstance(asked, SamplingArguments)
    actor.sample_closer(asked.stream, asked.detect_within_s, asked.lasts_s)
    return Result.DONE, "taken"

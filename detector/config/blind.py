"""The `blind` section: what is done about a stream that cannot be seen, for each cause."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import model_validator

from detector.blindness import NOT_TO_CUT, BlindRule, Reaction
from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import Section
from detector.config.units import Between, Duration
from detector.config.values import EmptyMeansDefault
from detector.coverage import Cause

_After = Annotated[Duration, Between("0s", "1h")]


class BlindCauseSection(Section):
    """What is done when a stream cannot be seen for one cause."""

    action: Reaction = Reaction.ALERT
    """`alert` asks people, `cut` cuts as a bank at step cut does, `ignore` only counts the time."""
    after: _After = Duration.parse("3s")
    """How long nothing may be seen until then."""


class CertainSection(BlindCauseSection):
    """What a publisher sends, known for certain as soon as it is known."""

    after: _After = Duration.parse("1s")
    """As `blind.stall.after`."""


class NoVideoSection(BlindCauseSection):
    """No video where it is looked for: known within two seconds and a half."""

    after: _After = Duration.parse("2.5s")
    """As `blind.stall.after`."""


class CrashLoopSection(BlindCauseSection):
    """A stream that is left alone because its readers crash again and again."""

    after: _After = Duration.parse("0s")
    """As `blind.stall.after`."""


class KeyframeSection(BlindCauseSection):
    """Waiting for a keyframe, or for a server that waits for one: usual at a start, for up to ten seconds."""

    after: _After = Duration.parse("12s")
    """As `blind.stall.after`."""


class ServerSection(BlindCauseSection):
    """What the ingest server or our own reader is to blame for."""

    after: _After = Duration.parse("5s")
    """As `blind.stall.after`."""


class OwnSection(BlindCauseSection):
    """What this machine is to blame for."""

    after: _After = Duration.parse("10s")
    """As `blind.stall.after`."""


class BlindSection(Section):
    """What is done about a stream that cannot be seen, and when, for each cause."""

    connecting: Annotated[KeyframeSection, EmptyMeansDefault()] = KeyframeSection()
    """No reader has the stream open yet."""
    unreachable: Annotated[ServerSection, EmptyMeansDefault()] = ServerSection()
    """The server is away, or does not let us read the stream."""
    ended: Annotated[ServerSection, EmptyMeansDefault()] = ServerSection()
    """The server ended what it sent, though the publisher is live."""
    stall: Annotated[BlindCauseSection, EmptyMeansDefault()] = BlindCauseSection()
    """No packet comes."""
    not_media: Annotated[CertainSection, EmptyMeansDefault()] = CertainSection()
    """What comes is no media that is read here."""
    codec: Annotated[CertainSection, EmptyMeansDefault()] = CertainSection()
    """A codec that is not decoded here."""
    resolution: Annotated[CertainSection, EmptyMeansDefault()] = CertainSection()
    """A picture larger than `reader.max_pixels`."""
    too_many_tracks: Annotated[CertainSection, EmptyMeansDefault()] = CertainSection()
    """More video tracks than are looked at."""
    no_video: Annotated[NoVideoSection, EmptyMeansDefault()] = NoVideoSection()
    """No video, or none any more: sound alone, or what cannot be recognised."""
    no_keyframe: Annotated[KeyframeSection, EmptyMeansDefault()] = KeyframeSection()
    """No keyframe yet."""
    keyframe_without_picture: Annotated[BlindCauseSection, EmptyMeansDefault()] = BlindCauseSection()
    """Packets that are called keyframes hold no picture, and nothing else gives one."""
    decode_errors: Annotated[BlindCauseSection, EmptyMeansDefault()] = BlindCauseSection()
    """Video that cannot be decoded."""
    memory: Annotated[BlindCauseSection, EmptyMeansDefault()] = BlindCauseSection()
    """The stream needs more than `reader.memory_limit`."""
    crash_loop: Annotated[CrashLoopSection, EmptyMeansDefault()] = CrashLoopSection()
    """Its readers crash again and again: it is left alone for `reader.quarantine`."""
    reader_failed: Annotated[ServerSection, EmptyMeansDefault()] = ServerSection()
    """Its reader crashed or hung."""
    analysis_failed: Annotated[OwnSection, EmptyMeansDefault()] = OwnSection()
    """Its frames end the processes that look at them."""
    overload: Annotated[OwnSection, EmptyMeansDefault()] = OwnSection()
    """Video comes and is not looked at in time."""

    @model_validator(mode="after")
    def _nobody_is_cut_for_our_faults(self) -> Self:
        conflicts = list(self._conflicts())
        if conflicts:
            raise refuse(*conflicts)
        return self

    def _conflicts(self) -> Iterator[Conflict]:
        for cause, why in NOT_TO_CUT.items():
            if self._of(cause).action is Reaction.CUT:
                yield Conflict((cause.value, "action"), f"is cut, but {why}; write alert or ignore")

    def rules(self) -> dict[Cause, BlindRule]:
        """The rule of every cause."""
        sections = {Cause(name): self._of(Cause(name)) for name in type(self).model_fields}
        return {cause: BlindRule(one.action, one.after.seconds) for cause, one in sections.items()}

    def _of(self, cause: Cause) -> BlindCauseSection:
        section = getattr(self, cause.value)
        assert isinstance(section, BlindCauseSection)
        return section

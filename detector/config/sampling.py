"""The `sampling` and `streams` sections: how closely streams are looked at, and who comes first when time is short."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from detector.config.crosscheck import Conflict, Location
from detector.config.identity import IdentityRule
from detector.config.sections import Section
from detector.config.units import Between, Duration, Share
from detector.config.values import EmptyMeansDefault, Pattern, Switch
from detector.cpu.rationing import Risk
from streams.sampling import SamplingMode


class SamplingSection(Section):
    """How closely streams are looked at."""

    detect_within: Annotated[Duration, Between("200ms", "10m")] = Duration.parse("3s")
    """What stays on screen this long is in at least one analysed frame, and found at most this late."""
    interval: Annotated[Duration, Between("50ms", "10m")] = Duration.parse("1s")
    """When decoding through, one frame is analysed at a random instant of each interval.

    Never longer than `detect_within`, whatever stands here.
    """
    mode: SamplingMode = SamplingMode.AUTO
    """`auto` decodes keyframes while they suffice, `keyframes` only those, `full` everything."""
    bursts: Share = Share.parse("5%")
    """Share of the GOPs that are decoded whole beyond that, at random places. Not in mode `keyframes`."""
    spikes: Switch = True
    """Whether a GOP is decoded when packet sizes show a scene change that no keyframe shows; in mode `auto`.

    With it the first frames behind a keyframe are looked at, too, now and then, at random.
    """
    closer_interval: Annotated[Duration, Between("40ms", "10s")] = Duration.parse("300ms")
    """After a weak hit the stream is decoded through and sampled this densely."""
    closer_hold: Annotated[Duration, Between("500ms", "10m")] = Duration.parse("5s")
    """How long the closer look lasts."""
    hint_interval: Annotated[Duration, Between("40ms", "10s")] = Duration.parse("200ms")
    """While a risk hint of 0.5 or more holds, the stream is decoded through and sampled this densely."""
    blind_bursts: Share = Share.parse("33%")
    """Share of the GOPs decoded whole where packet sizes could show no scene change; as far as `max_cpu` allows.

    Never less than `bursts`.
    """
    max_cpu: Annotated[Share, Between("1%", "100%")] = Share.parse("80%")
    """Share of all cores that readers, analysis and the service may take together; above it less is looked at."""
    floor: Annotated[Duration, Between("200ms", "10m")] = Duration.parse("10s")
    """However short CPU time is, each stream that is watched has a frame analysed this often."""


class SamplingOverride(Section):
    """Sampling of the streams that match; what is not written here is as under `sampling`."""

    detect_within: Annotated[Duration, Between("200ms", "10m")] | None = None
    """As `sampling.detect_within`."""
    interval: Annotated[Duration, Between("50ms", "10m")] | None = None
    """As `sampling.interval`."""
    mode: SamplingMode | None = None
    """As `sampling.mode`."""
    bursts: Share | None = None
    """As `sampling.bursts`."""
    spikes: Switch | None = None
    """As `sampling.spikes`."""
    closer_interval: Annotated[Duration, Between("40ms", "10s")] | None = None
    """As `sampling.closer_interval`."""
    closer_hold: Annotated[Duration, Between("500ms", "10m")] | None = None
    """As `sampling.closer_hold`."""
    hint_interval: Annotated[Duration, Between("40ms", "10s")] | None = None
    """As `sampling.hint_interval`."""
    blind_bursts: Share | None = None
    """As `sampling.blind_bursts`."""

    def over(self, defaults: SamplingSection) -> SamplingSection:
        """The defaults with the values that are written here in their place."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))


class StreamSection(Section):
    """Other values for some streams."""

    match: Pattern
    """Shell pattern (`* ? [abc]`) that `app/name` must match; case counts."""
    sampling: Annotated[SamplingOverride, EmptyMeansDefault()] = SamplingOverride()
    """Sampling of these streams."""
    risk: Risk = Risk.NORMAL
    """Who is looked at less closely first when CPU time is short: `low` before `normal` before `high`."""
    identity: IdentityRule | None = None
    """What names the account behind these publishers; as `identity.by` where it is not written."""


def sampling_conflicts(sampling: SamplingSection, streams: Sequence[StreamSection]) -> Iterator[Conflict]:
    """A floor below what is promised anyway: streams that are slowed would be looked at more often than the others."""
    promised: dict[str, tuple[Location, Duration]] = {
        "sampling.detect_within": (("sampling", "detect_within"), sampling.detect_within)
    }
    for place, stream in enumerate(streams):
        if stream.sampling.detect_within is not None:
            at = ("streams", place, "sampling", "detect_within")
            promised[f"streams[{place}].sampling.detect_within"] = (at, stream.sampling.detect_within)
    name, (where, longest) = max(promised.items(), key=lambda each: each[1][1])
    if sampling.floor < longest and "floor" not in sampling.model_fields_set:
        what = f"{longest} is above sampling.floor ({sampling.floor}); write sampling.floor: {longest} or more, too"
        yield Conflict(where, what, concerns=(("sampling", "floor"),))
    elif sampling.floor < longest:
        what = f"{sampling.floor} is below {name} ({longest}); write at least that"
        yield Conflict(("sampling", "floor"), what, concerns=(where,))

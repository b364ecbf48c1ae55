"""Every option there is: types, bounds and defaults. The docstrings become the JSON Schema's descriptions."""

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from detector.config.addresses import ListenAddress, SourceUrl
from detector.config.crosscheck import Conflict, refuse
from detector.config.references import Secret
from detector.config.units import Between, Duration, Moment, Share, Size
from detector.config.values import (
    EmptyMeansDefault,
    FilePath,
    LadderStep,
    Name,
    Pattern,
    Score,
    Switch,
    read_workers,
)
from detector.events import Step
from streams.job import SourceKind

_TOKEN_CHARACTERS = 16


class Section(BaseModel):
    """A group of keys. Frozen; a key that is none of its own is refused; a group left empty is at its defaults."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=True,  # by the first that is read, with all that is in it: every command waits for this module
    )


class LogSection(Section):
    """What the service logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least grave event that is logged."""
    format: Literal["auto", "console", "json"] = "auto"
    """`auto` writes for people on a terminal and JSON lines elsewhere."""


class IngestSection(Section):
    """The ingest server whose publishers are watched. Each kind has a section of its own, in its file."""

    kind: str
    """Which server it is."""

    @property
    def listens_on(self) -> ListenAddress | None:
        """Where the service itself listens for publishers; None where the server is a process of its own."""
        return None


_CARRIED = {
    SourceKind.RTMP: ("auto", "flv"),
    SourceKind.RTSP: ("auto",),
    SourceKind.UDP: ("auto", "ts"),
}


class SourceSection(Section):
    """A stream watched by its URL. Nobody can be cut there: it only raises alerts."""

    name: Name
    """What the stream is called; unique."""
    url: SourceUrl
    """Where it is read: http(s), rtmp(s), rtsp or udp. `${NAME}` keeps a key out of the file."""
    format: Literal["auto", "ts", "flv", "hls"] = "auto"
    """What comes over http: `ts` (MPEG-TS), `flv` or `hls`.

    `auto` takes flv where the URL's path ends in .flv, hls where it ends in .m3u8, else ts.
    """
    renditions: Literal["lowest", "all"] = "lowest"
    """Of an HLS playlist with several variants: look at the `lowest` that is large enough, or at `all` of them.

    `lowest` trusts that they show the same; write `all` where whoever publishes writes the playlist.
    """
    ca_file: FilePath | None = None
    """PEM file of the authority that the server's certificate must come from; without it one that the system trusts."""

    @model_validator(mode="after")
    def _keys_fit_the_url(self) -> Self:
        kind = self.url.kind
        if kind is None:  # from the environment, and the config is only checked
            return self
        carried = _CARRIED.get(kind, ("auto", "ts", "flv", "hls"))
        if self.format not in carried:
            what = f"is {self.format}, which {kind.value.upper()} does not carry; leave it out"
            raise refuse(Conflict(("format",), what, concerns=(("url",),)))
        if self.renditions == "all" and not self._may_be_hls:
            what = "is all, and only HLS offers several to choose from; write format: hls, or leave it out"
            raise refuse(Conflict(("renditions",), what, concerns=(("url",), ("format",))))
        if self.ca_file is not None and not self.url.has_tls:
            what = "is for servers that prove who they are; write https:// or rtmps:// under url, or leave it out"
            raise refuse(Conflict(("ca_file",), what, concerns=(("url",),)))
        return self

    @property
    def _may_be_hls(self) -> bool:
        try:
            return self.kind is SourceKind.HLS
        except LookupError:  # its path comes from the environment, and the config is only checked
            return True

    @property
    def kind(self) -> SourceKind:
        """How it is read. Raises LookupError as `url.reveal` does."""
        return self.url.kind_as(self.format)


class ReaderSection(Section):
    """The caged process that reads and decodes one stream."""

    memory_limit: Annotated[Size, Between("256MiB", "64GiB")] = Size.parse("2GiB")
    """Address space of one reader."""
    ring_limit: Annotated[Size, Between("1MiB", "1GiB")] = Size.parse("16MiB")
    """Packets kept since the last keyframes, per stream."""
    max_pixels: Annotated[int, Field(strict=True, ge=16_384, le=67_108_864)] = 4096 * 2304
    """Width times height above which a stream is not decoded; its tracks together may have twice that."""
    cpu_limit: Annotated[Share, Between("5%", "100%")] = Share.parse("80%")
    """Share of one core that one stream's reader may take; above it fewer of its frames are decoded."""
    open_timeout: Annotated[Duration, Between("500ms", "2m")] = Duration.parse("10s")
    """How long opening a stream may take."""
    read_timeout: Annotated[Duration, Between("500ms", "2m")] = Duration.parse("5s")
    """How long a stream may send nothing before it is opened again."""
    stall_after: Annotated[Duration, Between("200ms", "2m")] = Duration.parse("2s")
    """How long a stream may send nothing before it counts as stalled."""
    longest_pause: Annotated[Duration, Between("1s", "10m")] = Duration.parse("10s")
    """How long a source that failed again and again is left alone at most; the first try follows at once."""
    crash_limit: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    """So many crashes of its readers..."""
    crash_window: Annotated[Duration, Between("1s", "1h")] = Duration.parse("60s")
    """...within this time put a stream into quarantine: no reader is started for it."""
    quarantine: Annotated[Duration, Between("1s", "24h")] = Duration.parse("30s")
    """How long the first quarantine lasts; each further one lasts twice as long."""
    longest_quarantine: Annotated[Duration, Between("1s", "24h")] = Duration.parse("10m")
    """How long a quarantine lasts at most."""
    allow_rtsp: Switch = False
    """Whether rtsp:// sources are read. Off: RTSP brings the decoders one packet format for each codec."""

    @model_validator(mode="after")
    def _ring_fits(self) -> Self:
        if self.ring_limit.bytes * 2 > self.memory_limit.bytes:
            what = f"{self.ring_limit} is more than half of memory_limit ({self.memory_limit}); lower it"
            raise refuse(Conflict(("ring_limit",), what, concerns=(("memory_limit",),)))
        return self


def unreadable_sources(sources: Sequence[SourceSection], reader: ReaderSection) -> Iterator[Conflict]:
    """RTSP that is not allowed, and UDP addresses that two sources would listen on."""
    bound: dict[str, int] = {}
    for place, source in enumerate(sources):
        if source.url.kind is SourceKind.RTSP and not reader.allow_rtsp:
            what = "is RTSP, which is off; set reader.allow_rtsp to true after reading docs/sources.md on its risk"
            yield Conflict(("sources", place, "url"), what, concerns=(("reader",),))
        if source.url.kind is SourceKind.UDP:
            first = bound.setdefault(source.url.origin, place)
            if first != place:
                what = f"is what sources[{first}] listens on already; give each its own port"
                yield Conflict(("sources", place, "url"), what, concerns=(("sources", first, "url"),))


class AnalysisSection(Section):
    """The processes that hash, match and classify frames."""

    workers: Annotated[
        int | Literal["auto"],
        PlainValidator(read_workers),
        WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]}),
    ] = "auto"
    """`auto` is one per core."""
    deadline: Annotated[Duration, Between("50ms", "1m")] = Duration.parse("1s")
    """A frame whose analysis has not begun this long after it was decoded is dropped and counted."""
    queue: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 64
    """Frames that may wait for a worker."""
    model_timeout: Annotated[Duration, Between("10ms", "1m")] = Duration.parse("1s")
    """A worker that looks at one frame for longer is replaced."""

    @property
    def worker_count(self) -> int:
        """The number of workers, `auto` counted out for this process's cores."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


class ClassSection(Section):
    """What one class of a model may do, and from which scores on."""

    step: LadderStep = Step.REVIEW
    """The strongest step this class may reach."""
    review: Score = 0.7
    """Score from which a frame counts towards a review."""
    cut: Score = 0.9
    """Score from which a frame counts towards a cut; not below `review`."""

    @model_validator(mode="after")
    def _cut_is_the_higher(self) -> Self:
        if self.cut < self.review:
            what = f"{self.cut:g} is below review ({self.review:g}); write at least that, or lower review"
            raise refuse(Conflict(("cut",), what, concerns=(("review",),)))
        return self


class VotesSection(Section):
    """How many frames must agree before a class acts; a verified hash match acts on one."""

    k: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    """Frames over the threshold..."""
    of: Annotated[int, Field(strict=True, ge=1, le=100)] = 5
    """...among this many last ones."""

    @model_validator(mode="after")
    def _k_can_be_reached(self) -> Self:
        if self.k > self.of:
            what = f"{self.k} is more than of ({self.of}), so no class could ever act; write at most {self.of}"
            raise refuse(Conflict(("k",), what, concerns=(("of",),)))
        return self


class BreakerSection(Section):
    """How many cuts one fresh list entry or class may cause before people are asked."""

    cuts: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 5
    """Cuts in `window` that are always allowed."""
    share: Share = Share.parse("2%")
    """Share of the live streams that may be cut in `window`; the larger of the two counts."""
    window: Annotated[Duration, Between("1s", "24h")] = Duration.parse("60s")
    """The time over which cuts are counted."""
    incident_cuts: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 50
    """Cuts of re-streams that one incident may cause in all; `cuts`, `share` and `window` do not hold for them."""


class FloodSection(Section):
    """How many streams one entry of a bank may match before people are asked."""

    streams: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 20
    """Streams in `window` that one entry may always match."""
    share: Share = Share.parse("5%")
    """Share of the live streams that it may match in `window`; the larger of the two counts."""
    window: Annotated[Duration, Between("1s", "24h")] = Duration.parse("10m")
    """The time over which streams are counted."""


class IncidentBankSection(Section):
    """What was just cut is known for a while, so that who streams it again is cut, too."""

    step: LadderStep = Step.CUT
    """The strongest step of its matches, on streams that began after the incident; `off`: no frame is kept."""
    keep: Annotated[Duration, Between("1m", "30d")] = Duration.parse("24h")
    """How long the frames of an incident are known."""


class IncidentsSection(Section):
    """When what happened is one incident, and when it is over."""

    cool_down: Annotated[Duration, Between("0s", "24h")] = Duration.parse("1m")
    """An incident is over so long after its stream ended; what comes of the same account until then belongs to it."""
    updates: Annotated[int, Field(strict=True, ge=0, le=1000)] = 10
    """Updates of one incident that are sent: a stream that flaps must not fill the outbox."""


class AllowSection(Section):
    """Streams that nobody is cut from, for a while."""

    match: Pattern
    """Shell pattern (`*`, `?`, `[abc]`) that `app/name` must match; case counts."""
    until: Moment
    """Until then, and not a second longer, what would cut them asks for a review."""
    reason: Annotated[Pattern, Field(max_length=200)]
    """Why, for whoever reads it in a year; without anybody's key."""


class EnforcementSection(Section):
    """Cutting publishers."""

    live: Switch = False
    """Nothing is cut until this is true."""
    deadline: Annotated[Duration, Between("1s", "10m")] = Duration.parse("10s")
    """How long a cut may take until its failure is an alert."""
    where: Literal["local", "remote"] = "local"
    """`local`: this service cuts; `remote`: a `stopframe cutter` elsewhere does, asked by signed alerts."""
    cutter: Name = "cutter"
    """With `remote`: the cutter's node name, under which it takes commands."""
    breaker: Annotated[BreakerSection, EmptyMeansDefault()] = BreakerSection()
    """The breaker."""
    flood: Annotated[FloodSection, EmptyMeansDefault()] = FloodSection()
    """The quarantine of entries that match many streams at once."""
    deny_identity_for: Annotated[Duration, Between("0s", "30d")] = Duration.parse("10m")
    """How long the account of whoever was cut may publish nothing, under any key; 0s denies its key alone."""
    incidents: Annotated[IncidentsSection, EmptyMeansDefault()] = IncidentsSection()
    """When what happened is one incident, and when it is over."""
    incident_bank: Annotated[IncidentBankSection, EmptyMeansDefault()] = IncidentBankSection()
    """What was just cut."""
    allow: Annotated[tuple[AllowSection, ...], EmptyMeansDefault(), Field(max_length=1000)] = ()
    """Streams that are not cut until a time: what would cut them asks for a review."""


class HttpSection(Section):
    """Health and metrics over HTTP, and control for whoever has a token."""

    listen: ListenAddress = ListenAddress("127.0.0.1", 8936)
    """Where it listens."""
    token: Secret | None = None
    """Opens the control API under /v1: `${NAME}` or `{file: PATH}`, 16 characters or more; null for no such API."""

    @model_validator(mode="after")
    def _token_is_no_guess(self) -> Self:
        token = self.token.value if self.token is not None else None
        if token is not None and not (len(token) >= _TOKEN_CHARACTERS and token.isascii() and " " not in token):
            what = f"has less than {_TOKEN_CHARACTERS} characters, or some that no header can carry; make one with "
            raise refuse(Conflict(("token",), what + "'openssl rand -hex 32'"))
        return self

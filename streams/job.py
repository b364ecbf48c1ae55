"""What a reader is told to do: the one message from the service to a new reader."""

import math
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

from streams.frame import MAX_SHAPED_SIDE
from streams.sampling import SamplingSettings

UNPACED: Final = math.inf
"""The `speed` of a file that is watched like a live stream as fast as its packets can be read: none is waited for."""

NICENESS: Final = 5
"""Readers stand back for the service and for analysis; with eight busy ones those got 2.4 times as much of a core."""


@unique
class SourceKind(StrEnum):
    """How a reader gets its bytes, and so what its cage must let through."""

    RTMP = "rtmp"
    HTTP_TS = "http_ts"
    HTTP_FLV = "http_flv"
    HLS = "hls"
    RTSP = "rtsp"
    UDP = "udp"
    FILE = "file"

    @property
    def is_handed_over(self) -> bool:
        """Whether the service opens it and the reader finds it on descriptor 4; its cage then has no network."""
        return self in (SourceKind.UDP, SourceKind.FILE)


@unique
class SandboxMode(StrEnum):
    """What happens on a kernel that cannot give the whole cage."""

    REQUIRE = "require"
    PREFER = "prefer"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Damage:
    """What a rehearsal does to the packets of a stream, before anything else sees them.

    A share `ratio` of them, drawn by `seed`, is lost (`loses`) or holds noise, while the monotonic clock shows
    `begins_at` or more and less than `ends_at`.
    """

    loses: bool
    ratio: float
    seed: int
    begins_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Job:
    """One stream to read.

    `streams.reach` makes, of the job as the service has it, the one that a reader gets: `url` then has an address in
    place of the host's name, or of a gate on loopback, without TLS; for what is handed over on descriptor 4 it is
    empty. `port` is the only TCP port the cage lets through. `origin` is `scheme://HOST[:PORT]` as the operator wrote
    it, where that is no longer what `url` says: what the server expects to be called. `ca_file` (PEM; the system's
    authorities without it), `allow_rtsp` and `all_renditions` (of HLS: every variant is looked at) are for the service
    alone.

    `live` is False for a file that is scanned as fast as it decodes: then no sample is dropped (the reader waits)
    and the clock is the media's own.

    `speed` is for measuring: a file that is watched like a live stream is read at this multiple of real time. The
    sampler's clock, `gop_seconds`, heartbeats and `cpu_limit` go with the media, so that each second of it is looked
    at, and costs, as at speed 1; the times in messages stay monotonic ones. What cannot keep up comes late, and is
    sampled as if it did not. At `UNPACED` no packet is waited for, and the media's clock alone says when a heartbeat is
    due. The service's own clocks, as of coverage and of a stall, do not know of it.

    `whole` is for a file that is judged, rather than added to a bank: whatever any viewer may be shown of it is looked
    at, or it is refused: what an edit list leaves out, chapters' pictures, covers, each picture of several, and what
    clear pixels let through.

    `damage` is for rehearsals; a stream that is watched in earnest has none.

    `shaped_short` and `shaped_long` ask for a picture in the frame's own shape beside the square one, and bound its
    size (`streams.frame.shaped_size`); without either there is none.

    `niceness` is how far the reader stands back for the service and for analysis (nice(2)).
    """

    kind: SourceKind
    url: str = field(repr=False)
    port: int
    live: bool
    sampling: SamplingSettings
    sandbox: SandboxMode
    max_pixels: int = 4096 * 2304
    open_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 5.0
    ring_limit_bytes: int = 16 * 1024 * 1024
    memory_limit_bytes: int = 2048 * 1024 * 1024
    cpu_limit: float = 0.8
    speed: float = 1.0
    origin: str = ""
    ca_file: str = ""
    allow_rtsp: bool = False
    all_renditions: bool = False
    damage: tuple[Damage, ...] = ()
    shaped_short: int = 0
    shaped_long: int = 0
    niceness: int = NICENESS
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse a picture that is larger than any may be."""
        if not (0 <= self.shaped_short <= MAX_SHAPED_SIDE and 0 <= self.shaped_long <= MAX_SHAPED_SIDE):
            raise ValueError(f"a side of the shaped picture is 0 to {MAX_SHAPED_SIDE}")

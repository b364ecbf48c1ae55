"""What a reader and the service say to each other; `streams.wire` makes bytes of it, and checks those it gets."""

from dataclasses import dataclass
from enum import StrEnum, unique

from streams.frame import Frame
from streams.job import Job
from streams.sampling import SamplingSettings


@unique
class EndCode(StrEnum):
    """Why a reader ended: a word for operators, metrics and the retry policy."""

    END_OF_STREAM = "end_of_stream"
    REFUSED = "refused"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    NO_VIDEO = "no_video"
    CODEC = "codec"
    RESOLUTION = "resolution"
    NOT_MEDIA = "not_media"
    DECODE_ERRORS = "decode_errors"
    SANDBOX = "sandbox"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"
    TOO_MANY_TRACKS = "too_many_tracks"
    TRACKS_CHANGED = "tracks_changed"


UNKNOWN_FORMAT = "it is not MPEG-TS, FLV, MP4, Matroska, WebM, PNG, JPEG or WebP"
"""The detail of `NOT_MEDIA` that tells a file of another kind from a broken one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The source is open, and each of its `video_tracks` is looked at; `codec` and the size are the first one's.

    `landlock_abi` 0 and `has_seccomp` False mean that the kernel did not give that part.
    """

    codec: str
    width: int
    height: int
    video_tracks: int
    landlock_abi: int
    has_seccomp: bool
    limits_network: bool
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent every second, every half second while something is wrong, by a thread of its own, whatever the decoder does.

    Times are on the shared monotonic clock; `last_packet_at` is NaN before the first packet and `working_since` is
    NaN while the reader waits for bytes. Counters count from the reader's start, over all tracks. `tracks_heard` has
    bit n set once video track n has sent a packet: one that was announced and never came shows nobody anything.
    `throttled_seconds` is how long the stream asked for more CPU time than it may take and was looked at less closely.
    `bursts` and `spikes` count the GOPs that were decoded whole, by chance and because packet sizes showed a scene
    change; `spikes_blind` is how many tracks have sizes that could not show one now.

    Of `cpu_seconds`, so much went into the `keyframes_decoded` on their own, into decoding through, and into GOPs
    decoded whole; the rest is reading. `time_skew_seconds` is how far the publisher's presentation times have run ahead
    (negative: fallen behind) of arrival, on the track where it is most; `time_jumps` counts their jumps.
    """

    sent_at: float
    last_packet_at: float
    working_since: float
    packets: int
    received_bytes: int
    keyframes: int
    keyframes_without_picture: int
    decode_errors: int
    replaced_samples: int
    ring_bytes: int
    ring_overflows: int
    cpu_seconds: float
    gop_seconds: float
    tracks_heard: int = 1
    throttled_seconds: float = 0.0
    bursts: int = 0
    spikes: int = 0
    spikes_blind: int = 0
    keyframes_decoded: int = 0
    keyframe_cpu_seconds: float = 0.0
    through_cpu_seconds: float = 0.0
    whole_cpu_seconds: float = 0.0
    time_skew_seconds: float = 0.0
    time_jumps: int = 0


@dataclass(frozen=True, slots=True)
class Burst:
    """What stands for a GOP that was decoded whole: up to `MAX_BURST_FRAMES` samples of one track, oldest first.

    All have the same reason, `burst` or `spike`, and nothing takes the place of one of them.
    """

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The reader's last word. `media_end_seconds` is the media clock at the end (files), else NaN."""

    code: EndCode
    media_end_seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class LookCloser:
    """From the service: until `until` (monotonic) decode through and sample every `interval_seconds`."""

    interval_seconds: float
    until: float


@dataclass(frozen=True, slots=True)
class Adjust:
    """From the service: sample by `sampling` from now on; a closer look that goes on is not ended."""

    sampling: SamplingSettings


Order = LookCloser | Adjust
"""What a reader that has its job is told."""

Message = Opened | Frame | Burst | Heartbeat | Ended | Job | Order

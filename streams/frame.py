"""What leaves the cage: one sampled frame of one stream, in fixed-size pixels."""

from dataclasses import dataclass
from enum import StrEnum, unique

PLANE_SIDE = 64
"""Side of the hash plane: PDQ hashes a 64x64 luma picture directly (facebook/ThreatExchange, pdq/cpp)."""

PLANE_BYTES = PLANE_SIDE * PLANE_SIDE

PICTURE_SIDE = 256
"""Side of the analysis picture. Square whatever the stream's shape; `width` and `height` say what it was."""

PICTURE_BYTES = PICTURE_SIDE * PICTURE_SIDE * 3

MAX_SHAPED_SIDE = 640
"""The most that a `Job` asks of a side of the shaped picture."""

_LONGEST_SHARE = 2.4
"""Wider than any film; a frame of a wilder shape is pressed together along its longer side."""

MAX_SIDE = 1 << 16
"""Pixels in a row or a column, beyond which nothing is looked at: no player shows it."""

MAX_TRACKS = 8
"""How many video tracks of one source are looked at.

A simulcast has three to six renditions. Each track has decoders of its own, and whoever publishes chooses how many: a
source with more is refused whole, as one of which only a part is watched must never pass for watched.
"""

MAX_BURST_FRAMES = 8
"""How many frames stand for one GOP at most."""


@unique
class SampleReason(StrEnum):
    """Why a frame was sampled. The value stands in alerts and metrics."""

    KEYFRAME = "keyframe"
    DECODE_THROUGH = "decode_through"
    CLOSER_LOOK = "closer_look"
    BURST = "burst"
    SPIKE = "spike"
    SCENE_CHANGE = "scene_change"
    INTERVAL = "interval"
    PICTURE = "picture"


OF_BURSTS = (SampleReason.BURST, SampleReason.SPIKE)
"""Why samples are handed over together."""


def shaped_size(short: int, long: int, width: int, height: int) -> tuple[int, int]:
    """Width and height of the shaped picture of a frame that is shown as `width` x `height`.

    Its shorter side has `short` pixels at least and its longer one `long`, both 0 to `MAX_SHAPED_SIDE`; (0, 0) where
    neither is asked for. It has no more pixels than that takes, and never more than the frame.
    """
    if not short and not long:
        return 0, 0
    scale = min(1.0, max(short / min(width, height), long / max(width, height)))
    most = int(max(short * _LONGEST_SHARE, long))
    return min(most, max(1, round(width * scale))), min(most, max(1, round(height * scale)))


def shaped_bytes(short: int, long: int) -> int:
    """Most bytes that a shaped picture may have, whatever the frame's shape."""
    return max(short, long) * int(max(short * _LONGEST_SHARE, long)) * 3


MAX_SHAPED_BYTES = shaped_bytes(MAX_SHAPED_SIDE, MAX_SHAPED_SIDE)


@dataclass(frozen=True, slots=True)
class ShapedPicture:
    """The whole frame in a size of its own shape: RGB, uint8, row-major. See `shaped_size`."""

    width: int
    height: int
    pixels: bytes

    def __post_init__(self) -> None:
        """Refuse pixels of another size than promised."""
        if min(self.width, self.height) < 1 or self.width * self.height * 3 != len(self.pixels):
            raise ValueError(f"a shaped picture of {self.width}x{self.height} has not {len(self.pixels)} bytes")


@dataclass(frozen=True, slots=True)
class Frame:
    """One sampled frame.

    `arrived_at` and `decoded_at` are seconds on the monotonic clock that every process of one machine shares;
    when a file is scanned, `arrived_at` is the media's own time made monotone. `pts_seconds` is the publisher's
    claim: evidence, never a schedule.

    `plane` is 64x64 uint8 full-range luma, row-major. `picture` is 256x256 RGB, uint8, row-major.
    `width` and `height` are those of the frame as it is shown, in pixels, after rotation. `track` counts the video
    tracks of the source from 0: any of them may be what a viewer watches. `shaped` is there where the job asks for it.
    `is_moved`, of a burst: it shows what a sample beside it shows, but for movement.
    """

    sequence: int
    arrived_at: float
    decoded_at: float
    pts_seconds: float | None
    reason: SampleReason
    is_corrupt: bool
    width: int
    height: int
    plane: bytes
    picture: bytes
    track: int = 0
    shaped: ShapedPicture | None = None
    is_moved: bool = False

    def __post_init__(self) -> None:
        """Refuse pixels of another size than promised, and movement beside nothing."""
        if self.is_moved and self.reason not in OF_BURSTS:
            raise ValueError("only a frame of a burst has others beside it")
        if len(self.plane) != PLANE_BYTES or len(self.picture) != PICTURE_BYTES:
            msg = f"a frame holds {PLANE_BYTES} + {PICTURE_BYTES} bytes, got {len(self.plane)} + {len(self.picture)}"
            raise ValueError(msg)

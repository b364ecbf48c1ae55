"""Messages between a reader and the service: a fixed header and fixed-size bytes, validated, never pickled.

Everything that comes from a reader is hostile until it passed `parse_body`: the process behind it decodes what a
stranger sent. A message of a wrong size, an unknown kind, a number that is no number or a text with control
characters raises `WireError`, and the keeper ends that reader.
"""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from enum import IntEnum, unique
from typing import Any

from streams import wire_values as checked
from streams.frame import (
    MAX_BURST_FRAMES,
    MAX_SHAPED_BYTES,
    MAX_TRACKS,
    PICTURE_BYTES,
    PLANE_BYTES,
    Frame,
    SampleReason,
    ShapedPicture,
)
from streams.job import Damage, Job, SandboxMode, SourceKind
from streams.messages import (
    UNKNOWN_FORMAT,
    Adjust,
    Burst,
    EndCode,
    Ended,
    Heartbeat,
    LookCloser,
    Message,
    Opened,
    Order,
)
from streams.sampling import SamplingMode, SamplingSettings

__all__ = [
    "HEADER",
    "JOB_LIMIT_BYTES",
    "MAGIC",
    "UNKNOWN_FORMAT",
    "Adjust",
    "Burst",
    "EndCode",
    "Ended",
    "Heartbeat",
    "Kind",
    "LookCloser",
    "Message",
    "Opened",
    "Order",
    "WireError",
    "pack",
    "parse_body",
    "parse_header",
]

Bytes = bytes | bytearray | memoryview
"""What is parsed; nothing of it is kept."""

HEADER = struct.Struct("<4sB3xI")
MAGIC = b"SFR1"

JOB_LIMIT_BYTES = 16 * 1024

_OPENED = struct.Struct("<16sIIBBBBd")
_FRAME = struct.Struct("<QdddBBBBIIHH")
_HEARTBEAT = struct.Struct("<ddd8QddQd3QQ3ddQ")
_ENDED = struct.Struct("<B7xd160s")
_CLOSER = struct.Struct("<dd")
_ADJUST = struct.Struct("<ddBB6xdd")


class WireError(Exception):
    """Raised by `parse_header` and `parse_body`: the other side broke the protocol; nothing of the message is used."""


@unique
class Kind(IntEnum):
    """What a message is."""

    OPENED = 1
    FRAME = 2
    HEARTBEAT = 3
    ENDED = 4
    BURST = 5
    JOB = 16
    LOOK_CLOSER = 17
    ADJUST = 18


_REASONS = tuple(SampleReason)
_END_CODES = tuple(EndCode)
_MODES = tuple(SamplingMode)


_HEARTBEAT_FINITE = (
    "cpu_seconds",
    "gop_seconds",
    "throttled_seconds",
    "keyframe_cpu_seconds",
    "through_cpu_seconds",
    "whole_cpu_seconds",
    "time_skew_seconds",
)

_FRAME_BYTES = _FRAME.size + PLANE_BYTES + PICTURE_BYTES

_FIXED_BYTES = {
    Kind.OPENED: _OPENED.size,
    Kind.HEARTBEAT: _HEARTBEAT.size,
    Kind.ENDED: _ENDED.size,
    Kind.LOOK_CLOSER: _CLOSER.size,
    Kind.ADJUST: _ADJUST.size,
}


def parse_header(header: Bytes, shaped_bytes: int = 0) -> tuple[Kind, int]:
    """Return the kind and the body's length in bytes of the message that follows; raise `WireError`.

    `shaped_bytes` is the most that a frame's shaped picture may have; without any there is none.
    """
    try:
        magic, number, length = HEADER.unpack(header)
        kind = Kind(number)
    except (struct.error, ValueError) as error:
        raise WireError(f"no message header: {error}") from error
    if magic != MAGIC:
        raise WireError("wrong magic")
    if not _may_be_long(kind, length, shaped_bytes):
        raise WireError(f"{kind.name} of {length} bytes")
    return kind, length


def parse_body(kind: Kind, body: Bytes) -> Message:
    """Return the message in `body`; raise `WireError` if any field is not what its type promises."""
    if not _may_be_long(kind, len(body), MAX_SHAPED_BYTES):
        raise WireError(f"{kind.name} of {len(body)} bytes")
    try:
        return _PARSERS[kind](body)
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"{kind.name}: {type(error).__name__}") from error


def pack(message: Message) -> bytes:
    """Return header and body of `message` as one byte string."""
    kind, body = _PACKERS[type(message)](message)
    return HEADER.pack(MAGIC, kind, len(body)) + body


def _may_be_long(kind: Kind, length: int, shaped_bytes: int) -> bool:
    match kind:
        case Kind.JOB:
            return length <= JOB_LIMIT_BYTES
        case Kind.FRAME:
            return 0 <= length - _FRAME_BYTES <= shaped_bytes
        case Kind.BURST:
            # As few frames as the length allows, each with the largest shaped picture.
            count = max(1, -(-length // (_FRAME_BYTES + shaped_bytes)))
            return count <= MAX_BURST_FRAMES and 0 <= length - count * _FRAME_BYTES <= count * shaped_bytes
        case _:
            return length == _FIXED_BYTES[kind]


def _parse_opened(body: Bytes) -> Opened:
    codec, width, height, tracks, abi, seccomp, network, seconds = _OPENED.unpack(body)
    return Opened(
        checked.text(codec),
        checked.side(width),
        checked.side(height),
        checked.tracks(tracks),
        abi,
        checked.flag(seccomp),
        checked.flag(network),
        checked.finite(seconds),
    )


def _parse_frame(body: Bytes) -> Frame:
    (frame,) = _parse_frames(body, 1)
    return frame


def _parse_frames(body: Bytes, most: int) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    end = 0
    while end < len(body) and len(frames) < most:
        frame, end = _parse_frame_at(memoryview(body), end)
        frames.append(frame)
    if end != len(body):
        raise ValueError("more bytes than pixels, or fewer")
    return tuple(frames)


def _parse_frame_at(body: memoryview, start: int) -> tuple[Frame, int]:
    """The frame that begins at `start`, and where it ends."""
    head = _FRAME.unpack_from(body, start)
    sequence, arrived_at, decoded_at, pts, reason, corrupt, track, moved, width, height, across, down = head
    picture_at, shaped_at = start + _FRAME.size + PLANE_BYTES, start + _FRAME_BYTES
    end = shaped_at + across * down * 3
    frame = Frame(
        sequence=sequence,
        arrived_at=checked.finite(arrived_at),
        decoded_at=checked.finite(decoded_at),
        pts_seconds=None if math.isnan(pts) else checked.finite(pts),
        reason=_REASONS[reason],
        is_corrupt=checked.flag(corrupt),
        width=checked.side(width),
        height=checked.side(height),
        plane=bytes(body[start + _FRAME.size : picture_at]),
        picture=bytes(body[picture_at:shaped_at]),
        track=checked.tracks(track + 1) - 1,
        shaped=ShapedPicture(across, down, bytes(body[shaped_at:end])) if across or down else None,
        is_moved=checked.flag(moved),
    )
    return frame, end


def _parse_burst(body: Bytes) -> Burst:
    frames = _parse_frames(body, MAX_BURST_FRAMES)
    first = frames[0]
    if first.reason not in (SampleReason.BURST, SampleReason.SPIKE):
        raise ValueError("no reason for a burst")
    if any((frame.track, frame.reason) != (first.track, first.reason) for frame in frames):
        raise ValueError("frames of two kinds")
    return Burst(frames)


def _parse_heartbeat(body: Bytes) -> Heartbeat:
    values = _HEARTBEAT.unpack(body)
    sent_at, last_packet_at, working_since, *_ = values
    checked.finite(sent_at), checked.finite_or_nan(last_packet_at), checked.finite_or_nan(working_since)
    beat = Heartbeat(*values)
    for name in _HEARTBEAT_FINITE:
        checked.finite(getattr(beat, name))
    tracks_heard, spikes_blind = beat.tracks_heard, beat.spikes_blind
    if tracks_heard >> MAX_TRACKS or spikes_blind > MAX_TRACKS:
        raise ValueError("a track beyond the last")
    return beat


def _parse_ended(body: Bytes) -> Ended:
    code, media_end, detail = _ENDED.unpack(body)
    return Ended(_END_CODES[code], checked.finite_or_nan(media_end), checked.text(detail))


def _parse_closer(body: Bytes) -> LookCloser:
    interval, until = _CLOSER.unpack(body)
    return LookCloser(checked.finite(interval), checked.finite(until))


def _parse_adjust(body: Bytes) -> Adjust:
    detect_within, interval, mode, spikes, share, slowed_to = _ADJUST.unpack(body)
    return Adjust(
        SamplingSettings(
            detect_within_seconds=checked.positive(detect_within),
            interval_seconds=checked.positive(interval),
            mode=_MODES[mode],
            burst_share=checked.share(share),
            spikes=checked.flag(spikes),
            slowed_to_seconds=checked.positive(slowed_to) if slowed_to else 0.0,
        )
    )


def _parse_job(body: Bytes) -> Job:
    raw = json.loads(bytes(body))
    sampling = raw.pop("sampling")
    sampling["mode"] = SamplingMode(sampling["mode"])
    damage = tuple(Damage(**each) for each in raw.pop("damage"))
    return Job(
        kind=SourceKind(raw.pop("kind")),
        sandbox=SandboxMode(raw.pop("sandbox")),
        sampling=SamplingSettings(**sampling),
        damage=damage,
        **raw,
    )


def _pack_opened(message: Opened) -> tuple[Kind, bytes]:
    codec, *rest = astuple(message)
    return Kind.OPENED, _OPENED.pack(checked.printable(codec, 16).encode(), *rest)


def _pack_frame(message: Frame) -> tuple[Kind, bytes]:
    return Kind.FRAME, _frame_body(message)


def _pack_burst(message: Burst) -> tuple[Kind, bytes]:
    return Kind.BURST, b"".join(_frame_body(frame) for frame in message.frames)


def _frame_body(message: Frame) -> bytes:
    shaped = message.shaped
    head = _FRAME.pack(
        message.sequence,
        message.arrived_at,
        message.decoded_at,
        math.nan if message.pts_seconds is None else message.pts_seconds,
        _REASONS.index(message.reason),
        message.is_corrupt,
        message.track,
        message.is_moved,
        message.width,
        message.height,
        *((0, 0) if shaped is None else (shaped.width, shaped.height)),
    )
    return b"".join((head, message.plane, message.picture, b"" if shaped is None else shaped.pixels))


def _pack_heartbeat(message: Heartbeat) -> tuple[Kind, bytes]:
    return Kind.HEARTBEAT, _HEARTBEAT.pack(*(getattr(message, field.name) for field in fields(message)))


def _pack_ended(message: Ended) -> tuple[Kind, bytes]:
    detail = checked.printable(message.detail, 160).encode()
    return Kind.ENDED, _ENDED.pack(_END_CODES.index(message.code), message.media_end_seconds, detail)


def _pack_closer(message: LookCloser) -> tuple[Kind, bytes]:
    return Kind.LOOK_CLOSER, _CLOSER.pack(message.interval_seconds, message.until)


def _pack_adjust(message: Adjust) -> tuple[Kind, bytes]:
    sampling = message.sampling
    return Kind.ADJUST, _ADJUST.pack(
        sampling.detect_within_seconds,
        sampling.interval_seconds,
        _MODES.index(sampling.mode),
        sampling.spikes,
        sampling.burst_share,
        sampling.slowed_to_seconds,
    )


def _pack_job(message: Job) -> tuple[Kind, bytes]:
    return Kind.JOB, json.dumps(asdict(message)).encode()


_PARSERS: dict[Kind, Callable[[Bytes], Message]] = {
    Kind.OPENED: _parse_opened,
    Kind.FRAME: _parse_frame,
    Kind.BURST: _parse_burst,
    Kind.HEARTBEAT: _parse_heartbeat,
    Kind.ENDED: _parse_ended,
    Kind.JOB: _parse_job,
    Kind.LOOK_CLOSER: _parse_closer,
    Kind.ADJUST: _parse_adjust,
}

_PACKERS: dict[type, Callable[[Any], tuple[Kind, bytes]]] = {
    Opened: _pack_opened,
    Frame: _pack_frame,
    Burst: _pack_burst,
    Heartbeat: _pack_heartbeat,
    Ended: _pack_ended,
    Job: _pack_job,
    LookCloser: _pack_closer,
    Adjust: _pack_adjust,
}

"""Streams that an attacker would publish, as clips: each is valid enough to be taken in, and costs somebody something.

Made of synthetic pictures, by x264 where a picture must be looked at and by hand where only its size matters. What was
made once is given again.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from random import Random
from types import MappingProxyType
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from benchmarks.bitstreams import Picture, adts_frames, delimiter
from benchmarks.clips import Clip, ClipChunk
from benchmarks.transport import AAC, Track, TransportWriter

VIDEO_PID: Final = 0x100
_SECOND_PID: Final = 0x101

BOMB: Final = Picture(16_000, 16_000)
SWITCHED: Final = Picture(8192, 8192)
VALID_SECONDS: Final = 4.0
"""How long an attack that begins well looks well: from opening to the first pictures, with some to spare."""

_WIDTH, _HEIGHT, _FPS = 640, 360, 15
_STEADY_SECONDS = 4.0
_LONG_SECONDS = 60.0


def as_bytes(clip: Clip) -> bytes:
    """Return one round of a clip as a file would hold it."""
    return b"".join(chunk.payload for chunk in clip.chunks)


@functools.cache
def clean(seconds: float = _STEADY_SECONDS) -> Clip:
    """An ordinary stream: a picture with detail that moves a little, a keyframe each second."""
    return _video(seconds, list(_encoded(seconds)))


@functools.cache
def bomb() -> Clip:
    """16000x16000 pixels in some 750 kB, from the first picture on; naively decoded they take more than a gigabyte."""
    return _pictures(2.0, 5.0, lambda number: BOMB.keyframe() if number == 0 else BOMB.repeat(number), gop=10)


@functools.cache
def resolution_switch() -> Clip:
    """640x360 for `VALID_SECONDS`, then 8192x8192 under the same PID, for a minute."""
    writer = TransportWriter([Track(VIDEO_PID)])
    chunks = list(_chunks(writer, _encoded(VALID_SECONDS)))
    big = SWITCHED.keyframe()
    for number in range(round(_LONG_SECONDS)):
        at = VALID_SECONDS + number
        chunks.append(_chunk(writer, at, big, is_keyframe=True))
        chunks += [
            _chunk(writer, at + part / _FPS, SWITCHED.repeat(part), is_keyframe=False) for part in range(1, _FPS)
        ]
    return Clip(VALID_SECONDS + _LONG_SECONDS, tuple(chunks))


@functools.cache
def many_pids(count: int = 1000) -> Clip:
    """A video track, and `count` - 1 more PIDs that are announced as video, each with a PES packet a second."""
    tracks = [Track(VIDEO_PID), *(Track(0x200 + number) for number in range(count - 1))]
    writer = TransportWriter(tracks)
    return Clip(_STEADY_SECONDS, tuple(_with_company(writer, tracks)))


@functools.cache
def high_rate(fps: int = 240) -> Clip:
    """`fps` pictures a second, every one a keyframe: nothing of it is skipped by who looks at keyframes only."""
    return _video(2.0, list(_encoded(2.0, fps=fps, gop=1)))


@functools.cache
def two_tracks() -> Clip:
    """Two video tracks: a clean one first, another picture in the second."""
    writer = TransportWriter([Track(VIDEO_PID), Track(_SECOND_PID)])
    pairs = zip(_encoded(_STEADY_SECONDS), _encoded(_STEADY_SECONDS, seed=2), strict=True)
    chunks = []
    for (at, first, is_keyframe), (_, second, _) in pairs:
        chunk = _chunk(writer, at, first, is_keyframe=is_keyframe)
        other = writer.pes(_SECOND_PID, second, at, is_keyframe=is_keyframe)
        chunks.append(ClipChunk(at, chunk.payload + other, is_keyframe, None))
    return Clip(_STEADY_SECONDS, tuple(chunks))


@functools.cache
def tiny_slices() -> Clip:
    """Every macroblock a slice of its own, 30 pictures a second, a keyframe each second."""
    size = Picture(_WIDTH, _HEIGHT)
    return _pictures(2.0, 30.0, lambda number: size.sliced(number % 30), gop=30)


@functools.cache
def tiny_audio(rate: int = 10_000) -> Clip:
    """A clean picture, and `rate` audio frames of ten bytes a second beside it."""
    writer = TransportWriter([Track(VIDEO_PID), Track(_SECOND_PID, AAC)])
    sound = adts_frames(rate // _FPS)
    chunks = []
    for at, data, is_keyframe in _encoded(_STEADY_SECONDS):
        chunk = _chunk(writer, at, data, is_keyframe=is_keyframe)
        chunks.append(ClipChunk(at, chunk.payload + writer.pes(_SECOND_PID, sound, at), is_keyframe, None))
    return Clip(_STEADY_SECONDS, tuple(chunks))


@functools.cache
def hollow_keyframes() -> Clip:
    """A clean picture for `VALID_SECONDS`; then only packets that are announced as keyframes and hold none."""
    writer = TransportWriter([Track(VIDEO_PID)])
    chunks = list(_chunks(writer, _encoded(VALID_SECONDS)))
    hollow = Picture(_WIDTH, _HEIGHT).hollow_keyframe()
    late = [(VALID_SECONDS + number / 5, hollow, True) for number in range(round(_LONG_SECONDS * 5))]
    chunks += _chunks(writer, late)
    return Clip(VALID_SECONDS + _LONG_SECONDS, tuple(chunks))


@functools.cache
def endless_gop() -> Clip:
    """One keyframe, and then none for a minute."""
    return _video(_LONG_SECONDS, list(_encoded(_LONG_SECONDS, gop=round(_LONG_SECONDS * _FPS))))


@functools.cache
def garbage(seed: int = 1) -> Clip:
    """A clean picture for `VALID_SECONDS`, then noise, 400 kB a second."""
    draw = Random(seed)
    valid = clean(VALID_SECONDS).chunks
    noise = (
        ClipChunk(VALID_SECONDS + number / 10, draw.randbytes(40_000), is_keyframe=False, card=None)
        for number in range(round(_LONG_SECONDS * 10))
    )
    return Clip(VALID_SECONDS + _LONG_SECONDS, (*valid, *noise), is_verbatim=True)


@functools.cache
def drip() -> Clip:
    """A clean picture for `VALID_SECONDS`, then one byte a second."""
    valid = clean(VALID_SECONDS).chunks
    drops = (
        ClipChunk(VALID_SECONDS + number, b"\x47", is_keyframe=False, card=None)
        for number in range(round(_LONG_SECONDS))
    )
    return Clip(VALID_SECONDS + _LONG_SECONDS, (*valid, *drops), is_verbatim=True)


CLIPS: Final[Mapping[str, Callable[[], Clip]]] = MappingProxyType(
    {
        "bomb": bomb,
        "resolution switch": resolution_switch,
        "1000 PIDs": many_pids,
        "240 fps": high_rate,
        "drip feed": drip,
        "tiny slices": tiny_slices,
        "tiny audio": tiny_audio,
        "two tracks": two_tracks,
        "hollow keyframes": hollow_keyframes,
        "endless GOP": endless_gop,
        "garbage": garbage,
    }
)
"""Every attack that is a stream, by its name."""

_Unit = tuple[float, bytes, bool]
"""When a picture is due, its bytes, and whether it is a keyframe."""


def _video(seconds: float, units: list[_Unit]) -> Clip:
    return Clip(seconds, tuple(_chunks(TransportWriter([Track(VIDEO_PID)]), units)))


def _pictures(seconds: float, fps: float, make: Callable[[int], bytes], *, gop: int) -> Clip:
    """Return hand-written pictures; every `gop`-th is a keyframe."""
    units = [(number / fps, make(number), number % gop == 0) for number in range(round(seconds * fps))]
    return _video(seconds, units)


def _chunks(writer: TransportWriter, units: "Iterator[_Unit] | list[_Unit]") -> Iterator[ClipChunk]:
    for at, data, is_keyframe in units:
        yield _chunk(writer, at, data, is_keyframe=is_keyframe)


def _chunk(writer: TransportWriter, at: float, data: bytes, *, is_keyframe: bool) -> ClipChunk:
    tables = writer.tables() if is_keyframe else b""
    return ClipChunk(at, tables + writer.pes(VIDEO_PID, data, at, is_keyframe=is_keyframe), is_keyframe, None)


def _with_company(writer: TransportWriter, tracks: list[Track]) -> Iterator[ClipChunk]:
    others = tracks[1:]
    share = -(-len(others) // _FPS)
    idle = delimiter()
    for number, (at, data, is_keyframe) in enumerate(_encoded(_STEADY_SECONDS)):
        chunk = _chunk(writer, at, data, is_keyframe=is_keyframe)
        start = number % _FPS * share
        company = b"".join(writer.pes(track.pid, idle, at) for track in others[start : start + share])
        yield ClipChunk(at, chunk.payload + company, is_keyframe, None)


def _encoded(seconds: float, *, fps: int = _FPS, gop: int | None = None, seed: int = 1) -> Iterator[_Unit]:
    """Yield the pictures of a stream as x264 gives them; a keyframe every `gop`-th, each second by default."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
    context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
    context.gop_size = gop or fps
    context.thread_count = 1
    params = "scenecut=0:rc-lookahead=0:aud=1:repeat-headers=1"
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0", "crf": "30", "x264-params": params}
    picture = _picture(seed)
    for number in range(round(seconds * fps)):
        frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * number, axis=1), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        for packet in context.encode(frame):
            yield float((packet.pts or 0) * packet.time_base), bytes(packet), packet.is_keyframe
    for packet in context.encode(None):
        yield float((packet.pts or 0) * packet.time_base), bytes(packet), packet.is_keyframe


def _picture(seed: int) -> NDArray[np.uint8]:
    """Return blocks of seeded colours: enough detail to be hashed, cheap to encode."""
    blocks = np.random.default_rng(seed).integers(0, 256, (_HEIGHT // 40, _WIDTH // 40, 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(40, axis=0).repeat(40, axis=1))

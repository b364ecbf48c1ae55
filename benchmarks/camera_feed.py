"""Camera clips as MPEG-TS that is fed frame by frame, at real pace, for as long as one likes."""

import functools

import av

from benchmarks.camera_clips import FPS, UNIT_SECONDS, MadeClip
from benchmarks.clips import TS_PACKET_BYTES, Clip, ClipChunk


@functools.cache
def feed_of(made: MadeClip) -> Clip:
    """Return the clip in chunks of one picture each, with whatever lies before the next one."""
    path = made.lengthened(1, suffix=".ts")
    with av.open(str(path)) as container:
        pid = container.streams.video[0].id
    ts = path.read_bytes()
    starts = [
        start
        for start in range(0, len(ts), TS_PACKET_BYTES)
        if ts[start + 1] & 0x40 and (ts[start + 1] & 0x1F) << 8 | ts[start + 2] == pid
    ]
    ends = [*starts[1:], len(ts)]
    chunks = []
    for number, (start, end) in enumerate(zip([0, *starts[1:]], ends, strict=True)):
        is_keyframe = number % made.clip.gop_frames == 0
        chunks.append(ClipChunk(number / FPS, ts[start:end], is_keyframe, None))
    return Clip(float(UNIT_SECONDS), tuple(chunks))

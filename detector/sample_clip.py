"""Made-up video to measure costs on: `python -m detector.sample_clip --size 1920x1080 --fps 30 --gop 2 --seconds 6`.

It writes MPEG-TS to stdout, as fast as it can be encoded. The picture is a texture like that of a room, which moves as
if filmed by hand, under grain that no frame shares with the next: so every packet holds about what a camera's does. It
is encoded as OBS does by default: x264 `veryfast`, CBR, two B-frames, a fixed GOP.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

BITS_PER_PIXEL_AND_FRAME = 0.0723
"""1080p30 at 4.5 Mb/s."""

_MARGIN = 128
_GRAIN = 3.0
_STEP = 2.5


def clip(width: int, height: int, fps: int, gop_seconds: float, seconds: float) -> bytes:
    """Return the encoded clip; the same for the same arguments and encoder."""
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        rate = round(width * height * fps * BITS_PER_PIXEL_AND_FRAME / 1000)
        gop = max(1, round(fps * gop_seconds))
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=2:vbv-maxrate={rate}:vbv-bufsize={rate}:nal-hrd=cbr"
        stream.bit_rate = rate * 1000
        stream.options = {"preset": "veryfast", "x264-params": params}
        for number, planes in enumerate(_pictures(width, height, round(seconds * fps))):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return written.getvalue()


def _pictures(width: int, height: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames as planes of YUV 4:2:0, one below the other: (height * 3 / 2, width), uint8."""
    draw = np.random.default_rng(6)
    wide, high = width + _MARGIN, height + _MARGIN
    room = np.zeros((high, wide), np.float32)
    for cells, contrast in ((6, 48.0), (24, 24.0), (96, 10.0)):
        coarse = draw.standard_normal((cells, cells * 2)).astype(np.float32)
        room += contrast * cv2.resize(coarse, (wide, high), interpolation=cv2.INTER_CUBIC)
    still = np.clip(room + 120.0, 16, 220).astype(np.uint8)
    grain = np.clip(_GRAIN * draw.standard_normal((high, wide)) + 8.0, 0, 16).astype(np.uint8)
    chroma = np.full((height // 2, width), 128, np.uint8)
    for number in range(count):
        x, y = (round((_MARGIN - 1) / 2 * (1 + np.sin(number * _STEP / turn))) for turn in (_MARGIN, _MARGIN * 1.6))
        gx, gy = draw.integers(0, _MARGIN, 2)
        luma = cv2.add(still[y : y + height, x : x + width], grain[gy : gy + height, gx : gx + width])
        yield np.concatenate([luma, chroma])


def main() -> None:
    """Write the clip that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m detector.sample_clip", description="Writes a clip to stdout.")
    parser.add_argument("--size", default="1920x1080", metavar="WxH")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--gop", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=6.0)
    wanted = parser.parse_args()
    width, height = map(int, wanted.size.split("x"))
    sys.stdout.buffer.write(clip(width, height, wanted.fps, wanted.gop, wanted.seconds))


if __name__ == "__main__":
    main()

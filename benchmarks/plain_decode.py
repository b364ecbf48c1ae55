"""Decodes a live source as anybody would with PyAV, and says when: `python -m benchmarks.plain_decode URL`.

One JSON line for each frame: its presentation time in seconds, whether it is a keyframe, and when the decoder gave it,
on the monotonic clock that all processes of a machine share.
"""

import json
import sys
import time
from contextlib import suppress

import av
import av.error


def main(url: str) -> None:
    """Decode every frame until the source ends."""
    with suppress(av.error.FFmpegError), av.open(url, "r", format="mpegts") as container:
        for frame in container.decode(video=0):
            at = time.monotonic()
            print(json.dumps([frame.time, bool(frame.key_frame), at]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

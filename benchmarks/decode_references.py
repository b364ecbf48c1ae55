"""What others do to look at a stream once a second, each in a process of its own: OpenCV loops and ffmpeg commands.

The whole process counts, user and system time; what it costs to start is taken out by running it on two lengths of one
clip. Run as `python -m benchmarks.decode_references LOOP FILE` it is one of the OpenCV loops.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT = Path(__file__).resolve().parents[1]
_SIDE = 224
_EVERY_SECONDS = 1.0


class ReferenceMissing(RuntimeError):
    """Raised where a reference is not installed, or fails; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One way to look at a clip. `command` has FILE where the file or URL goes."""

    name: str
    command: Sequence[str]
    needs: str


_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error", "-threads", "1")
_RAW = ("-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1")
_LOOP = (sys.executable, "-m", "benchmarks.decode_references")

FLOOR: Final = Reference(
    "ffmpeg -skip_frame nokey", (*_FFMPEG, "-skip_frame", "nokey", "-i", "FILE", "-an", "-f", "null", "-"), "ffmpeg"
)
"""Keyframes alone, thrown away: nobody decodes them for less with the same decoder."""

PIPE: Final = Reference(
    "ffmpeg fps=1 pipe",
    (*_FFMPEG, "-i", "FILE", "-an", "-filter_threads", "1", "-vf", f"fps=1,scale={_SIDE}:{_SIDE}", *_RAW),
    "ffmpeg",
)
GRAB: Final = Reference("OpenCV grab, retrieve 1/s", (*_LOOP, "grab", "FILE"), "cv2")
READ: Final = Reference("OpenCV read", (*_LOOP, "read", "FILE"), "cv2")
REFERENCES: Final = (FLOOR, PIPE, GRAB, READ)


def cpu_seconds(reference: Reference, path: Path | str) -> float:
    """Run a reference on one clip to its end and return the CPU time of its process; raises `ReferenceMissing`."""
    _check(reference)
    command = [str(path) if word == "FILE" else word for word in reference.command]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 1 << 20):
            pass
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ReferenceMissing(f"{reference.name} failed with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime


def _check(reference: Reference) -> None:
    if reference.needs == "cv2" and importlib.util.find_spec("cv2") is None:
        raise ReferenceMissing("OpenCV is not installed (pip install opencv-python-headless)")
    if reference.needs != "cv2" and shutil.which(reference.needs) is None:
        raise ReferenceMissing(f"{reference.needs} is not installed (apt-get install {reference.needs})")


def _loop(kind: str, path: str) -> int:
    """Go through a clip as an OpenCV program does; return how many pictures were looked at."""
    import cv2  # noqa: PLC0415 - this module is imported where only ffmpeg is used

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise SystemExit(f"OpenCV cannot open {path}")
    step = max(1, round(capture.get(cv2.CAP_PROP_FPS) * _EVERY_SECONDS))
    number = seen = 0
    while True:
        is_due = number % step == 0
        if kind == "grab":
            if not capture.grab():
                break
            is_read, picture = capture.retrieve() if is_due else (False, None)
        else:
            is_read, picture = capture.read()
            if not is_read:
                break
        if is_due and is_read and picture is not None:
            cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            seen += 1
        number += 1
    return seen


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in {"grab", "read"}:
        sys.exit("usage: python -m benchmarks.decode_references grab|read FILE")
    print(_loop(sys.argv[1], sys.argv[2]), round(time.process_time(), 3))

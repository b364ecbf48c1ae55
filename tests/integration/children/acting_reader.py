"""A reader that acts: the job's URL names the part. It holds no decoder and enters no cage."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from streams import wire
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason
from streams.job import Job
from streams.wire import Adjust, Burst, EndCode, Ended, Heartbeat, LookCloser, Opened

OPENED = Opened("h264", 640, 360, 1, 7, has_seccomp=True, limits_network=True, open_seconds=0.1)


def main(fd: int) -> None:
    """Read the job, then play the part."""
    job = receive(fd)
    assert isinstance(job, Job)
    name, _, argument = job.url.partition(":")
    PARTS[name](fd, argument)


def receive(fd: int) -> wire.Message:
    kind, length = wire.parse_header(_read(fd, wire.HEADER.size))
    return wire.parse_body(kind, _read(fd, length))


def send(fd: int, message: wire.Message) -> None:
    write(fd, wire.pack(message))


def write(fd: int, message: bytes) -> None:
    rest = memoryview(message)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read(fd: int, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = os.read(fd, size - len(parts))
        if not part:
            sys.exit(0)
        parts += part
    return parts


def frame(
    sequence: int, *, reason: SampleReason = SampleReason.KEYFRAME, age: float = 0.0, ahead: float = 0.0
) -> Frame:
    now = time.monotonic() - age
    shade = bytes([sequence % 256])
    return Frame(sequence, now, now + ahead, None, reason, False, 640, 360, shade * PLANE_BYTES, shade * PICTURE_BYTES)


def heartbeat(*, working_for: float = math.nan, sent_ahead: float = 0.0) -> Heartbeat:
    now = time.monotonic()
    return Heartbeat(now + sent_ahead, now, now - working_for, 1, 2, 3, 0, 0, 0, 0, 0, 0.0, 0.0)


def live_on(fd: int) -> None:
    while True:
        send(fd, heartbeat())
        time.sleep(0.2)


def play_whole(fd: int, count: str) -> None:
    send(fd, OPENED)
    send(fd, heartbeat())
    for sequence in range(int(count)):
        send(fd, frame(sequence))
    send(fd, Ended(EndCode.END_OF_STREAM, math.nan, "over"))
    time.sleep(60)


def play_alive(fd: int, _: str) -> None:
    send(fd, OPENED)
    live_on(fd)


def play_crash(fd: int, how: str) -> None:
    send(fd, OPENED)
    send(fd, frame(0))
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "raise":
        sys.stderr.close()
        raise RuntimeError
    os._exit(int(how))


def play_mute(fd: int, how: str) -> None:
    if how != "from_start":
        send(fd, OPENED)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "half":
        write(fd, wire.pack(frame(0))[:1000])
    if how == "drip":
        for byte in wire.pack(frame(0)):
            write(fd, bytes([byte]))
            time.sleep(0.05)
    time.sleep(60)


def play_busy(fd: int, seconds: str) -> None:
    send(fd, OPENED)
    send(fd, heartbeat(working_for=float(seconds)))
    live_on(fd)


def play_closes(fd: int, _: str) -> None:
    send(fd, OPENED)
    os.close(fd)
    time.sleep(60)


def play_lie(fd: int, which: str) -> None:
    lies: dict[str, list[wire.Message]] = {
        "repeats": [OPENED, frame(3), frame(3)],
        "no_such_track": [OPENED, replace(frame(1), track=1)],
        "backwards": [OPENED, frame(3), frame(2)],
        "frame_first": [frame(0)],
        "opens_twice": [OPENED, OPENED],
        "too_old": [OPENED, frame(0, age=61.0)],
        "from_the_future": [OPENED, frame(0, age=-30.0)],
        "decoded_before": [OPENED, frame(0, ahead=-0.5)],
        "clock_ahead": [OPENED, heartbeat(sent_ahead=30.0)],
        "counts_back": [OPENED, heartbeat(), replace(heartbeat(), packets=0)],
        "costs_much": [OPENED, replace(heartbeat(), cpu_seconds=1e300)],
        "burst_repeats": [OPENED, Burst((replace(frame(3), reason=SampleReason.SPIKE),) * 2)],
        "burst_first": [Burst((replace(frame(3), reason=SampleReason.SPIKE),))],
        "orders": [OPENED, LookCloser(1.0, 2.0)],
    }
    if which == "garbage":
        write(fd, os.urandom(4096))
    for message in lies.get(which, []):
        send(fd, message)
    live_on(fd)


def play_flood(fd: int, what: str) -> None:
    send(fd, OPENED)
    for sequence in range(100_000):
        send(fd, frame(sequence) if what == "frames" else heartbeat())


def play_burst(fd: int, _: str) -> None:
    """Ten keyframes and ten of an interval, then the end."""
    send(fd, OPENED)
    for sequence in range(0, 20, 2):
        send(fd, frame(sequence))
        send(fd, frame(sequence + 1, reason=SampleReason.INTERVAL))
    send(fd, heartbeat())
    send(fd, Ended(EndCode.END_OF_STREAM, math.nan, ""))
    time.sleep(60)


def play_whole_gops(fd: int, count: str) -> None:
    """So many bursts of three frames, then keyframes, then the end."""
    send(fd, OPENED)
    for number in range(int(count)):
        of_one_gop = (replace(frame(10 * number + place), reason=SampleReason.BURST) for place in range(3))
        send(fd, Burst(tuple(of_one_gop)))
    for sequence in range(100, 110):
        send(fd, frame(sequence))
    send(fd, Ended(EndCode.END_OF_STREAM, math.nan, ""))
    time.sleep(60)


def play_obey(fd: int, _: str) -> None:
    send(fd, OPENED)
    order = receive(fd)
    match order:
        case LookCloser():
            send(fd, Ended(EndCode.END_OF_STREAM, order.until, f"every {order.interval_seconds}"))
        case Adjust(sampling):
            send(fd, Ended(EndCode.END_OF_STREAM, sampling.detect_within_seconds, sampling.mode))
    time.sleep(60)


PARTS: dict[str, Callable[[int, str], None]] = {
    "whole": play_whole,
    "alive": play_alive,
    "crash": play_crash,
    "mute": play_mute,
    "busy": play_busy,
    "closes": play_closes,
    "lie": play_lie,
    "flood": play_flood,
    "burst": play_burst,
    "whole_gops": play_whole_gops,
    "obey": play_obey,
}

"""The caged child: reads one source, sends sampled frames. Ties source, sampler, decoder and sender together."""

import gc
import io
import math
import os
import struct
import threading
import time
import zlib

import av.audio.codeccontext
import av.audio.stream
import av.container.input
import av.error
import av.logging
import av.subtitles.codeccontext
import av.subtitles.stream
import av.video.codeccontext
import av.video.stream

from streams.damage import DamagedSource
from streams.decoder import PixelReader
from streams.emitter import Emitter
from streams.faults import SourceError
from streams.job import Job
from streams.messages import EndCode, Ended, Opened, Order
from streams.opening_memory import OpeningMemory
from streams.sandbox import CagePolicy, CageReport, SandboxUnavailable, enter
from streams.scanning import Scan
from streams.sender import Counters, Sender, ServiceGone, read_message
from streams.source import Source, open_source
from streams.watching import Watch
from streams.wire import WireError

MEDIA_FD = 4
"""Where a file to read was put by whoever started this process."""

_OPEN_FILES = 32
_OPENING_TIMEOUTS = 4  # two looks, each of which connects and probes; the time limit holds for each step


def main(fd: int = 3) -> None:
    """Do the job that comes over `fd`, and end; every outcome but a vanished service is told by an `Ended`."""
    os.set_blocking(fd, True)
    try:
        job = read_message(fd)
    except (WireError, EOFError, OSError):
        return
    if not isinstance(job, Job):
        return
    warm_up()
    gc.freeze()  # what was there before the stream is never garbage: nobody has to look through it again
    os.nice(job.niceness)
    memory = OpeningMemory(job)
    counters = Counters()
    orders = _Orders()
    try:
        report: CageReport | None = enter(_policy(job))
        sandbox_fault = ""
    except SandboxUnavailable as error:
        report, sandbox_fault = None, str(error)
    # The thread is started in the cage: Landlock would not bind one that was there before.
    with Sender(fd, counters, orders.give, drops=job.live, speed=job.speed) as sender:
        if report is None:
            sender.say(Ended(EndCode.SANDBOX, math.nan, sandbox_fault))
            return
        sender.say(_Reading(job, report, counters, sender, orders).run(memory))


def warm_up() -> None:
    """Decode and scale a tiny picture, so that nothing has to be loaded from disk once the cage is shut."""
    av.logging.set_level(None)
    with av.open(io.BytesIO(_tiny_png()), "r", format="png_pipe", metadata_errors="replace") as container:
        pixel_reader = PixelReader()
        for frame in container.decode(video=0):
            pixel_reader.pixels(frame)
            pixel_reader.pixels(frame.reformat(format="yuv420p"))


class _Orders:
    """Hands orders from the sending thread to the reading one; of each kind the latest counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[type[Order], Order] = {}

    def give(self, order: Order) -> None:
        with self._lock:
            self._latest[type(order)] = order

    def take(self) -> list[Order]:
        if not self._latest:  # as nearly always: asked for each packet
            return []
        with self._lock:
            latest, self._latest = list(self._latest.values()), {}
        return latest


class _Reading:
    """One job in the cage, from opening to its last word."""

    def __init__(self, job: Job, report: CageReport, counters: Counters, sender: Sender, orders: _Orders) -> None:
        self._job = job
        self._report = report
        self._counters = counters
        self._sender = sender
        self._orders = orders
        self._emitter = Emitter(sender, counters)
        self._media_end_seconds = math.nan

    def run(self, memory: OpeningMemory) -> Ended:
        """Read until the end and say why it ended."""
        code, detail = self._end(memory)
        return Ended(code, self._media_end_seconds, detail)

    def _end(self, memory: OpeningMemory) -> tuple[EndCode, str]:
        self._counters.overdue_at = time.monotonic() + _OPENING_TIMEOUTS * self._job.open_timeout_seconds
        try:
            with memory.limited():
                opened = open_source(self._job, MEDIA_FD if self._job.kind.is_handed_over else None)
            with DamagedSource(opened, self._job.damage) if self._job.damage else opened as source:
                self._counters.overdue_at = math.inf
                self._sender.say(self._opened(source))
                return self._read(source)
        except SourceError as error:
            if not self._job.live:
                self._media_end_seconds = error.media_seconds
            return error.code, error.detail
        except ServiceGone:
            return EndCode.INTERNAL, "nobody listens"
        except MemoryError:
            return EndCode.OUT_OF_MEMORY, "the stream needs more memory than its reader may take"
        except Exception as error:  # noqa: BLE001 - the worker's edge: hostile bytes raise anything, and the service
            # learns the kind of it; the text could hold a key.
            return EndCode.INTERNAL, f"unexpected {type(error).__name__}"

    def _opened(self, source: Source) -> Opened:
        first = source.tracks[0]
        return Opened(
            codec=first.codec,
            width=max(1, first.width),
            height=max(1, first.height),
            video_tracks=len(source.tracks),
            landlock_abi=self._report.landlock_abi,
            has_seccomp=self._report.has_seccomp,
            limits_network=self._report.limits_network,
            open_seconds=source.facts.open_seconds,
        )

    def _read(self, source: Source) -> tuple[EndCode, str]:
        looking: Watch | Scan
        if self._job.live:
            looking = Watch(source, self._job, self._counters, self._emitter, self._orders.take)
        else:
            looking = Scan(source, self._job, self._counters, self._emitter.emit)
        try:
            return looking.run()
        finally:
            self._media_end_seconds = looking.media_end_seconds


def _policy(job: Job) -> CagePolicy:
    return CagePolicy(
        connect_port=None if job.kind.is_handed_over else job.port,
        readable_paths=(),
        memory_limit_bytes=job.memory_limit_bytes,
        open_files=_OPEN_FILES,
        mode=job.sandbox,
    )


def _tiny_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

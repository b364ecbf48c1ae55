"""The caged child: reads one source, sends sampled frames. Ties source, sampler, decoder and sender together."""

import io
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from random import SystemRandom

import av.audio.codeccontext
import av.audio.stream
import av.container.input
import av.error
import av.logging
import av.subtitles.codeccontext
import av.subtitles.stream
import av.video.codeccontext
import av.video.stream
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from streams.decoder import Decoder, PixelReader
from streams.faults import SourceError
from streams.frame import MAX_TRACKS, Frame, SampleReason
from streams.gop import GopRing
from streams.job import Job, SourceKind
from streams.live_look import LiveLook
from streams.sampling import MediaClock, Sampler, ScanSampler
from streams.sandbox import CagePolicy, CageReport, SandboxUnavailable, enter
from streams.sender import Counters, Sender, ServiceGone, read_message
from streams.source import AnyPacket, Source, open_source
from streams.wire import Adjust, EndCode, Ended, LookCloser, Opened, Order, WireError

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
    counters = Counters()
    orders = _Orders()
    try:
        report: CageReport | None = enter(_policy(job))
        sandbox_fault = ""
    except SandboxUnavailable as error:
        report, sandbox_fault = None, str(error)
    # The thread is started in the cage: Landlock would not bind one that was there before.
    with Sender(fd, counters, orders.give, drops=job.live) as sender:
        if report is None:
            sender.say(Ended(EndCode.SANDBOX, math.nan, sandbox_fault))
            return
        sender.say(_Reading(job, report, counters, sender, orders).run())


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
        with self._lock:
            latest, self._latest = list(self._latest.values()), {}
        return latest


def _obey(order: Order, sampler: Sampler) -> None:
    match order:
        case LookCloser():
            sampler.look_closer(order.interval_seconds, order.until)
        case Adjust():
            sampler.adjust(order.sampling)


class _Reading:
    """One job in the cage, from opening to its last word."""

    def __init__(self, job: Job, report: CageReport, counters: Counters, sender: Sender, orders: _Orders) -> None:
        self._job = job
        self._report = report
        self._counters = counters
        self._sender = sender
        self._orders = orders
        self._sequence = 0
        self._media_end_seconds = math.nan

    def run(self) -> Ended:
        """Read until the end and say why it ended."""
        code, detail = self._end()
        return Ended(code, self._media_end_seconds, detail)

    def _end(self) -> tuple[EndCode, str]:
        self._counters.overdue_at = time.monotonic() + _OPENING_TIMEOUTS * self._job.open_timeout_seconds
        try:
            with open_source(self._job, MEDIA_FD if self._job.kind.is_handed_over else None) as source:
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
        facts = source.facts
        return Opened(
            codec=facts.codec,
            width=max(1, facts.width),
            height=max(1, facts.height),
            video_tracks=min(facts.video_tracks, MAX_TRACKS),
            landlock_abi=self._report.landlock_abi,
            has_seccomp=self._report.has_seccomp,
            limits_network=self._report.limits_network,
            open_seconds=facts.open_seconds,
        )

    def _read(self, source: Source) -> tuple[EndCode, str]:
        decoder = Decoder(source.stream, self._job.max_pixels)
        if self._job.live:
            return self._watch(source, decoder)
        return self._scan(source, decoder)

    def _watch(self, source: Source, decoder: Decoder) -> tuple[EndCode, str]:
        counters = self._counters
        sampler = Sampler(self._job.sampling, SystemRandom().random)
        ring: GopRing[AnyPacket] = GopRing(self._job.ring_limit_bytes)

        def emit(frame: VideoFrame, arrived_at: float, reason: SampleReason) -> None:
            self._emit(decoder, frame, arrived_at, reason)

        look: LiveLook[AnyPacket, VideoFrame] = LiveLook(sampler, ring, decoder, emit, self._work)
        pace = self._paced(source) if self._job.kind is SourceKind.FILE else None
        end: tuple[EndCode, str] | None = None
        try:
            for packet in self._packets(source):
                if packet.stream_index != source.stream.index:
                    if pace is None:
                        look.overhear(time.monotonic())
                    continue
                if pace is not None:
                    pace(packet)
                for order in self._orders.take():
                    _obey(order, sampler)
                look.take(packet, time.monotonic())
                counters.keyframes = look.keyframes
                counters.keyframes_without_picture = look.keyframes_without_picture
                counters.decode_errors = decoder.errors
                counters.ring_bytes, counters.ring_overflows = ring.held_bytes, ring.overflows
                counters.gop_seconds = sampler.gop_seconds
        except SourceError as error:
            end = error.code, error.detail
        look.finish()
        return end or (EndCode.END_OF_STREAM, "")

    def _paced(self, source: Source) -> Callable[[AnyPacket], None]:
        """Return what waits until a file's packet would have arrived if the file were a live stream."""
        clock = self._media_clock(source)
        started_at = time.monotonic()

        def pace(packet: AnyPacket) -> None:
            due_at = started_at + clock.advance(_seconds(packet.dts, packet))
            self._media_end_seconds = clock.end(_seconds(packet.duration, packet))
            self._counters.working_since = math.nan
            while (left := due_at - time.monotonic()) > 0:
                time.sleep(left)
            self._work()

        return pace

    def _scan(self, source: Source, decoder: Decoder) -> tuple[EndCode, str]:
        if source.facts.is_picture:
            return self._scan_picture(source, decoder)
        scan = _Scan(self._media_clock(source), ScanSampler(self._job.sampling.interval_seconds), decoder)
        end: tuple[EndCode, str] | None = None
        try:
            for packet in self._packets(source):
                if packet.stream_index != source.stream.index:
                    continue
                self._counters.keyframes += packet.is_keyframe
                scan.last_frame_seconds = _seconds(packet.duration, packet) or None
                scan.heard_seconds += scan.last_frame_seconds or source.facts.frame_seconds
                self._emit_scanned(scan, decoder.decode_through(packet), decoder)
        except SourceError as error:
            end = error.code, error.detail
        self._emit_scanned(scan, decoder.finish_through(), decoder)
        self._media_end_seconds = scan.clock.end(scan.last_frame_seconds)
        return end or self._scan_end(decoder)

    def _scan_picture(self, source: Source, decoder: Decoder) -> tuple[EndCode, str]:
        for packet in self._packets(source):
            frame = decoder.decode_alone(packet)
            self._counters.decode_errors = decoder.errors
            if frame is not None:
                self._emit(decoder, frame, 0.0, SampleReason.PICTURE)
                break
        self._media_end_seconds = 0.0
        return self._scan_end(decoder)

    def _scan_end(self, decoder: Decoder) -> tuple[EndCode, str]:
        if self._sequence:
            return EndCode.END_OF_STREAM, ""
        if decoder.errors:
            return EndCode.DECODE_ERRORS, "none of its frames could be decoded"
        return EndCode.NO_VIDEO, "it holds no frame"

    def _emit_scanned(self, scan: "_Scan", frames: list[VideoFrame], decoder: Decoder) -> None:
        self._counters.decode_errors = decoder.errors
        for frame in frames:
            self._work()
            at, reason = scan.look(frame)
            if reason is not None:
                self._emit(decoder, frame, at, reason)

    def _packets(self, source: Source) -> "_Counted":
        return _Counted(source, self._counters)

    def _media_clock(self, source: Source) -> MediaClock:
        return MediaClock(source.facts.frame_seconds, self._job.sampling.detect_within_seconds)

    def _work(self) -> None:
        self._counters.working_since = time.monotonic()

    def _emit(self, decoder: Decoder, frame: VideoFrame, arrived_at: float, reason: SampleReason) -> None:
        pixels = decoder.pixels(frame)
        self._sequence += 1
        sample = Frame(
            sequence=self._sequence,
            arrived_at=arrived_at,
            decoded_at=time.monotonic(),
            pts_seconds=decoder.pts_seconds(frame),
            reason=reason,
            is_corrupt=frame.is_corrupt,
            width=pixels.width,
            height=pixels.height,
            plane=pixels.plane.tobytes(),
            picture=pixels.picture.tobytes(),
        )
        self._counters.working_since = math.nan  # waiting for the service is no work
        self._sender.put(sample)
        self._work()


class _Scan:
    """What a scan remembers between frames."""

    def __init__(self, clock: MediaClock, sampler: ScanSampler, decoder: Decoder) -> None:
        self.clock = clock
        self.last_frame_seconds: float | None = None
        self.heard_seconds = 0.0
        self._sampler = sampler
        self._decoder = decoder
        self._analysed: NDArray[np.int16] | None = None

    def look(self, frame: VideoFrame) -> tuple[float, SampleReason | None]:
        """Return the frame's time on the media clock, and why it is analysed if it is."""
        at = self.clock.advance(self._decoder.pts_seconds(frame), heard_seconds=self.heard_seconds)
        self.heard_seconds = 0.0
        plane = self._decoder.plane(frame).astype(np.int16)
        change = 0.0 if self._analysed is None else float(np.abs(plane - self._analysed).mean())
        reason = self._sampler.reason(at, change)
        if reason is not None:
            self._analysed = plane
        return at, reason


class _Counted:
    """The packets of a source; counts them and marks the time between two of them as work."""

    def __init__(self, source: Source, counters: Counters) -> None:
        self._packets = source.packets()
        self._counters = counters

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> AnyPacket:
        counters = self._counters
        counters.working_since = math.nan
        packet = next(self._packets)
        counters.last_packet_at = counters.working_since = time.monotonic()
        counters.packets += 1
        counters.received_bytes += packet.size
        return packet


def _policy(job: Job) -> CagePolicy:
    return CagePolicy(
        connect_port=None if job.kind.is_handed_over else job.port,
        readable_paths=(),
        memory_limit_bytes=job.memory_limit_bytes,
        open_files=_OPEN_FILES,
        mode=job.sandbox,
    )


def _seconds(ticks: int | None, packet: AnyPacket) -> float | None:
    return None if ticks is None else float(ticks * packet.time_base)


def _tiny_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

"""A file: every frame of every video track decoded, and analysed wherever something new is shown."""

import math
import time
from itertools import islice

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from streams.costs import Purpose
from streams.decoder import BROKEN
from streams.faults import SourceError
from streams.frame import SampleReason
from streams.gamma import gamma_exponent, raised
from streams.job import Job
from streams.looked_at import Emit, LookedAt, counted_packets
from streams.messages import EndCode
from streams.scan_sampling import ScanSampler
from streams.sender import Counters
from streams.source import AnyPacket, Source, VideoTrack, check_total
from streams.transparency import over_pages

_LOST_SECONDS = 0.5
"""So much may be lost where a recording begins amid pictures that refer to earlier ones."""


class Scan:
    """One file being scanned. `media_end_seconds` is the end of its longest track on the media's clock."""

    def __init__(self, source: Source, job: Job, counters: Counters, emit: Emit) -> None:
        self.media_end_seconds = math.nan
        self._source = source
        self._job = job
        self._counters = counters
        self._emit = emit
        self._has_sample = False
        self._tracks = {track.stream.index: _ScannedTrack(track, job) for track in source.tracks}

    def run(self) -> tuple[EndCode, str]:
        """Scan to the end and say why it ended."""
        if self._source.facts.is_picture:
            return self._scan_picture()
        end: tuple[EndCode, str] | None = None
        try:
            for packet in counted_packets(self._source, self._job, self._counters):
                track = self._tracks.get(packet.stream_index)
                if track is not None:
                    self._take(packet, track)
        except SourceError as error:
            end = error.code, error.detail
        for track in self._tracks.values():
            with track.decoder.costs.of(Purpose.THROUGH):
                self._emit_frames(track, track.decoder.finish_through())
        self.media_end_seconds = max(track.end_seconds for track in self._tracks.values())
        return end or self._end()

    def _take(self, packet: AnyPacket, track: "_ScannedTrack") -> None:
        self._counters.tracks_heard |= 1 << track.number
        self._counters.keyframes += packet.is_keyframe
        track.hear(packet)
        with track.decoder.costs.of(Purpose.THROUGH):
            self._emit_frames(track, track.decoder.decode_through(packet))
        track.check_size()
        check_total((each.decoder.shown_pixels for each in self._tracks.values()), self._job.max_pixels)

    def _scan_picture(self) -> tuple[EndCode, str]:
        self.media_end_seconds = 0.0
        track = next(iter(self._tracks.values()))
        # The first is what viewers show: if that cannot be decoded, another behind it does not stand for it.
        for packet in islice(counted_packets(self._source, self._job, self._counters), 1):
            frame = track.decoder.decode_alone(packet)
            for shown in [] if frame is None else self._as_shown(frame, packet):
                self._has_sample |= self._emit(track, shown, 0.0, SampleReason.PICTURE)
            self._counters.decode_errors = track.decoder.errors
            track.check_size()
        return self._end()

    def _as_shown(self, frame: VideoFrame, packet: AnyPacket) -> list[VideoFrame]:
        if not self._job.whole:
            return [frame]
        exponent = gamma_exponent(bytes(packet))
        try:
            frames = [frame] if exponent == 1.0 else [frame, raised(frame, exponent)]
            return [shown for each in frames for shown in (each, *over_pages(each))]
        except BROKEN:
            return []

    def _end(self) -> tuple[EndCode, str]:
        if self._has_sample:
            lost_seconds = max(track.lost_seconds for track in self._tracks.values())
            if self._job.whole and lost_seconds > _LOST_SECONDS:
                return EndCode.DECODE_ERRORS, f"the decoder gave no frame for {lost_seconds:.1f} s of its pictures"
            return EndCode.END_OF_STREAM, ""
        if any(track.decoder.errors for track in self._tracks.values()):
            return EndCode.DECODE_ERRORS, "none of its frames could be decoded"
        return EndCode.NO_VIDEO, "it holds no frame"

    def _emit_frames(self, track: "_ScannedTrack", frames: list[VideoFrame]) -> None:
        for frame in frames:
            self._counters.working_since = time.monotonic()
            at, reason = track.look(frame)
            if reason is not None:
                self._has_sample |= self._emit(track, frame, at, reason)
        self._counters.decode_errors = sum(each.decoder.errors for each in self._tracks.values())
        self._counters.charge(each.decoder.costs for each in self._tracks.values())


class _ScannedTrack(LookedAt):
    """What a scan remembers of a track between frames."""

    def __init__(self, track: VideoTrack, job: Job) -> None:
        super().__init__(track, job)
        self._clock = self.media_clock()
        self._sampler = ScanSampler(job.sampling.interval_seconds)
        self._last_frame_seconds: float | None = None
        self._heard_seconds = 0.0
        self._analysed: NDArray[np.int16] | None = None

    @property
    def end_seconds(self) -> float:
        """The media clock after the track's last frame."""
        return self._clock.end(self._last_frame_seconds)

    @property
    def lost_seconds(self) -> float:
        """How long pictures are shown, at least, that the decoder took in and gave no frame of."""
        return self.decoder.lost.least * self.frame_seconds

    def hear(self, packet: AnyPacket) -> None:
        """Note a packet before it is decoded."""
        self._last_frame_seconds = self.seconds(packet.duration) or None
        self._heard_seconds += self._last_frame_seconds or self.frame_seconds

    def look(self, frame: VideoFrame) -> tuple[float, SampleReason | None]:
        """Return the frame's time on the media clock, and why it is analysed if it is."""
        at = self._clock.advance(self.decoder.pts_seconds(frame), heard_seconds=self._heard_seconds)
        self._heard_seconds = 0.0
        plane = self.decoder.plane(frame)
        if plane is None:
            return at, None
        shown = plane.astype(np.int16)
        change = 0.0 if self._analysed is None else float(np.abs(shown - self._analysed).mean())
        reason = self._sampler.reason(at, change)
        if reason is not None:
            self._analysed = shown
        return at, reason

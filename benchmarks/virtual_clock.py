"""A clip's packets, over and over, through the real sampler, ring, look and decoder, on a clock that is only counted.

A decoder is a function of the packets it was fed since it began, and of nothing else. So each thing that the real one
gave is remembered by where the feeding began and how many packets followed, with its hash plane and whether that
matches the target, and given again when another run feeds the same. Runs differ in what their samplers drew alone:
nothing that they see depends on whether it was remembered.

The rounds of a clip follow each other as one stream: each begins with a keyframe, times go on, and arrival is even.
"""

import io
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, Final, cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.hidden_clips import RATE, HiddenClip, encoded
from models.hashing.registry import hash_algorithms
from streams.decoder import Decoder, PixelReader
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.live_look import LiveLook
from streams.sampling import Sampler, SamplingSettings
from streams.source import AnyPacket
from streams.spikes import Spikes
from streams.whole_gop import Output

_TICKS: Final = 90_000
_RING_BYTES: Final = 1 << 24
_MAX_PIXELS: Final = 1 << 24
_PDQ: Final = hash_algorithms()["pdq"]


@dataclass(frozen=True, slots=True)
class LoopedPacket:
    """Packet `place` of a clip in one of its rounds, with the time of that round."""

    size: int
    pts: int | None
    is_keyframe: bool
    place: int
    round: int


@dataclass(frozen=True, slots=True, eq=False)
class SeenFrame:
    """A decoded frame: its hash plane, whether that matches the target, and its time since the first round began."""

    plane: NDArray[np.uint8]
    is_target: bool
    pts: int

    @property
    def shown_at(self) -> float:
        """When it is shown, in seconds."""
        return self.pts / _TICKS


@dataclass(slots=True)
class _Feeding:
    """What came out since one packet: `given[n]` when the n-th went in, `drained[n]` at the end after n packets."""

    decoder: Decoder | None = None
    fed: int = 0
    given: list[tuple[SeenFrame, ...]] = field(default_factory=list)
    drained: dict[int, tuple[SeenFrame, ...]] = field(default_factory=dict)


class LoopedClip:
    """A clip whose rounds follow one another without end, and what its decoder gave so far."""

    def __init__(self, clip: HiddenClip) -> None:
        self.clip = clip
        self.seconds = clip.frames / RATE
        self._codec = clip.codec.removeprefix("lib").replace("x264", "h264").replace("x265", "hevc")
        with av.open(io.BytesIO(encoded(clip)), "r", format="mpegts") as container:
            self.packets: list[AnyPacket] = []
            for packet in container.demux(video=0):
                if packet.size:
                    self.packets.append(cast(AnyPacket, packet))
        self.keyframes = [place for place, packet in enumerate(self.packets) if packet.is_keyframe]
        self._first_pts = min(packet.pts for packet in self.packets if packet.pts is not None)
        self._round_ticks = clip.frames * _TICKS // RATE
        self._target = _fingerprint(PixelReader().plane(VideoFrame.from_ndarray(clip.target(0, clip.size), "rgb24")))
        self._verdicts: dict[bytes, bool] = {}
        self._alone: dict[int, SeenFrame | None] = {}
        self._feedings: dict[int, _Feeding] = {}
        self._lone_decoder = self.new_decoder()

    def new_decoder(self) -> Decoder:
        """Return a decoder of a track that nobody decoded before."""
        context = CodecContext.create(self._codec, "r")
        track = SimpleNamespace(codec_context=context, time_base=Fraction(1, _TICKS), sample_aspect_ratio=None)
        return Decoder(cast(VideoStream, track), _MAX_PIXELS)

    def packet(self, number: int) -> LoopedPacket:
        """Return packet `number` of the endless stream, as far as samplers and rings look at it."""
        turn, place = divmod(number, len(self.packets))
        packet = self.packets[place]
        return LoopedPacket(packet.size, self._pts(place, turn), packet.is_keyframe, place, turn)

    def real_packet(self, number: int) -> AnyPacket:
        """Return packet `number` of the endless stream with its bytes."""
        turn, place = divmod(number, len(self.packets))
        packet: AnyPacket = av.Packet(bytes(self.packets[place]))
        packet.pts, packet.dts = self._pts(place, turn), None
        packet.time_base = Fraction(1, _TICKS)
        packet.is_keyframe = self.packets[place].is_keyframe
        return packet

    def alone(self, place: int) -> SeenFrame | None:
        """Return what the packet gives by itself, in round 0."""
        if place not in self._alone:
            frame = self._lone_decoder.decode_alone(self.real_packet(place))
            self._alone[place] = None if frame is None else self._seen(self._lone_decoder, frame)
        return self._alone[place]

    def fed(self, place: int, count: int) -> tuple[SeenFrame, ...]:
        """Return what comes out when, from packet `place` of round 0 on, packet number `count` (from 0) goes in."""
        feeding = self._feedings.setdefault(place, _Feeding())
        while len(feeding.given) <= count:
            self._feed_to(feeding, place, len(feeding.given) + 1)
        return feeding.given[count]

    def drained(self, place: int, count: int) -> tuple[SeenFrame, ...]:
        """Return what is held back after `count` packets from packet `place` of round 0 on."""
        feeding = self._feedings.setdefault(place, _Feeding())
        if count not in feeding.drained:
            if feeding.fed > count:
                feeding.decoder, feeding.fed = None, 0
            decoder = self._feed_to(feeding, place, count)
            feeding.drained[count] = tuple(self._seen(decoder, frame) for frame in decoder.finish_through())
            feeding.decoder, feeding.fed = None, 0
        return feeding.drained[count]

    def shown(self) -> list[bool]:
        """Whether each frame of one round, in the order in which they are shown, matches the target."""
        frames = [frame for count in range(len(self.packets)) for frame in self.fed(0, count)]
        frames += self.drained(0, len(self.packets))
        return [frame.is_target for frame in sorted(frames, key=lambda one: one.pts)]

    def later(self, frame: SeenFrame, rounds: int) -> SeenFrame:
        """Return what is shown so many rounds later."""
        return SeenFrame(frame.plane, frame.is_target, frame.pts + rounds * self._round_ticks) if rounds else frame

    def clean(self, frame: SeenFrame) -> SeenFrame:
        """Return the clip's first picture in place of a frame that matches the target."""
        first = self.alone(0)
        assert first is not None
        return SeenFrame(first.plane, is_target=False, pts=frame.pts) if frame.is_target else frame

    def _feed_to(self, feeding: _Feeding, place: int, count: int) -> Decoder:
        decoder = feeding.decoder = feeding.decoder or self.new_decoder()
        while feeding.fed < count:
            packet = self.real_packet(place + feeding.fed)
            frames = decoder.decode_through(packet)
            if len(feeding.given) == feeding.fed:
                feeding.given.append(tuple(self._seen(decoder, frame) for frame in frames))
            feeding.fed += 1
        return decoder

    def _seen(self, decoder: Decoder, frame: VideoFrame) -> SeenFrame:
        plane = decoder.plane(frame)
        assert plane is not None
        return SeenFrame(plane, self._is_target(plane), frame.pts or 0)

    def _is_target(self, plane: NDArray[np.uint8]) -> bool:
        key = plane.tobytes()
        if key not in self._verdicts:
            distance = int(np.unpackbits(_fingerprint(plane) ^ self._target).sum())
            self._verdicts[key] = distance <= _PDQ.max_distance
        return self._verdicts[key]

    def _pts(self, place: int, turn: int) -> int:
        pts = self.packets[place].pts
        assert pts is not None
        return pts - self._first_pts + turn * self._round_ticks


class RememberedDecoder:
    """Decodes packets of a looped clip as `streams.decoder.Decoder` does, from what that gave before where it did.

    What matches the target and is shown before `target_from_seconds` gives way to the clip's first picture: so content
    can appear at any moment, though the clip hides it from its beginning.
    """

    def __init__(self, clip: LoopedClip, target_from_seconds: float = -math.inf) -> None:
        self._clip = clip
        self._target_from_seconds = target_from_seconds
        self._start: LoopedPacket | None = None
        self._count = 0

    @property
    def is_through(self) -> bool:
        """Whether decoding through goes on."""
        return self._start is not None

    def note(self, packet: LoopedPacket) -> None:
        """Take over codec headers: a transport stream has them in its packets."""

    def decode_alone(self, packet: LoopedPacket) -> SeenFrame | None:
        """Decode a keyframe at once."""
        frame = self._clip.alone(packet.place)
        return None if frame is None else self._shown([frame], packet.round)[0]

    def decode_through(self, packet: LoopedPacket) -> list[SeenFrame]:
        """Decode one packet after the other."""
        start = self._start = self._start or packet
        expected = divmod(start.place + self._count, len(self._clip.packets))
        assert (packet.round - start.round, packet.place) == expected, "packets are fed in the order of the stream"
        self._count += 1
        return self._shown(self._clip.fed(start.place, self._count - 1), start.round)

    def finish_through(self) -> list[SeenFrame]:
        """End decoding through."""
        start, count = self._start, self._count
        self._start, self._count = None, 0
        return [] if start is None else self._shown(self._clip.drained(start.place, count), start.round)

    def is_shown_from(self, packet: LoopedPacket, frame: SeenFrame) -> bool:
        """Say whether the frame is the one in the packet, or is shown after it."""
        return packet.pts is None or frame.pts >= packet.pts

    def plane(self, frame: SeenFrame) -> NDArray[np.uint8]:
        """Return the frame's hash plane."""
        return frame.plane

    def _shown(self, frames: Sequence[SeenFrame], rounds: int) -> list[SeenFrame]:
        shown = [self._clip.later(frame, rounds) for frame in frames]
        return [self._clip.clean(one) if one.shown_at < self._target_from_seconds else one for one in shown]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A frame that matches the target was handed over `at`, in seconds since the stream began; `reason` says why."""

    at: float
    reason: SampleReason


class Watching:
    """One run: a stream that is joined at packet `joined_at`, and every sighting of the target so far.

    The target appears at `target_from_seconds`, or where the clip itself begins to hide it.
    """

    def __init__(
        self,
        clip: LoopedClip,
        settings: SamplingSettings,
        seed: int,
        *,
        joined_at: int = 0,
        target_from_seconds: float = -math.inf,
    ) -> None:
        self.sightings: list[Sighting] = []
        self.spikes_blind = 0
        self.packets = 0
        self._clip = clip
        self._number = joined_at
        self._now = 0.0
        output: Output[SeenFrame, tuple[SeenFrame, SampleReason]] = Output(
            emit=lambda frame, _, reason: self._send([(frame, reason)]),
            keep=lambda frame, _, reason: (frame, reason),
            hand_over=self._send,
        )
        self._sampler = Sampler(settings, random.Random(seed).random)
        decoder = RememberedDecoder(clip, target_from_seconds)
        ring: GopRing[LoopedPacket] = GopRing(_RING_BYTES)
        self._look: LiveLook[LoopedPacket, SeenFrame, tuple[SeenFrame, SampleReason]] = LiveLook(
            self._sampler, ring, decoder, output
        )

    def run_to(self, seconds: float) -> Sighting | None:
        """Go on until the first sighting, or until the stream is so old; return the first sighting."""
        end = round(seconds * RATE)
        while self._number < end and not self.sightings:
            self._now = self._number / RATE
            self._look.take(self._clip.packet(self._number), self._now)
            self._number += 1
            self.packets += 1
            self.spikes_blind += self._sampler.is_spikes_blind
        return self.sightings[0] if self.sightings else None

    def _send(self, samples: Sequence[tuple[SeenFrame, SampleReason]]) -> None:
        self.sightings += [Sighting(self._now, reason) for frame, reason in samples if frame.is_target]


def cpu_seconds(clip: LoopedClip, settings: SamplingSettings, seconds: float, seed: int) -> float:
    """CPU seconds that so much of the endless stream takes one thread, with the real decoder, until pixels are ready.

    Neither demuxing nor analysis is in it.
    """
    decoder = clip.new_decoder()
    output: Output[VideoFrame, Any] = Output(
        emit=lambda frame, _, __: decoder.pixels(frame),
        keep=lambda frame, _, __: decoder.pixels(frame),
        hand_over=lambda _: None,
    )
    look: LiveLook[AnyPacket, VideoFrame, Any] = LiveLook(
        Sampler(settings, random.Random(seed).random), GopRing(_RING_BYTES), decoder, output
    )
    taken = 0.0
    for number in range(round(seconds * RATE)):
        packet = clip.real_packet(number)
        began = time.thread_time()
        look.take(packet, number / RATE)
        taken += time.thread_time() - began
    return taken


def share_that_shows(clip: LoopedClip) -> float:
    """Return the share of GOPs, of three rounds after the first, whose packet sizes show a change."""
    spikes = Spikes()
    shown: list[bool] = []
    for number in range(4 * len(clip.packets)):
        packet = clip.packet(number)
        if packet.is_keyframe:
            spikes.begin_gop(packet.size, packet.pts)
            shown.append(False)
        elif spikes.shows_change(packet.size, packet.pts):
            shown[-1] = True
    later = shown[len(clip.keyframes) :]
    return sum(later) / len(later)


def _fingerprint(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(_PDQ.hash_plane(plane).value, np.uint8)

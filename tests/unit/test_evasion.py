"""What a streamer who owns the encoder hides between clean keyframes is found: real packets on a virtual clock."""

import io
import random
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import av
import numpy as np
import pytest

from benchmarks.hidden_clips import GOP, RATE, Control, HiddenClip, Hiding, camera, secret, speaker, still
from streams.decoder import Decoder
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.live_look import LiveLook
from streams.sampling import Sampler, SamplingSettings
from streams.whole_gop import Output

AS_SHIPPED = SamplingSettings(3.0, 1.0, burst_share=0.05, spikes=True)
SEEDS = 50
IN_TIME_SECONDS = 3.0 + 2.0


@cache
def packets_of(clip: HiddenClip) -> list[av.Packet]:
    with av.open(io.BytesIO(clip.encoded()), format="mpegts") as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def new_decoder() -> Decoder:
    """A decoder of a track that nobody decoded before."""
    context = av.CodecContext.create("h264", "r")
    track = SimpleNamespace(codec_context=context, time_base=Fraction(1, 90000), sample_aspect_ratio=None)
    return Decoder(track, 1 << 24)


@cache
def secret_plane() -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(secret(0), "rgb24").reformat(format="yuv420p")
    small = frame.reformat(width=64, height=64, format="gray")
    return np.frombuffer(bytes(small.planes[0]), np.uint8).reshape(64, -1)[:, :64].astype(np.int16)


@dataclass
class Watching:
    """A clip that is looked at: when something hidden was first sent for analysis, and why it had been sampled."""

    clip: HiddenClip
    settings: SamplingSettings
    seed: int
    now: float = 0.0
    found: tuple[float, SampleReason] | None = None
    reasons: list[SampleReason] = field(default_factory=list)

    def run(self) -> "Watching":
        draw = random.Random(self.seed)
        joined_at = draw.randrange(self.clip.clean_gops * GOP) if self.clip.clean_gops else 0
        packets = packets_of(self.clip)
        self._decoder = new_decoder()
        output: Output[av.VideoFrame, tuple[np.ndarray, SampleReason]] = Output(self._emit, self._keep, self._send)
        look = LiveLook(Sampler(self.settings, draw.random), GopRing(1 << 24), self._decoder, output)
        for number, packet in enumerate(packets[joined_at:], joined_at):
            self.now = number / RATE
            look.take(packet, self.now)
            if self.found:
                break
        return self

    def _keep(self, frame: av.VideoFrame, _: float, reason: SampleReason) -> tuple[np.ndarray, SampleReason]:
        plane = self._decoder.plane(frame)
        assert plane is not None
        return plane, reason

    def _emit(self, frame: av.VideoFrame, arrived_at: float, reason: SampleReason) -> None:
        self._send([self._keep(frame, arrived_at, reason)])

    def _send(self, samples: list[tuple[np.ndarray, SampleReason]]) -> None:
        for plane, reason in samples:
            self.reasons.append(reason)
            if self.found is None and np.abs(plane - secret_plane()).mean() < 12:
                self.found = self.now, reason

    @property
    def found_after_seconds(self) -> float:
        hidden_from = self.clip.clean_gops * GOP / RATE
        return float("inf") if self.found is None else self.found[0] - hidden_from


def found_in_time(clip: HiddenClip, settings: SamplingSettings, seeds: int = SEEDS) -> float:
    runs = [Watching(clip, settings, seed).run() for seed in range(seeds)]
    return sum(run.found_after_seconds <= IN_TIME_SECONDS for run in runs) / seeds


@pytest.mark.parametrize("control", [Control.ABR, Control.CBR, Control.LIVE])
@pytest.mark.parametrize("clean", [camera, speaker])
def test_what_spares_every_keyframe_is_found(clean: object, control: Control) -> None:
    """Clean keyframes and something else in all other frames: nothing by keyframes alone, 95 of 100 as shipped."""
    clip = HiddenClip(clean, Hiding.BETWEEN_KEYFRAMES, control, gops=5)

    assert found_in_time(clip, SamplingSettings(), 2) == 0.0
    assert found_in_time(clip, AS_SHIPPED) >= 0.95


@pytest.mark.parametrize("control", [Control.ABR, Control.CBR])
def test_what_is_in_b_frames_alone_is_found(control: Control) -> None:
    """No frame that another refers to shows it; its sizes give it away all the same."""
    clip = HiddenClip(camera, Hiding.B_FRAMES, control, gops=5)

    assert found_in_time(clip, SamplingSettings(), 2) == 0.0
    assert found_in_time(clip, AS_SHIPPED) >= 0.95


def test_what_is_shown_while_the_picture_is_refreshed_bit_by_bit_is_found() -> None:
    """Without true keyframes a stream is decoded through, and needs no luck."""
    clip = HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, Control.CBR, gops=6, clean_gops=3, intra_refresh=True)

    assert found_in_time(clip, SamplingSettings(), 20) == 1.0


def test_spike_is_sent_at_once() -> None:
    """The frame because of which a GOP is decoded goes to analysis within 0.2 s, reordering included."""
    for control in (Control.ABR, Control.LIVE):
        run = Watching(HiddenClip(still, Hiding.HALFWAY, control, gops=4, clean_gops=2), AS_SHIPPED, seed=3).run()

        assert run.found is not None
        assert run.found[1] is SampleReason.SPIKE
        assert run.found_after_seconds - GOP / 2 / RATE <= 0.2


def test_bursts_find_what_sizes_do_not_show() -> None:
    """With spikes off, one GOP in three decoded whole finds what each GOP hides within three GOPs or so."""
    clip = HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, Control.ABR, gops=8)
    runs = [Watching(clip, SamplingSettings(burst_share=1 / 3), seed).run() for seed in range(20)]

    assert {run.found[1] for run in runs if run.found} == {SampleReason.BURST}
    # Two blocks of three may leave up to four between them; a GOP is looked at when it is over.
    assert all(run.found_after_seconds <= 5 * 2.0 + 0.1 for run in runs)

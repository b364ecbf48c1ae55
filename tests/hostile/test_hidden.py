"""Who knows the schedule, hides between keyframes, flashes, or hardly moves: real packets on a virtual clock."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest

from benchmarks.hidden_clips import GOP, RATE, Control, HiddenClip, Hiding, Picture, Scene, camera, card, still, text
from benchmarks.virtual_clock import LoopedClip, LoopedPacket, RememberedDecoder, SeenFrame, Watching
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.live_look import LiveLook
from streams.peek import PEEK_PACKETS
from streams.sampling import Sampler, SamplingMode, SamplingSettings
from streams.whole_gop import Output

AS_SHIPPED = SamplingSettings(3.0, 1.0, burst_share=0.05, spikes=True)
SETTLED_SECONDS = 10.0


@dataclass(frozen=True)
class OneFrame(HiddenClip):
    """Hides a single frame in every GOP."""

    def picture(self, number: int) -> Picture:
        """Return the picture of a frame."""
        return self.target(number, self.size) if number % self.gop == 47 else self.clean(number, self.size)


@cache
def looped(clip: HiddenClip) -> LoopedClip:
    """The clip without end; what one run decoded is there for the next."""
    return LoopedClip(clip)


def found_after(clip: HiddenClip, settings: SamplingSettings, seed: int, limit_seconds: float) -> float:
    """Seconds until a frame that shows the target is handed over, which appears at any moment; else infinity."""
    appears_at = SETTLED_SECONDS + random.Random(f"appears {seed}").uniform(0.0, clip.gop / RATE)
    run = Watching(looped(clip), settings, seed, target_from_seconds=appears_at)
    sighting = run.run_to(appears_at + limit_seconds)
    return float("inf") if sighting is None else sighting.at - appears_at


def test_who_avoids_every_instant_that_can_be_foreseen_is_found() -> None:
    """Half of each second, never a whole one: a fixed schedule finds nothing, a random one in 5 s 95 times of 100."""
    clip = HiddenClip(camera, Hiding.HALF_SECONDS, Control.ABR, gops=3, clean_gops=0)
    shown = looped(clip).shown()
    assert sum(shown) == pytest.approx(len(shown) / 2, abs=len(shown) / 10)
    assert not any(shown[::RATE]), "once a second finds nothing"

    keyframes_alone = SamplingSettings(mode=SamplingMode.KEYFRAMES)
    assert found_after(clip, keyframes_alone, 0, 60.0) == float("inf")

    through = SamplingSettings(mode=SamplingMode.FULL)
    found = [found_after(clip, through, seed, 5.0) for seed in range(200)]
    assert sum(seconds <= 5.0 for seconds in found) >= 0.95 * 200


@pytest.mark.parametrize(
    "clip",
    [
        HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, Control.CBR, gops=3, clean_gops=0),
        HiddenClip(camera, Hiding.B_FRAMES, Control.ABR, gops=3, clean_gops=0),
        HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, Control.ABR, gops=1, clean_gops=0, gop=20 * RATE),
    ],
    ids=["between keyframes", "B-frames alone", "GOP of 20 s"],
)
def test_what_no_keyframe_shows_is_found(clip: HiddenClip) -> None:
    """Whenever it appears, it is found within 5 s, 50 times of 50; by keyframes alone never."""
    assert found_after(clip, SamplingSettings(mode=SamplingMode.KEYFRAMES), 0, 41.0) == float("inf")
    assert all(found_after(clip, AS_SHIPPED, seed, 5.0) <= 5.0 for seed in range(50))


@pytest.mark.parametrize(
    ("target", "control"),
    [(card, Control.ABR), (card, Control.CBR), (card, Control.ONE_FRAME), (text, Control.ABR), (text, Control.CBR)],
)
@pytest.mark.parametrize("gop", [RATE, 2 * RATE])
def test_what_costs_little_is_found_behind_keyframes_that_cost_much(target: Scene, control: Control, gop: int) -> None:
    """A drawn card or writing, too small beside a busy camera to show in sizes, is found within 5 s all the same."""
    clip = HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, control, gops=3, clean_gops=0, gop=gop, target=target)

    assert found_after(clip, SamplingSettings(mode=SamplingMode.KEYFRAMES), 0, 41.0) == float("inf")
    assert all(found_after(clip, AS_SHIPPED, seed, 5.0) <= 5.0 for seed in range(50))


@pytest.mark.parametrize(
    ("clip", "least"),
    [
        (HiddenClip(camera, Hiding.FLASHES, Control.ABR, gops=3, clean_gops=0), 0.9),
        (OneFrame(camera, Hiding.NOWHERE, Control.ABR, gops=3, clean_gops=0), 0.9),
    ],
    ids=["two frames", "one frame"],
)
def test_flashes_are_found(clip: HiddenClip, least: float) -> None:
    """Two frames every 2 s, or one, are found in a minute; where sizes show nothing, by the GOPs chosen at random."""
    for settings in (AS_SHIPPED, SamplingSettings(burst_share=0.05)):
        found = [found_after(clip, settings, seed, 60.0) for seed in range(40)]
        assert sum(seconds <= 60.0 for seconds in found) >= least * 40


class CountingDecoder(RememberedDecoder):
    """Counts the packets that it decoded."""

    decoded = 0

    def decode_alone(self, packet: LoopedPacket) -> SeenFrame | None:
        """Decode a keyframe at once."""
        self.decoded += 1
        return super().decode_alone(packet)

    def decode_through(self, packet: LoopedPacket) -> list[SeenFrame]:
        """Decode one packet after the other."""
        self.decoded += 1
        return super().decode_through(packet)


class Run:
    """A stream whose packets arrive at given times: what was analysed alone, when it had arrived, and what it cost."""

    def __init__(self, clip: HiddenClip, settings: SamplingSettings, times: Iterable[float], seed: int = 1) -> None:
        self.samples: list[tuple[SeenFrame, float]] = []
        self.bursts: list[list[SeenFrame]] = []
        self.decoder = CountingDecoder(looped(clip))
        output: Output[SeenFrame, SeenFrame] = Output(self._emit, self._keep, self.bursts.append)
        ring: GopRing[LoopedPacket] = GopRing(1 << 24)
        look: LiveLook[LoopedPacket, SeenFrame, SeenFrame] = LiveLook(
            Sampler(settings, random.Random(seed).random), ring, self.decoder, output
        )
        for number, at in enumerate(times):
            look.take(looped(clip).packet(number), at)
        look.finish()

    def _emit(self, frame: SeenFrame, arrived_at: float, _: SampleReason) -> None:
        self.samples.append((frame, arrived_at))

    @staticmethod
    def _keep(frame: SeenFrame, _: float, __: SampleReason) -> SeenFrame:
        return frame


@pytest.mark.parametrize(("control", "slowed_to"), [(Control.LIVE, 0.0), (Control.ABR, 0.0), (Control.LIVE, 10.0)])
def test_stream_of_a_frame_every_ten_seconds_has_each_sampled(control: Control, slowed_to: float) -> None:
    """Who shows a picture for 10 s and no other hides none of them; slowed down to 10 s neither."""
    clip = HiddenClip(camera, Hiding.NOWHERE, control, gops=1)
    settings = SamplingSettings(3.0, 1.0, burst_share=0.05, spikes=True, slowed_to_seconds=slowed_to)

    run = Run(clip, settings, (10.0 * number for number in range(GOP)))

    frames = [frame for frame, _ in run.samples] + [frame for burst in run.bursts for frame in burst]
    assert {round(frame.shown_at * RATE) for frame in frames} == set(range(GOP))


def test_frozen_picture_costs_its_keyframes_and_is_covered() -> None:
    """A picture that never changes is looked at as often as any, and its GOPs say no more than one frame each."""
    clip = HiddenClip(still, Hiding.NOWHERE, Control.CBR, gops=3)
    packets = 40 * GOP

    run = Run(clip, AS_SHIPPED, (number / RATE for number in range(packets)))

    arrivals = [at for _, at in run.samples]
    assert max(later - earlier for earlier, later in pairwise(arrivals)) <= 3.0
    assert arrivals[-1] >= packets / RATE - 3.0
    assert {len(burst) for burst in run.bursts} == {1}
    # 40 keyframes, two GOPs of 60 by chance, the rest after the last one, and the first frames after most.
    assert run.decoder.decoded <= 40 + 2 * GOP + GOP + 40 * (1 + PEEK_PACKETS)

"""What stands in leading pictures alone, behind a keyframe and shown before it, is in GOPs that are decoded whole."""

import io
import random
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from detector.cards import synthetic_card
from streams.decoder import Decoder
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.leading import LeadingPictures
from streams.live_look import LiveLook
from streams.sampling import Sampler, SamplingSettings
from streams.whole_gop import Output, WholeGop

CLEAN, HIDDEN = 7, 1
GOP, GOPS, RATE = 8, 10, 15
SIZE = (320, 180)
LIBRARIES = {
    "libx264": ("h264", "x264-params", "keyint=8:min-keyint=8:open-gop=1:bframes=7:b-adapt=0:scenecut=0"),
    "libx265": (
        "hevc",
        "x265-params",
        "log-level=none:rc-lookahead=20:keyint=8:min-keyint=8:open-gop=1:bframes=7:b-adapt=0:scenecut=0",
    ),
}


def open_gops(library: str) -> list[av.Packet]:
    """Keyframes are clean; the seven pictures between two of them, which lead up to the second, are hidden."""
    _, option, parameters = LIBRARIES[library]
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts") as target:
        stream = target.add_stream(library, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", option: parameters}
        for number in range(GOP * GOPS):
            is_first = number % GOP == 0
            card = synthetic_card(CLEAN if is_first else HIDDEN, *SIZE)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(card), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            frame.pict_type = PictureType.I if is_first else PictureType.B
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with av.open(io.BytesIO(written.getvalue()), format="mpegts") as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_what_leads_up_to_a_keyframe_belongs_to_the_gop_before_it(library: str) -> None:
    """Of each GOP but the one in which a stream is joined and its last: no keyframe shows it, and no GOP by itself."""
    context = av.CodecContext.create(LIBRARIES[library][0], "r")
    decoder = Decoder(
        SimpleNamespace(codec_context=context, time_base=Fraction(1, 90_000), sample_aspect_ratio=None), 1 << 24
    )
    hidden = _plane(decoder, HIDDEN)
    found: list[float] = []

    def keep(frame: av.VideoFrame, arrived_at: float, reason: SampleReason) -> float:
        plane = decoder.plane(frame)
        assert plane is not None
        is_found = reason is SampleReason.BURST and np.abs(plane.astype(int) - hidden).mean() < 12
        return arrived_at if is_found else -1.0

    output: Output[av.VideoFrame, float] = Output(
        lambda *_: None, keep, lambda samples: found.extend(at for at in samples if at >= 0)
    )
    packets = open_gops(library)
    look = LiveLook(
        Sampler(SamplingSettings(3.0, 1.0, burst_share=1.0), random.Random(1).random), GopRing(1 << 24), decoder, output
    )
    for number, packet in enumerate(packets):
        look.take(packet, number / RATE)
    look.finish()

    keyframes = sum(packet.is_keyframe for packet in packets)
    assert keyframes >= GOPS - 1
    assert len({round(at * RATE) // GOP for at in found}) >= keyframes - 2
    assert look.bursts >= keyframes - 2


def _plane(decoder: Decoder, seed: int) -> np.ndarray:
    card = np.ascontiguousarray(synthetic_card(seed, *SIZE))
    plane = decoder.plane(av.VideoFrame.from_ndarray(card, "rgb24").reformat(format="yuv420p"))
    assert plane is not None
    return plane.astype(int)


@dataclass(frozen=True)
class Packet:
    """A packet by its time."""

    pts: int | None
    is_keyframe: bool = False


def test_a_gop_is_held_open_for_what_leads_and_for_no_more() -> None:
    """The first packet that does not lead closes it, so does the 33rd that claims to, and a packet without a time."""
    whole: WholeGop[Packet, None, None] = WholeGop(SimpleNamespace(plane=lambda _: None), Output(*[print] * 3), 0.0)
    for behind, held in (([96, 97, 101], 2), ([50] * 40, 32), ([None], 0), ([], 0)):
        pictures: LeadingPictures[Packet, None, None] = LeadingPictures()
        keyframe = Packet(100, is_keyframe=True)
        assert pictures.hear(keyframe, 0.0) is None
        pictures.hold(whole, [(keyframe, 0.0)])
        ended = [pictures.hear(Packet(pts), 1.0) for pts in behind] + [pictures.take()]
        (closed,) = [one for one in ended if one is not None]
        assert len(closed.entries) == 1 + held
        assert pictures.are_usual == (held > 0)

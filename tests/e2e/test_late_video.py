"""A stream that begins as sound alone: blind, told so, opened again, and seen once there is a picture."""

import asyncio
import io
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.loopback import serving
from detector.assembly import open_service
from detector.cards import synthetic_card
from detector.config.loading import load_config
from tests.slack import SLACK_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

_RATE = 48_000
_FPS = 15
_SOUND_PER_FRAME = _RATE // _FPS

Chunk = tuple[float, bytes]


def flv(seconds: float, *, has_video: bool) -> list[Chunk]:
    """An FLV stream as (due second, bytes): silence, and a card where `has_video`."""
    buffer = io.BytesIO()
    chunks: list[Chunk] = []
    taken = 0
    with av.open(buffer, "w", format="flv") as container:
        sound = container.add_stream("aac", rate=_RATE, layout="mono")
        picture = None
        if has_video:
            options = {"preset": "ultrafast", "tune": "zerolatency"}
            picture = container.add_stream("libx264", rate=_FPS, options=options)
            picture.width, picture.height, picture.pix_fmt, picture.gop_size = 320, 180, "yuv420p", _FPS
        card = synthetic_card(5, 320, 180)
        for number in range(int(seconds * _FPS)):
            if picture is not None:
                frame = av.VideoFrame.from_ndarray(card, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, _FPS)
                container.mux(picture.encode(frame))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, _SOUND_PER_FRAME), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = _RATE, number * _SOUND_PER_FRAME
            container.mux(sound.encode(silence))
            written = buffer.getvalue()
            chunks.append((number / _FPS, written[taken:]))
            taken = len(written)
    return chunks


class LateVideo:
    """An HTTP-FLV server whose stream has a picture from `video_from` (monotonic) on, for whoever asks after that."""

    def __init__(self) -> None:
        self.sound = flv(30.0, has_video=False)
        self.film = flv(30.0, has_video=True)
        self.video_from = float("inf")
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the stream at its pace until the client goes."""
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        for due, piece in self.film if began >= self.video_from else self.sound:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            writer.write(piece)
            await writer.drain()


async def test_video_that_begins_late_is_found(tmp_path: Path) -> None:
    """Sound alone is blind with its cause and an alert; a picture that comes later is seen within ten seconds."""
    late = LateVideo()
    config = tmp_path / "stopframe.yaml"
    async with serving(late.serve) as port:
        config.write_text(
            f"state_dir: {tmp_path}/state\n"
            "ingest: {kind: none}\n"
            f"sources: [{{name: lobby, url: 'http://127.0.0.1:{port}/live/key.flv'}}]\n"
            "alerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\n"
            "http: {listen: '127.0.0.1:0'}\n"
            "analysis: {workers: 1}\n"
        )
        async with open_service(load_config(config)) as service, asyncio.timeout(110):
            while not (incidents := await service.incidents(5)):
                await asyncio.sleep(0.1)
            session = next(iter(service.supervisor.sessions.values()))
            while session.code != "no_video":
                await asyncio.sleep(0.1)
            assert incidents[0].signals.startswith("blind/")
            # What comes within the promise leaves no gap in the account, however quickly its lack was told.
            promised = session.settings.job.sampling.detect_within_seconds
            while session.coverage().blind_seconds_by_cause()["no_video"] < promised + 0.5:
                await asyncio.sleep(0.1)
            assert session.last_sample_at is None

            late.video_from = time.monotonic()
            while session.last_sample_at is None:
                await asyncio.sleep(0.05)
            found_after = time.monotonic() - late.video_from

            assert session.state == "live"
            assert "no_video" in session.coverage().blind_seconds_by_cause()
    assert found_after < 12.0 + SLACK_SECONDS, found_after
    assert late.asked >= 2

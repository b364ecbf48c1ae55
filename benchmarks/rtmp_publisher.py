"""Publishes cards live by RTMP, one publication after the other: `python -m benchmarks.rtmp_publisher`.

Each line on stdin is a JSON object of `Publication`; stdout carries one JSON line for each, an `Account` of when what
happened. PyAV's output holds the GIL while it writes to the network, so every publisher is a process of its own; it
stays for many publications, so that starting Python costs the machine nothing while others are measured.

PyAV and not the ffmpeg command: only here is the moment known at which a packet leaves x264, before it is muxed and
written. x264 keeps its look-ahead, as streaming software lets it. The end of the connection is seen by poll(2) on the
socket itself: a write would notice it a frame or two later.
"""

import contextlib
import json
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from detector.cards import drawn_card

_SAMPLE_RATE = 44_100
_SAMPLES = 1024
_AUDIO_AHEAD_SECONDS = 0.2
_POLL_MS = 100


@dataclass(frozen=True, slots=True)
class Publication:
    """What to publish: `clean_frames` frames of the clean card, then the bad one until the server ends it.

    Whoever is not cut leaves `patience_seconds` after the first bad frame, and at once where `bad_card` is None.
    """

    url: str
    clean_card: str
    bad_card: str | None
    clean_frames: int
    width: int = 640
    height: int = 360
    fps: int = 30
    gop_seconds: float = 1.0
    bframes: int = 0
    has_audio: bool = True
    patience_seconds: float = 10.0


@dataclass(slots=True)
class Account:
    """What became of it. Times are on the monotonic clock that all processes of a machine share; None: never.

    `asked_at`: before the connection was opened. `accepted_at`: the server lets us publish. `bad_left_at`: the first
    packet that shows the bad card left the encoder. `bad_keyframes_left_at`: the keyframes that show it. `closed_at`:
    the server ended the connection. `latest_seconds`: how far the encoder was behind its pace while it was bad.
    """

    asked_at: float = 0.0
    accepted_at: float | None = None
    bad_left_at: float | None = None
    bad_keyframes_left_at: list[float] = field(default_factory=list)
    closed_at: float | None = None
    latest_seconds: float = 0.0
    fault: str = ""


class _Ending:
    """Watches the one socket that was opened inside `opening`, and notes when the server ends it."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.closed_at: float | None = None
        self._is_wanted = True
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._watch, name="publisher.ending")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False
        if self._socket is not None:
            self._thread.join()
            self._socket.close()

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        before = _open_sockets()
        yield
        [descriptor] = _open_sockets() - before
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._thread.start()

    def _watch(self) -> None:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        while self._is_wanted:
            if poll.poll(_POLL_MS):
                self.closed_at = time.monotonic()
                self.is_over.set()
                return


class _Encoder:
    """x264 and AAC into one FLV that goes out by RTMP; nothing is sent before `connect`."""

    def __init__(self, wanted: Publication, account: Account) -> None:
        self._wanted = wanted
        self._account = account
        self._container: OutputContainer = av.open(wanted.url, "w", format="flv", options={"flush_packets": "1"})
        self._video: VideoStream = self._container.add_stream("libx264", rate=wanted.fps)
        self._video.width, self._video.height, self._video.pix_fmt = wanted.width, wanted.height, "yuv420p"
        gop = max(1, round(wanted.fps * wanted.gop_seconds))
        self._video.codec_context.gop_size = gop
        # Keyframes at their distance and nowhere else: one at the change of cards would be found at once.
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={wanted.bframes}:b-adapt=0:threads=1"
        self._video.options = {"preset": "veryfast", "x264-params": params}
        self._audio: AudioStream | None = None
        if wanted.has_audio:
            self._audio = self._container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
        self._audio_samples = 0
        self._pictures = {card: _picture(card, wanted) for card in (wanted.clean_card, wanted.bad_card) if card}
        self._waiting: list[av.Packet[Any]] = []
        self.frames = 0

    def fill(self) -> None:
        """Encode until the first packet is out: what x264 looks ahead is then none of the server's time."""
        while not any(packet.stream is self._video for packet in self._waiting):
            self._waiting += self._encoded_next()

    def connect(self) -> None:
        """Open the connection and publish; raises OSError where the server refuses."""
        self._container.start_encoding()

    def send_next(self) -> None:
        """Encode the next frame and send what comes out; raises OSError once the server ended it."""
        packets, self._waiting = [*self._waiting, *self._encoded_next()], []
        for packet in packets:
            if packet.stream is self._video:
                self._note(packet)
            self._container.mux(packet)

    def close(self) -> None:
        """Leave, whatever state the connection is in."""
        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()

    def _encoded_next(self) -> "list[av.Packet[Any]]":
        number, wanted = self.frames, self._wanted
        # Sound first, and some ahead: the muxer holds a picture back until it has later sound.
        packets = list(self._sound(until=number / wanted.fps + _AUDIO_AHEAD_SECONDS))
        card = wanted.clean_card if number < wanted.clean_frames or wanted.bad_card is None else wanted.bad_card
        frame = self._pictures[card]
        frame.pts, frame.time_base = number, Fraction(1, wanted.fps)
        self.frames += 1
        return [*packets, *self._video.encode(frame)]

    def _sound(self, until: float) -> "Iterator[av.Packet[Any]]":
        while self._audio is not None and self._audio_samples / _SAMPLE_RATE < until:
            at = (self._audio_samples + np.arange(_SAMPLES)) / _SAMPLE_RATE
            tone = (0.2 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None, :], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = _SAMPLE_RATE, self._audio_samples, Fraction(1, _SAMPLE_RATE)
            self._audio_samples += _SAMPLES
            yield from self._audio.encode(frame)

    def _note(self, packet: "av.Packet[Any]") -> None:
        """Note a packet that shows the bad card; its PTS still counts frames."""
        assert packet.pts is not None
        if self._wanted.bad_card is None or packet.pts < self._wanted.clean_frames:
            return
        now = time.monotonic()
        if self._account.bad_left_at is None:
            self._account.bad_left_at = now
        if packet.is_keyframe:
            self._account.bad_keyframes_left_at.append(now)


def publish(wanted: Publication) -> Account:
    """Publish until cut, refused or done; never raises for what the server does."""
    account = Account()
    encoder = _Encoder(wanted, account)
    with _Ending() as ending:
        try:
            encoder.fill()
            account.asked_at = time.monotonic()
            with ending.opening():
                encoder.connect()
            account.accepted_at = time.monotonic()
            _keep_pace(wanted, account, encoder, ending)
        except (OSError, av.FFmpegError) as error:
            # A write may fail before the other thread has had its turn.
            if account.accepted_at is None or not ending.is_over.wait(1.0):
                account.fault = f"{type(error).__name__} {error.errno}"
        account.closed_at = ending.closed_at
        encoder.close()
    return account


def _keep_pace(wanted: Publication, account: Account, encoder: _Encoder, ending: _Ending) -> None:
    begun_at = account.asked_at - encoder.frames / wanted.fps
    while not ending.is_over.is_set():
        due_at = begun_at + encoder.frames / wanted.fps
        if ending.is_over.wait(max(0.0, due_at - time.monotonic())):
            return
        if encoder.frames >= wanted.clean_frames and wanted.bad_card is None:
            return
        if account.bad_left_at is not None:
            account.latest_seconds = max(account.latest_seconds, time.monotonic() - due_at)
            if time.monotonic() - account.bad_left_at > wanted.patience_seconds:
                return
        encoder.send_next()


def _picture(card: str, wanted: Publication) -> av.VideoFrame:
    drawn = drawn_card(card, wanted.width, wanted.height)
    if drawn is None:
        raise ValueError(f"{card} is no card that can be drawn here")
    return av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format="yuv420p")


def _open_sockets() -> set[int]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                found.add(int(path.name))
    return found


def main() -> int:
    """Publish what stdin asks for; ends with it."""
    for line in sys.stdin:
        account = publish(Publication(**json.loads(line)))
        print(json.dumps(asdict(account)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

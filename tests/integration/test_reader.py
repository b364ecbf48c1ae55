"""A whole reader: its own process, its own cage, media made here."""

import contextlib
import functools
import io
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from streams.frame import MAX_BURST_FRAMES, Frame, SampleReason
from streams.job import UNPACED, Job, SandboxMode, SourceKind
from streams.sampling import SamplingMode, SamplingSettings
from streams.sender import read_message
from streams.silence import PAUSE_SECONDS, STIR_SECONDS
from streams.wire import Adjust, Burst, EndCode, Ended, Heartbeat, LookCloser, Message, Opened, pack
from tests.fixtures_media import Clip, MediaMaker
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

KEY = "secret-stream-key"
SCAN = Job(SourceKind.FILE, "", 0, live=False, sampling=SamplingSettings(), sandbox=SandboxMode.PREFER)
LIVE_FILE = replace(SCAN, live=True)

_CHILD = """
import fcntl, os, sys
private = fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD, 10)
if len(sys.argv) > 2:
    os.dup2(int(sys.argv[2]), 4)
os.dup2(private, 3)
from streams.reader import main
main(3)
"""


@dataclass
class Reader:
    """A running reader and everything it said, with the time at which it was heard."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    heard: list[tuple[float, Message]] = field(default_factory=list)

    def listen(self, until: Callable[[Message], bool] = lambda _: False) -> Message:
        """Take messages until `until` or the last word, and return that message."""
        while True:
            message = read_message(self.socket.fileno())
            self.heard.append((time.monotonic(), message))
            if isinstance(message, Ended) or until(message):
                return message

    def all(self, kind: type) -> list:
        return [message for _, message in self.heard if isinstance(message, kind)]


@contextlib.contextmanager
def reading(job: Job, path: Path | None = None) -> Iterator[Reader]:
    """Run a reader on `job`."""
    ours, theirs = socket.socketpair()
    fds = [theirs.fileno()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        stack.enter_context(theirs)
        if path is not None:
            fds.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        command = [sys.executable, "-c", _CHILD, *map(str, fds)]
        # One thread of numpy's, as the forkserver sees to: a cage holds only a process that has no others yet.
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        process = stack.enter_context(subprocess.Popen(command, pass_fds=fds, stderr=subprocess.PIPE, env=env))
        stack.callback(process.kill)
        theirs.close()
        ours.settimeout(60)
        ours.sendall(pack(job))
        ours.setblocking(True)
        yield Reader(process, ours)


def scanned(tmp_path: Path, content: bytes, job: Job = SCAN) -> Reader:
    """Let a reader read `content` to its end."""
    path = tmp_path / "media"
    path.write_bytes(content)
    with reading(job, path) as reader:
        reader.listen()
        assert reader.process.wait(30) == 0
        assert reader.process.stderr.read() == b""
    sequence = [frame.sequence for frame in reader.all(Frame)]
    assert sequence == sorted(set(sequence))
    return reader


@contextlib.contextmanager
def http_stream(
    content: bytes, seconds: float, *, stays: bool = False, drips: bool = False
) -> Iterator[tuple[str, int]]:
    """Serve `content` at the pace of a live stream of `seconds`, to one reader; give URL and port.

    `drips` goes on with four bytes a second.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
                    step = max(188, int(len(content) / max(seconds, 0.02) / 50) // 188 * 188)
                    began_at = time.monotonic()
                    for number, start in enumerate(range(0, len(content), step), start=1):
                        client.sendall(content[start : start + step])
                        due_at = began_at + seconds * number * step / len(content)
                        if seconds and done.wait(max(0.0, due_at - time.monotonic())):
                            return
                    while drips and not done.wait(0.25):
                        client.sendall(b"\x47")
                    done.wait(30 if stays else 0)

        thread = threading.Thread(target=serve, name="http-stream", daemon=True)
        thread.start()
        try:
            port = server.getsockname()[1]
            yield f"http://127.0.0.1:{port}/live/{KEY}", port
        finally:
            done.set()
            thread.join(10)


def http_job(url: str, port: int, sampling: SamplingSettings = SamplingSettings()) -> Job:  # noqa: B008
    return Job(SourceKind.HTTP_TS, url, port, live=True, sampling=sampling, sandbox=SandboxMode.PREFER)


def test_scan_takes_the_first_frame_every_change_and_one_an_interval(media: MediaMaker, tmp_path: Path) -> None:
    """A file's samples are where its pictures change and once an interval, on the media's own clock."""
    cards = {frame: media.card(grey) for frame, grey in ((0, 40), (70, 200), (71, 40))}
    clip = Clip(frames=150, gop=300, b_frames=2)

    def draw(number: int) -> np.ndarray:
        return cards[max(frame for frame in cards if frame <= number)]

    reader = scanned(tmp_path, media.clip(clip, draw))

    samples = [(round(frame.arrived_at * 30), frame.reason) for frame in reader.all(Frame)]
    changes = [number for number, reason in samples if reason is SampleReason.SCENE_CHANGE]
    assert changes == [0, 70, 71]
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(samples)) <= 30
    assert reader.all(Frame)[0].plane[0] == pytest.approx(40, abs=3)
    ended = reader.all(Ended)[0]
    assert ended.code is EndCode.END_OF_STREAM
    assert ended.media_end_seconds == pytest.approx(clip.seconds, abs=0.05)


def test_scan_waits_for_a_slow_service_and_loses_nothing(media: MediaMaker, tmp_path: Path) -> None:
    """Every sample of a file arrives, however slowly the service takes them, and waiting is not told as work."""
    path = tmp_path / "media"
    greys = [0, 80, 160, 240]
    path.write_bytes(media.clip(Clip(frames=40), lambda number: media.card(greys[number % 4])))
    with reading(SCAN, path) as reader:
        while not isinstance(reader.listen(lambda message: isinstance(message, Frame)), Ended):
            time.sleep(0.02)

    assert len(reader.all(Frame)) == 40
    assert all(
        math.isnan(beat.working_since) or beat.sent_at - beat.working_since < 1 for beat in reader.all(Heartbeat)
    )


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("png", "rgb24"), ("png", "gray"), ("png", "pal8"), ("mjpeg", "yuvj422p"), ("libwebp", "yuv420p")],
)
def test_picture_is_one_sample(media: MediaMaker, tmp_path: Path, codec: str, pixel_format: str) -> None:
    """A picture gives exactly one frame and takes no time."""
    picture = media.picture(codec, media.ramp(0, (640, 480)), pixel_format)

    reader = scanned(tmp_path, picture)

    frames, ended = reader.all(Frame), reader.all(Ended)[0]
    assert [(frame.reason, frame.arrived_at, frame.width) for frame in frames] == [(SampleReason.PICTURE, 0.0, 640)]
    assert (ended.code, ended.media_end_seconds) == (EndCode.END_OF_STREAM, 0.0)
    plane = np.frombuffer(frames[0].plane, np.uint8).reshape(64, 64)
    assert np.abs(plane.mean(axis=0) - np.arange(64) * 4).max() < 6


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no media at all", EndCode.NOT_MEDIA),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), EndCode.NOT_MEDIA),
        (b"\xff\xd8\xff" + bytes(400), EndCode.DECODE_ERRORS),
        (b"FLV\x01\x05\x00\x00\x00\x09" + os.urandom(3000), None),
    ],
    ids=["text", "png", "jpeg", "flv"],
)
def test_broken_file_ends_with_a_word(tmp_path: Path, content: bytes, code: EndCode | None) -> None:
    """Whatever a file holds, the reader ends by itself and says why."""
    ended = scanned(tmp_path, content).all(Ended)[0]

    assert ended.code is not EndCode.INTERNAL
    if code is not None:
        assert ended.code in (code, EndCode.DECODE_ERRORS, EndCode.RESOLUTION, EndCode.NO_VIDEO)
    assert len(ended.detail) > 10


def test_damaged_clip_is_scanned_to_its_end(media: MediaMaker, tmp_path: Path) -> None:
    """Noise in the middle of a file costs frames, not the file."""
    content = bytearray(media.clip(Clip(frames=120)))
    noise = np.random.default_rng(5)
    for place in noise.integers(len(content) // 4, len(content) // 2, 40):
        content[place] = noise.integers(256)

    reader = scanned(tmp_path, bytes(content))

    assert reader.all(Ended)[0].code is EndCode.END_OF_STREAM
    assert reader.all(Ended)[0].media_end_seconds == pytest.approx(4.0, abs=0.5)
    assert len(reader.all(Frame)) >= 4


@pytest.mark.needs_cage
def test_live_stream_is_watched_in_the_cage(media: MediaMaker) -> None:
    """Over HTTP every keyframe arrives at once, from inside a whole cage, and nothing tells the key."""
    clip = Clip(frames=90, gop=30, b_frames=2)
    with http_stream(media.clip(clip), clip.seconds) as (url, port):
        job = replace(http_job(url, port), sandbox=SandboxMode.REQUIRE)
        with reading(job) as reader:
            reader.listen()

    opened, frames = reader.all(Opened)[0], reader.all(Frame)
    assert (opened.codec, opened.width, opened.height, opened.video_tracks) == ("h264", 320, 240, 1)
    assert opened.has_seccomp
    assert opened.limits_network
    keyframes = [frame for frame in frames if frame.reason is SampleReason.KEYFRAME]
    assert len(keyframes) == 3
    assert [later.pts_seconds - earlier.pts_seconds for earlier, later in pairwise(keyframes)] == pytest.approx(
        [1.0] * 2
    )
    for at, message in reader.heard:
        if isinstance(message, Frame):
            assert message.arrived_at <= message.decoded_at <= at
            assert at - message.arrived_at < 1.0 + SLACK_SECONDS
    ended = reader.all(Ended)[0]
    assert ended.code is EndCode.END_OF_STREAM
    assert KEY not in ended.detail
    assert frames[-1].reason is SampleReason.DECODE_THROUGH  # what was on screen last


def test_live_stream_without_keyframes_is_decoded_when_time_is_up(media: MediaMaker) -> None:
    """A GOP longer than detect_within is decoded after that time, and one frame an interval from there."""
    clip = Clip(frames=90, gop=300)
    sampling = SamplingSettings(detect_within_seconds=1.0, interval_seconds=0.5)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port, sampling)) as reader:
        reader.listen()

    frames, beat = reader.all(Frame), reader.all(Heartbeat)[-1]
    assert frames[0].reason is SampleReason.KEYFRAME
    assert {frame.reason for frame in frames[1:]} == {SampleReason.DECODE_THROUGH}
    assert beat.keyframes_decoded == 1
    assert 0.0 < beat.keyframe_cpu_seconds < beat.through_cpu_seconds < beat.cpu_seconds
    assert beat.whole_cpu_seconds == 0.0
    assert len(frames) >= 4
    assert max(later.arrived_at - earlier.arrived_at for earlier, later in pairwise(frames)) <= 1.0 + SLACK_SECONDS


def test_whole_gops_come_as_one_message_each(media: MediaMaker) -> None:
    """With every GOP decoded whole, each is told once it is over, in at most eight frames that differ."""
    clip = Clip(frames=90, gop=30, b_frames=2)
    sampling = SamplingSettings(burst_share=1.0)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port, sampling)) as reader:
        reader.listen()

    bursts, beat = reader.all(Burst), reader.all(Heartbeat)[-1]
    assert len(bursts) == beat.bursts + 1 == 3  # the last one is not complete
    assert beat.keyframes_decoded == beat.keyframes == 3
    assert 0.0 < beat.keyframe_cpu_seconds < beat.whole_cpu_seconds
    assert beat.keyframe_cpu_seconds + beat.through_cpu_seconds + beat.whole_cpu_seconds < beat.cpu_seconds
    for burst, begun_at in zip(bursts, (0.0, 1.0, 2.0), strict=True):
        times = [frame.pts_seconds - reader.all(Frame)[0].pts_seconds for frame in burst.frames]
        assert 3 <= len(times) <= MAX_BURST_FRAMES
        assert all(begun_at - 0.001 <= at < begun_at + 1.0 for at in times)
        assert {frame.reason for frame in burst.frames} == {SampleReason.BURST}
        assert len({frame.plane for frame in burst.frames}) == len(times)


def test_refresh_stream_is_watched_and_its_flags_counted(media: MediaMaker) -> None:
    """Intra refresh, whose flagged packets give no picture, is decoded through."""
    clip = Clip(frames=120, gop=30, intra_refresh=True)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port)) as reader:
        reader.listen(lambda message: isinstance(message, Heartbeat) and message.keyframes >= 3)
        beat = reader.all(Heartbeat)[-1]
        reader.listen()

    assert beat.keyframes_without_picture == beat.keyframes - 1
    reasons = [frame.reason for frame in reader.all(Frame)]
    assert reasons[0] is SampleReason.KEYFRAME
    assert reasons.count(SampleReason.DECODE_THROUGH) >= 3


def test_closer_look_is_begun_on_command(media: MediaMaker) -> None:
    """The service can ask for a closer look at a running stream."""
    clip = Clip(frames=90, gop=60)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port)) as reader:
        reader.listen(lambda message: isinstance(message, Frame))
        asked_at = time.monotonic()
        reader.socket.sendall(pack(LookCloser(0.1, asked_at + 2.0)))
        reader.listen()

    closer = [frame.arrived_at for frame in reader.all(Frame) if frame.reason is SampleReason.CLOSER_LOOK]
    assert len(closer) >= 6
    assert asked_at <= closer[0]
    assert closer[-1] <= asked_at + 2.0  # the reader's own times, of what it was told


def test_sampling_is_adjusted_on_command(media: MediaMaker) -> None:
    """The service can change the sampling of a running stream."""
    clip = Clip(frames=100, gop=300)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port)) as reader:
        reader.listen(lambda message: isinstance(message, Frame))
        asked_at = time.monotonic()
        reader.socket.sendall(pack(Adjust(SamplingSettings(detect_within_seconds=0.5, interval_seconds=0.2))))
        reader.listen()

    adjusted = [frame.arrived_at for frame in reader.all(Frame) if frame.arrived_at > asked_at]
    assert len(adjusted) >= 10
    assert adjusted[0] <= asked_at + 0.5 + SLACK_SECONDS
    assert max(later - earlier for earlier, later in pairwise(adjusted)) <= 0.5 + SLACK_SECONDS


def test_file_can_be_watched_like_a_live_stream(media: MediaMaker, tmp_path: Path) -> None:
    """A live job on a file takes as long as the file and samples its keyframes."""
    started_at = time.monotonic()

    reader = scanned(tmp_path, media.clip(Clip(frames=45, gop=20)), LIVE_FILE)

    assert time.monotonic() - started_at > 1.4
    frames = reader.all(Frame)
    assert [frame.reason for frame in frames[:3]] == [SampleReason.KEYFRAME] * 3
    assert frames[2].arrived_at - started_at > 4 / 3 - 0.05
    assert frames[2].arrived_at - frames[0].arrived_at < 4 / 3 + SLACK_SECONDS
    assert reader.all(Ended)[0].media_end_seconds == pytest.approx(1.5, abs=0.05)


def test_file_can_be_watched_faster_than_real_time_and_is_looked_at_as_often(media: MediaMaker, tmp_path: Path) -> None:
    """At four times real time each second of the file gives as many samples and heartbeats; times stay monotonic."""
    sampling = SamplingSettings(interval_seconds=0.5, mode=SamplingMode.FULL)
    job = replace(LIVE_FILE, sampling=sampling, speed=4.0)
    started_at = time.monotonic()

    reader = scanned(tmp_path, media.clip(Clip(frames=240, gop=60)), job)

    frames, beats = reader.all(Frame), reader.all(Heartbeat)
    assert 2.0 < frames[-1].arrived_at - started_at < time.monotonic() - started_at
    assert all(frame.arrived_at <= frame.decoded_at <= at for at, frame in reader.heard if isinstance(frame, Frame))
    keyframes = [frame.arrived_at for frame in frames if frame.reason is SampleReason.KEYFRAME]
    assert all(at - started_at > 0.5 * number for number, at in enumerate(keyframes))
    assert all(later - earlier < 0.5 + SLACK_SECONDS for earlier, later in pairwise(keyframes))
    assert 15 <= len(frames) - len(keyframes) + beats[-1].replaced_samples <= 18
    assert len(beats) >= 4  # a busy machine sends several as one
    assert beats[-1].gop_seconds == pytest.approx(2.0, abs=0.01)


def test_unpaced_file_is_looked_at_as_often_and_waited_for_nowhere(media: MediaMaker, tmp_path: Path) -> None:
    """As fast as it can be read, a file gives the samples and heartbeats that it gives in its own time."""
    reader = scanned(tmp_path, media.clip(Clip(frames=600, gop=60)), replace(LIVE_FILE, speed=UNPACED))

    arrivals = [frame.arrived_at for frame in reader.all(Frame)]
    assert arrivals[-1] - arrivals[0] < 10.0
    samples = [frame for frame in reader.all(Frame) if frame.reason is SampleReason.KEYFRAME]
    beats = reader.all(Heartbeat)
    assert len(samples) + beats[-1].replaced_samples == 10
    assert 3 <= len(beats) <= 60  # a busy machine sends several as one
    assert beats[-1].gop_seconds == pytest.approx(2.0, abs=0.01)
    assert all(frame.arrived_at <= frame.decoded_at <= at for at, frame in reader.heard if isinstance(frame, Frame))


def test_full_mode_takes_a_frame_of_each_interval(media: MediaMaker, tmp_path: Path) -> None:
    """Mode full analyses a random frame of every interval beside the keyframes."""
    sampling = SamplingSettings(interval_seconds=0.25, mode=SamplingMode.FULL)

    reader = scanned(tmp_path, media.clip(Clip(frames=60, gop=60)), replace(LIVE_FILE, sampling=sampling))

    through = [frame for frame in reader.all(Frame) if frame.reason is SampleReason.DECODE_THROUGH]
    assert 5 <= len(through) <= 10  # of eight intervals; what comes late comes together


def test_silent_server_ends_in_a_timeout_with_heartbeats_all_the_while(media: MediaMaker) -> None:
    """A stream that stops is left after the read timeout; until then the reader says that it waits."""
    content = media.clip(Clip(frames=30))
    with (
        http_stream(content, 0, stays=True) as (url, port),
        reading(replace(http_job(url, port), read_timeout_seconds=1.5)) as reader,
    ):
        ended = reader.listen()

    assert isinstance(ended, Ended)
    assert ended.code is EndCode.TIMEOUT
    beats = [at for at, message in reader.heard if isinstance(message, Heartbeat)]
    assert len(beats) >= 2
    assert max(later - earlier for earlier, later in pairwise(beats)) < 1.0 + SLACK_SECONDS
    last = reader.all(Heartbeat)[-1]
    assert any(math.isnan(beat.working_since) for beat in reader.all(Heartbeat))
    assert last.packets >= 25  # the demuxer holds the last ones back
    assert last.received_bytes > 1000
    assert 0 < last.cpu_seconds < 5


def sound_goes_on(video_seconds: float, seconds: float, *, b_frames: int = 0) -> bytes:
    """Return a transport stream of video and sound, of which only the sound goes on to the end."""
    buffer, noise = io.BytesIO(), np.random.default_rng(5)
    with av.open(buffer, "w", format="mpegts") as output:
        video, sound = output.add_stream("libx264", rate=30), output.add_stream("aac", rate=48_000, layout="mono")
        video.width, video.height, video.pix_fmt, video.gop_size = 320, 240, "yuv420p", 15
        video.codec_context.max_b_frames = b_frames
        tune = {} if b_frames else {"tune": "zerolatency"}
        video.codec_context.options = {"preset": "ultrafast", "bf": str(b_frames), **tune}
        for number in range(round(seconds * 30)):
            samples = noise.normal(0.0, 0.2, (1, 1600)).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            heard.sample_rate, heard.pts = 48_000, number * 1600
            output.mux(sound.encode(heard))
            if number < video_seconds * 30:
                shown = np.full((240, 320, 3), 16 + 3 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(shown, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                output.mux(video.encode(frame))
            elif video_seconds * 30 <= number < video_seconds * 30 + 1:
                output.mux(video.encode(None))
    return buffer.getvalue()


def test_sound_is_read_only_while_no_video_comes_and_then_keeps_the_stream_alive() -> None:
    """While video comes, sound costs nothing; when it pauses, its last frame is looked at, and sound is no timeout."""
    with ThreadPoolExecutor(2) as threads:  # each takes its time
        assert list(threads.map(sound_is_heard, (0, 3))) == [None, None]


def sound_is_heard(b_frames: int) -> None:
    seconds = 6.2
    with http_stream(sound_goes_on(1.0, seconds, b_frames=b_frames), seconds) as (url, port):
        job = replace(http_job(url, port), read_timeout_seconds=2 * PAUSE_SECONDS + 0.1)
        with reading(job) as reader:
            reader.listen()

    frames, beats = reader.all(Frame), reader.all(Heartbeat)
    assert reader.all(Ended)[0].code is EndCode.END_OF_STREAM
    assert frames[-1].plane[0] == pytest.approx(16 + 3 * 29, abs=4), "the last frame was looked at"
    deaf = [beat for beat in beats if 10 <= beat.packets <= 35]
    assert deaf, "sound came with the video"
    assert beats[-1].packets > 100
    assert all(
        beat.sent_at - beat.last_packet_at < STIR_SECONDS + 0.7 + SLACK_SECONDS for beat in beats if beat.packets
    )


def test_frozen_picture_is_looked_at_while_bytes_that_are_no_packet_drip(media: MediaMaker) -> None:
    """The last picture is sampled before the reader gives up, heartbeats go on, and what it says last is a timeout."""
    with ThreadPoolExecutor(2) as threads:  # each takes its time
        looked_at = threads.map(functools.partial(frozen_picture, media), (SamplingMode.AUTO, SamplingMode.FULL))
        assert list(looked_at) == [None, None]


def frozen_picture(media: MediaMaker, mode: SamplingMode) -> None:
    greys = [60] * 50 + [200] * 10
    content = media.clip(Clip(frames=60, gop=300, b_frames=2), lambda number: media.card(greys[number]))
    with (
        http_stream(content, 0, drips=True) as (url, port),
        reading(replace(http_job(url, port, SamplingSettings(mode=mode)), read_timeout_seconds=3.0)) as reader,
    ):
        ended = reader.listen()

    assert isinstance(ended, Ended)
    assert ended.code is EndCode.TIMEOUT
    frames = reader.all(Frame)
    assert np.frombuffer(frames[0].plane, np.uint8).mean() == pytest.approx(60, abs=20)
    assert np.frombuffer(frames[-1].plane, np.uint8).mean() == pytest.approx(200, abs=20)
    assert frames[-1].decoded_at - frames[0].decoded_at < 3.5 + SLACK_SECONDS
    beats = [at for at, message in reader.heard if isinstance(message, Heartbeat)]
    assert max(later - earlier for earlier, later in pairwise(beats)) < 1.0 + SLACK_SECONDS


def test_reader_ends_quietly_when_the_service_is_gone(media: MediaMaker) -> None:
    """A closed socket ends a reader, without a word on its error output."""
    clip = Clip(frames=300, gop=15)
    with http_stream(media.clip(clip), clip.seconds) as (url, port), reading(http_job(url, port)) as reader:
        reader.listen(lambda message: isinstance(message, Frame))
        reader.socket.close()
        assert reader.process.wait(30) == 0
        assert reader.process.stderr.read() == b""


@pytest.mark.parametrize("said", [b"", b"SFR1", struct.pack("<4sB3xI", b"SFR1", 17, 16) + bytes(16), bytes(200)])
def test_reader_without_a_job_ends(said: bytes) -> None:
    """Anything but a job on the socket ends a reader before it does anything."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", _CHILD, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
            theirs.close()
            ours.sendall(said)
            ours.shutdown(socket.SHUT_WR)
            assert process.wait(30) == 0
            assert process.stderr.read() == b""

"""Clips as cameras and streaming software make them, from benign synthetic pictures.

A textured scene under a moving camera, textured things that move on their own before it, and sensor noise that is new
in every picture: without the noise and the motion an encoder would not know what to spend 4.5 Mb/s on, and decoding
would be cheaper than it is in life. Encoded once for `UNIT_SECONDS`; longer clips repeat the packets with later times.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

FPS: Final = 30
UNIT_SECONDS: Final = 8
"""Length of what is encoded; whole GOPs, so that it can be repeated."""

_ROOT = Path(__file__).resolve().parents[1]
_MADE_BY = 1
"""Goes into the names of the files: a change of what is drawn or how it is encoded raises it."""

_SAMPLE_RATE, _SAMPLES = 48_000, 1024
_MARGIN = 0.25
_SPRITES = 6
_ENCODERS_AT_ONCE = 2

Plane = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CameraClip:
    """How a clip is made. `gop_frames` of 1 is all-intra; CBR fills up to its rate, with a buffer of one second.

    At a `pace` of 1 the camera swings by 0.3 of the width each second and things fly by at up to twice the width, as in
    a game. At 0.15 somebody sits before it, and moves.
    """

    height: int
    kilobits: int
    is_cbr: bool
    bframes: int
    gop_frames: int = 2 * FPS
    has_audio: bool = False
    pace: float = 1.0

    @property
    def width(self) -> int:
        """16:9."""
        return self.height * 16 // 9

    @property
    def name(self) -> str:
        """For people, and unique."""
        gop = "all-intra" if self.gop_frames == 1 else f"{self.bframes} B-frames"
        rate = f"{'CBR' if self.is_cbr else 'ABR'} {self.kilobits / 1000:g} Mb/s"
        calm = "" if self.pace == 1.0 else ", calm"
        return f"{self.height}p{FPS} {rate}, {gop}{', AAC' if self.has_audio else ''}{calm}"

    @property
    def file_name(self) -> str:
        """Named after what is in it."""
        made = asdict(self)
        if self.pace == 1.0:  # what was made before there was a pace is the same
            del made["pace"]
        content = json.dumps([_MADE_BY, UNIT_SECONDS, made])
        return f"camera-{hashlib.sha256(content.encode()).hexdigest()[:20]}.flv"


OBS_LIKE: Final = CameraClip(1080, 4500, is_cbr=True, bframes=2, has_audio=True)
"""As OBS sends by default: veryfast, CBR, a keyframe every 2 s, 2 B-frames, AAC."""

CALM: Final = replace(OBS_LIKE, pace=0.15)
"""The same encoder before a scene of little movement."""

ALL_INTRA: Final = CameraClip(720, 8000, is_cbr=False, bframes=0, gop_frames=1)

CLIPS: Final = (
    OBS_LIKE,
    CameraClip(720, 2500, is_cbr=True, bframes=2, has_audio=True),
    *(CameraClip(height, rate, is_cbr, bframes) for height, rate in ((1080, 4500), (720, 2500))
      for is_cbr, bframes in ((True, 0), (False, 2), (False, 0))),
)  # fmt: skip
"""1080p30 and 720p30, CBR and ABR, with and without B-frames."""


@dataclass(frozen=True, slots=True)
class MadeClip:
    """A clip as a file of `UNIT_SECONDS`, and its sha256."""

    clip: CameraClip
    path: Path
    sha256: str

    def lengthened(self, rounds: int, *, suffix: str = ".flv") -> Path:
        """Return the file with its packets repeated `rounds` times; `suffix` names the container."""
        path = self.path.with_name(f"{self.path.stem}-x{rounds}{suffix}")
        if not path.exists():
            draft = path.with_name(f"draft-{os.getpid()}-{path.name}")
            _repeat(self.path, draft, rounds)
            draft.replace(path)
        return path


def clips_folder() -> Path:
    """Return the folder in which clips are kept from run to run, this user's own."""
    folder = Path(tempfile.gettempdir()) / f"stopframe-clips-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} is another user's; remove it")
    return folder


def make(clips: Sequence[CameraClip], folder: Path | None = None) -> dict[CameraClip, MadeClip]:
    """Encode what `folder` does not hold yet, some at a time, each in a process of its own."""
    folder = folder or clips_folder()

    def made(clip: CameraClip) -> MadeClip:
        path = folder / clip.file_name
        if not path.exists():
            draft = path.with_name(f"draft-{os.getpid()}-{path.name}")
            command = [sys.executable, "-m", "benchmarks.camera_clips", json.dumps(asdict(clip)), str(draft)]
            subprocess.run(command, check=True, cwd=_ROOT)
            draft.replace(path)
        return MadeClip(clip, path, hashlib.sha256(path.read_bytes()).hexdigest())

    with ThreadPoolExecutor(_ENCODERS_AT_ONCE, "camera-clips") as pool:
        return dict(zip(clips, pool.map(made, clips), strict=True))


def _repeat(source: Path, target: Path, rounds: int) -> None:
    form = {".ts": "mpegts", ".flv": "flv"}[target.suffix]
    with av.open(str(target), "w", format=form) as output:
        streams: list[Any] = []
        for number in range(rounds):
            with av.open(str(source)) as container:
                streams = streams or [output.add_stream_from_template(stream) for stream in container.streams]
                for packet in container.demux():
                    if packet.dts is None or packet.pts is None:
                        continue
                    shift = round(number * UNIT_SECONDS / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    output.mux(packet)


class _Scene:
    # What is filmed. Everything moves in whole periods of `UNIT_SECONDS`, so that a repeated clip has no cut in it.
    def __init__(self, clip: CameraClip) -> None:
        self._draw = np.random.default_rng(1)
        self._width, self._height = clip.width, clip.height
        self._grain = clip.height / 1080
        self._pace = clip.pace
        wide, high = (round(side * (1 + 2 * _MARGIN)) for side in (clip.width, clip.height))
        self._ground = _toned(118, 38 * self._texture(high, wide))
        self._sprites = [self._sprite(clip.height) for _ in range(_SPRITES)]
        shape = (clip.height + 64, clip.width + 64)
        self._noise = self._draw.normal(0, 3.0, shape).round().astype(np.int8)

    def _sprite(self, height: int) -> tuple[Plane, list[int], list[float]]:
        side = int(self._draw.integers(height // 7, height // 3))
        look = _toned(int(self._draw.integers(70, 180)), 30 * self._texture(side, side))
        return look, self._draw.integers(2, 7, 2).tolist(), self._draw.random(2).tolist()

    def _texture(self, height: int, width: int) -> NDArray[np.float32]:
        """As much contrast in coarse things as in fine ones, as pictures of nature have it; mean 0, variance 1."""
        sum_of = np.zeros((height, width), np.float32)
        for octave in range(9):
            step = 2**octave * self._grain
            shape = (max(2, round(height / step) + 2), max(2, round(width / step) + 2))
            coarse = self._draw.standard_normal(shape).astype(np.float32)
            sum_of += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * step
        normal: NDArray[np.float32] = (sum_of - sum_of.mean()) / sum_of.std()
        return normal

    def picture(self, number: int) -> av.VideoFrame:
        turn = 2 * np.pi * number / (FPS * UNIT_SECONDS)
        width, height = self._width, self._height
        zoom = 1 + 0.04 * self._pace * np.sin(turn)
        left = width * _MARGIN * (1 + 0.7 * self._pace * np.sin(2 * turn)) * (2 - zoom)
        top = height * _MARGIN * (1 + 0.7 * self._pace * np.sin(4 * turn)) * (2 - zoom)
        view = np.array([[zoom, 0, left], [0, zoom, top]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        luma = cv2.warpAffine(self._ground, view, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        for look, speeds, phases in self._sprites:
            side = len(look)
            x, y = (
                int((room - side) * (0.5 + 0.5 * self._pace * np.sin(turn * speed + 2 * np.pi * phase)))
                for room, speed, phase in zip((width, height), speeds, phases, strict=True)
            )
            luma[y : y + side, x : x + side] = look
        x, y = (int(place) for place in self._draw.integers(0, 64, 2))
        luma = cv2.add(luma, self._noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
        small = cv2.resize(luma, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        blue = cv2.convertScaleAbs(small, alpha=0.3, beta=90)
        red = cv2.convertScaleAbs(small, alpha=-0.25, beta=160)
        planes = np.concatenate([plane.reshape(-1, width) for plane in (luma, blue, red)])
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        return frame


def _toned(mean: int, contrast: NDArray[np.float32]) -> Plane:
    return np.clip(mean + contrast, 16, 235).astype(np.uint8)


def encode(clip: CameraClip, path: Path) -> None:
    """Encode `UNIT_SECONDS` of the scene on one thread, which gives the same bytes each time."""
    cv2.setNumThreads(1)
    scene = _Scene(clip)
    with av.open(str(path), "w", format="flv") as container:
        video: VideoStream = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = clip.width, clip.height, "yuv420p"
        video.codec_context.bit_rate = clip.kilobits * 1000
        video.codec_context.gop_size = clip.gop_frames
        params = f"keyint={clip.gop_frames}:min-keyint={clip.gop_frames}:scenecut=0:bframes={clip.bframes}:threads=1"
        if clip.is_cbr:
            params += f":vbv-maxrate={clip.kilobits}:vbv-bufsize={clip.kilobits}:nal-hrd=cbr:filler=1"
        video.options = {"preset": "veryfast", "x264-params": params}
        audio: AudioStream | None = None
        if clip.has_audio:
            audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
            audio.bit_rate = 160_000
        sounds = _sound(np.random.default_rng(2))
        heard = 0
        for number in range(UNIT_SECONDS * FPS):
            container.mux(video.encode(scene.picture(number)))
            while audio is not None and heard / _SAMPLE_RATE < (number + 1) / FPS:
                frame = next(sounds)
                frame.pts, heard = heard, heard + _SAMPLES
                container.mux(audio.encode(frame))
        container.mux(video.encode(None))


def _sound(draw: np.random.Generator) -> Iterator[av.AudioFrame]:
    while True:
        noise = (0.1 * draw.standard_normal((2, _SAMPLES))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
        frame.sample_rate = _SAMPLE_RATE
        yield frame


def main() -> int:
    """Encode one clip to one file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera_clips", description="Encode one clip.")
    parser.add_argument("clip", help="what to encode: a JSON object of CameraClip")
    parser.add_argument("path", type=Path)
    chosen = parser.parse_args()
    encode(CameraClip(**json.loads(chosen.clip)), chosen.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

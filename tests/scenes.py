"""Made pictures with the texture of natural ones, and what streams do to them: windows, filmed screens, encoders."""

import time
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.pdq import Pdq

Gray = NDArray[np.uint8]

WIDTH, HEIGHT = 640, 360


@lru_cache(maxsize=64)
def scene(seed: int) -> Gray:
    """A gray (360, 640) picture: noise whose power falls with frequency as in photographs, and a few solid shapes."""
    rng = np.random.default_rng(seed)
    down = np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT
    across = np.fft.rfftfreq(WIDTH)[None] * WIDTH
    distance = np.maximum(np.hypot(down, across), 1)
    noise = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH))) / distance ** rng.uniform(1.1, 1.6), (HEIGHT, WIDTH)
    )
    levels = (noise - noise.mean()) / noise.std() * rng.uniform(35, 60) + rng.uniform(90, 160)
    picture = levels.clip(0, 255).astype(np.uint8)
    for _ in range(rng.integers(2, 9)):
        centre = (int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT)))
        axes = (int(rng.integers(15, 125)), int(rng.integers(15, 100)))
        cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, int(rng.integers(0, 255)), -1, cv2.LINE_AA)
    picture.setflags(write=False)
    return picture


def desktop(seed: int) -> Gray:
    """A gray screen full of windows, boxes and lines of text: edges everywhere."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH), int(rng.integers(0, 255)), dtype=np.uint8)
    for _ in range(rng.integers(3, 14)):
        x, y = (int(v) for v in rng.integers(0, (WIDTH, HEIGHT)))
        end = (x + int(rng.integers(20, 250)), y + int(rng.integers(10, 150)))
        cv2.rectangle(picture, (x, y), end, int(rng.integers(0, 255)), -1 if rng.random() < 0.7 else 2)
    for _ in range(rng.integers(5, 30)):
        place = (int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT)))
        cv2.putText(picture, words(rng, 18), place, 0, rng.uniform(0.3, 1), int(rng.integers(0, 255)), 1, cv2.LINE_AA)
    return picture


def words(rng: np.random.Generator, count: int) -> str:
    """Random letters."""
    return "".join(chr(v) for v in rng.integers(65, 122, count))


def within(picture: Gray, background: Gray, share: float, rng: np.random.Generator) -> Gray:
    """The picture at a share of its size, at a random place of the background."""
    shown = background.copy()
    width, height = int(WIDTH * share), int(HEIGHT * share)
    x, y = int(rng.integers(0, WIDTH - width + 1)), int(rng.integers(0, HEIGHT - height + 1))
    shown[y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return shown


def filmed(picture: Gray, room: Gray, rng: np.random.Generator) -> Gray:
    """The picture on a screen with a dark bezel, filmed at an angle in a room, with noise and falling light."""
    margin = rng.uniform(0.04, 0.16, 8) * np.tile((WIDTH, HEIGHT), 4)
    frame = np.array([(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)], dtype=np.float32)
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], dtype=np.float32)
    corners = frame + inwards * margin.reshape(4, 2).astype(np.float32)
    shown = room.copy()
    matrix = cv2.getPerspectiveTransform(frame, corners)
    cv2.warpPerspective(picture, matrix, (WIDTH, HEIGHT), shown, borderMode=cv2.BORDER_TRANSPARENT)
    cv2.polylines(shown, [corners.astype(np.int32)], True, 15, 5, cv2.LINE_AA)
    lit = cv2.GaussianBlur(shown, (0, 0), 1.0) + rng.standard_normal(shown.shape) * 4
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    lit *= 1 - 0.3 * ((across / WIDTH - 0.5) ** 2 + (down / HEIGHT - 0.5) ** 2)
    return lit.clip(0, 255).astype(np.uint8)


def encoded(picture: Gray, quality: int = 60) -> Gray:
    """What a JPEG encoder leaves of it."""
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def square(picture: Gray) -> Gray:
    """The whole picture squeezed to 256x256."""
    return np.asarray(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def plane(picture: Gray) -> Gray:
    """The 64x64 plane that is hashed."""
    return np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def distance(one: Gray, other: Gray) -> int:
    """PDQ distance of two pictures or planes, in bits."""
    values = [int.from_bytes(Pdq().hash_plane(plane(np.ascontiguousarray(v))).value) for v in (one, other)]
    return (values[0] ^ values[1]).bit_count()


def adversarial() -> dict[str, Gray]:
    """Pictures full of what detectors look for."""
    rng = np.random.default_rng(5)
    down, across = np.mgrid[0:256, 0:256]
    grid = np.where((down % 4 == 0) | (across % 4 == 0), 255, 0)
    lines = np.zeros((256, 256), dtype=np.uint8)
    for _ in range(3000):
        ends = rng.integers(0, 256, 4)
        cv2.line(lines, tuple(map(int, ends[:2])), tuple(map(int, ends[2:])), int(rng.integers(0, 255)))
    page = np.full((256, 256), 255, dtype=np.uint8)
    for y in range(8, 256, 9):
        cv2.putText(page, "the quick brown fox jumps over it", (2, y), 0, 0.3, 0, 1)
    return {
        "noise": rng.integers(0, 256, (256, 256), dtype=np.uint8),
        "chessboard": np.where((down // 16 + across // 16) % 2, 255, 0).astype(np.uint8),
        "fine chessboard": np.where((down + across) % 2, 255, 0).astype(np.uint8),
        "grating": (127 + 127 * np.sin(across / 1.7)).astype(np.uint8),
        "grid": grid.astype(np.uint8),
        "a thousand lines": lines,
        "text page": page,
        "nested boxes": (np.minimum(np.minimum(down, across), np.minimum(255 - down, 255 - across)) // 4 * 97 % 256)
        .astype(np.uint8),
    }  # fmt: skip


def cpu_seconds(look: Callable[[Gray], object], gray: Gray) -> float:
    """The least of three runs, of ten looks each."""
    look(gray)
    runs = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(10):
            look(gray)
        runs.append((time.process_time() - start) / 10)
    return min(runs)

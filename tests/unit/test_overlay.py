"""The overlay of a stream is learned while its picture moves, and nothing is learned while it does not."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.hashing.fills import pull_push
from models.shapes.overlay import MAX_SHARE, OverlayMask
from tests.scenes import HEIGHT, WIDTH, Gray, cpu_seconds, distance, encoded, plane, scene, words

Change = Callable[[np.random.Generator, int, Gray], Gray]


def _moving(seed: int, count: int) -> Iterator[Gray]:
    """A film: shots of some seconds, some still, some panned, cut one after the other."""
    rng = np.random.default_rng(seed)
    left = 0
    for _ in range(count):
        if left == 0:
            left = int(rng.integers(2, 9))
            shot = cv2.resize(scene(int(rng.integers(0, 40))), (960, 540))
            place = rng.uniform((0, 0), (320, 180))
            speed = rng.normal(0, (25, 10)) * (rng.random() > 0.25)
        left -= 1
        place = np.clip(place + speed, 0, (320, 180))
        x, y = (int(v) for v in place)
        yield np.asarray(shot[y : y + HEIGHT, x : x + WIDTH], dtype=np.uint8)


def _text_and_logo(seed: int) -> tuple[Gray, Gray]:
    rng = np.random.default_rng(seed)
    cover = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.putText(cover, words(rng, 16), (30, 60 if seed % 2 else 320), 0, 1.2, 255, 3, cv2.LINE_AA)
    cv2.circle(cover, (560, 60 if seed % 3 else 300), 38, 255, -1, cv2.LINE_AA)
    colours = np.full_like(cover, 250 if seed % 2 else 10)
    cv2.circle(colours, (560, 60 if seed % 3 else 300), 40, int(rng.integers(0, 255)), -1)
    return cover, colours


def _chat(seed: int) -> tuple[Gray, Gray]:
    rng = np.random.default_rng(seed)
    x, y = (15 if seed % 2 else WIDTH - 181), (15 if seed % 3 else HEIGHT - 165)
    cover, colours = np.zeros((HEIGHT, WIDTH), dtype=np.uint8), np.full((HEIGHT, WIDTH), 35, dtype=np.uint8)
    cover[y : y + 150, x : x + 166] = 255
    for line in range(7):
        cv2.putText(colours, words(rng, 12), (x + 6, y + 18 + 20 * line), 0, 0.5, 230, 1, cv2.LINE_AA)
    return cover, colours


def _bar(seed: int) -> tuple[Gray, Gray]:
    rng = np.random.default_rng(seed)
    cover, colours = np.zeros((HEIGHT, WIDTH), dtype=np.uint8), np.full((HEIGHT, WIDTH), 20 * seed, dtype=np.uint8)
    cover[-43:] = 255
    cv2.putText(colours, words(rng, 24), (10, HEIGHT - 12), 0, 0.9, 230, 2, cv2.LINE_AA)
    return cover, colours


def _over(frame: Gray, cover: Gray, colours: Gray) -> Gray:
    share = cover / 255
    return (frame * (1 - share) + colours * share).astype(np.uint8)


@pytest.mark.parametrize("overlay", [_text_and_logo, _chat, _bar])
def test_overlays_are_learned_and_filling_them_helps(overlay: Callable[[int], tuple[Gray, Gray]]) -> None:
    """After 40 samples the mask holds most of the overlay, little else, and brings frames nearer to the known ones."""
    covered, falsely, plain, filled = [], [], [], []
    for seed in range(6):
        cover, colours = overlay(seed)
        learned = OverlayMask()
        truth = plane(cover) > 50
        for number, frame in enumerate(_moving(seed, 40)):
            shown = plane(encoded(_over(frame, cover, colours)))
            learned.seen(shown)
            mask = learned.mask()
            if number < 30:
                continue
            assert mask is not None
            covered.append(float((mask & truth).sum() / truth.sum()))
            falsely.append(float((mask & ~truth).mean()))
            plain.append(distance(shown, frame))
            levels = pull_push(shown.astype(np.float32), mask)
            filled.append(distance(levels.clip(0, 255).round().astype(np.uint8), frame))
    assert np.mean(covered) >= 0.8
    assert np.mean(falsely) <= 0.08
    assert np.mean(filled) <= np.mean(plain) - 6
    assert np.mean(np.array(filled) <= 31) >= np.mean(np.array(plain) <= 31) + 0.1


def _person(rng: np.random.Generator, number: int, frame: Gray) -> Gray:
    del number
    shape = np.zeros_like(frame)
    x, y = int(WIDTH / 2 + rng.normal(0, 60)), int(HEIGHT / 2 + rng.normal(0, 12))
    cv2.ellipse(shape, (x, y - 40), (50, 65), 0, 0, 360, 255, -1)
    cv2.ellipse(shape, (x, y + 140), (120, 120), 0, 0, 360, 255, -1)
    return np.where(shape > 0, np.roll(scene(40), (y, x), (0, 1)), frame)


def _fade(rng: np.random.Generator, number: int, frame: Gray) -> Gray:
    del rng
    return (frame * abs(np.cos(number / 8))).astype(np.uint8)


def _flicker(rng: np.random.Generator, number: int, frame: Gray) -> Gray:
    del number
    return (frame * rng.uniform(0.6, 1.3) + rng.uniform(-20, 20)).clip(0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, number: int, frame: Gray) -> Gray:
    del number
    return (frame + rng.normal(0, 12, frame.shape)).clip(0, 255).astype(np.uint8)


def _alternating(rng: np.random.Generator, number: int, frame: Gray) -> Gray:
    del rng
    return scene(41) if number % 2 else frame


@pytest.mark.parametrize("change", [_person, _fade, _flicker, _noise])
@pytest.mark.parametrize("seed", range(4))
def test_a_camera_that_stands_still_teaches_nothing(change: Change, seed: int) -> None:
    """A person before a fixed camera, a fade, a flicker or noise never make the background an overlay."""
    rng = np.random.default_rng(seed)
    learned = OverlayMask()
    for number in range(40):
        learned.seen(plane(encoded(change(rng, number, scene(seed)))))
        assert learned.mask() is None


@pytest.mark.parametrize("seed", range(3))
def test_two_cameras_by_turns_teach_next_to_nothing(seed: int) -> None:
    """What two pictures have in common by chance is little."""
    rng = np.random.default_rng(seed)
    learned = OverlayMask()
    for number in range(40):
        learned.seen(plane(encoded(_alternating(rng, number, scene(seed)))))
        mask = learned.mask()
        assert mask is None or mask.mean() < 0.2


def test_an_overlay_that_is_taken_away_is_forgotten() -> None:
    """Within some dozens of samples of a moving picture."""
    cover, colours = _chat(1)
    learned = OverlayMask()
    truth = plane(cover) > 128
    for number, frame in enumerate(_moving(3, 140)):
        learned.seen(plane(encoded(_over(frame, cover, colours) if number < 40 else frame)))
        mask = learned.mask()
        if number == 39:
            assert mask is not None
            assert (mask & truth).sum() > 0.8 * truth.sum()
    mask = learned.mask()
    assert mask is None or (mask & truth).sum() < 0.3 * truth.sum()


@pytest.mark.parametrize("is_upright", [False, True])
def test_plain_bars_are_left_to_trimming(*, is_upright: bool) -> None:
    """Letterbox and pillarbox are no overlay, a logo within the picture between them is."""
    learned = OverlayMask()
    for frame in _moving(5, 40):
        shown = frame.copy()
        cv2.circle(shown, (320, 180), 40, 240, -1)
        if is_upright:
            shown[:, :90] = shown[:, -90:] = 16
        else:
            shown[:45] = shown[-45:] = 16
        learned.seen(plane(encoded(shown)))
    mask = learned.mask()
    assert mask is not None
    assert mask[30:34, 30:34].all()
    bars = np.concatenate((mask[:, :7], mask[:, -7:]), axis=1) if is_upright else np.concatenate((mask[:6], mask[-6:]))
    assert bars.mean() < 0.1


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_mask_never_covers_more_than_it_may(seed: int, share: float) -> None:
    """However much of the picture a streamer holds still; the sample is not changed, nor kept."""
    rng = np.random.default_rng(seed)
    fixed = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    is_fixed = rng.random((64, 64)) < share
    is_fixed[: int(64 * share)] |= seed % 2 == 0
    learned = OverlayMask()
    for _ in range(16):
        sample = np.where(is_fixed, fixed, rng.integers(0, 256, (64, 64), dtype=np.uint8))
        before = sample.copy()
        learned.seen(sample)
        assert np.array_equal(sample, before)
        sample[:] = 0
        mask = learned.mask()
        if mask is not None:
            assert mask.dtype == np.bool_
            assert mask.shape == (64, 64)
            assert 0 < mask.mean() <= MAX_SHARE


@pytest.mark.parametrize("lines", [1, 2, 31, 33, 62, 63, 64])
def test_frames_that_are_nearly_all_bars_are_no_trouble(lines: int) -> None:
    """However few lines are left to move, or none."""
    rng = np.random.default_rng(lines)
    learned = OverlayMask()
    learned._evidence = learned._learned = 8  # as if more had moved before
    for _ in range(12):
        sample = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        sample[:lines] = 16
        learned._learn(sample.astype(np.float32).ravel())
        mask = learned.mask()
        assert mask is None or mask.mean() <= MAX_SHARE


def test_a_stream_costs_next_to_nothing() -> None:
    """An update in a moving film costs less than six of PDQ's hashes, and what is kept is 70 kB, of a still 30."""
    film = [plane(frame) for frame in _moving(7, 30)]
    learned = OverlayMask()

    def watch(_: Gray) -> None:
        for frame in film:
            learned.seen(frame)
            learned.mask()

    assert cpu_seconds(watch, film[0]) / len(film) < 3 * cpu_seconds(lambda p: distance(p, p), film[0])
    assert _kept_bytes(learned) < 70_000
    still = OverlayMask()
    for _ in range(20):
        still.seen(film[0])
        still.mask()
    assert _kept_bytes(still) < 30_000


def _kept_bytes(learned: OverlayMask) -> int:
    kept = [getattr(learned, name) for name in OverlayMask.__slots__]
    return sum(part.nbytes for part in kept if isinstance(part, np.ndarray))

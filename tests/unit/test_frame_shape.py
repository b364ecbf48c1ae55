"""Which models see a frame in its own shape, what they get of it, and that the others get what they always got."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from detector.analysis import messages
from detector.analysis.shaped import pack_shaped, parse_shaped
from detector.config.config import Config
from detector.settings import reader_job, session_settings
from models.asking import Placed, ask_models
from models.cascade import Asking, ModelRule
from models.frame_shape import LARGEST_SIDE, ShapeNeed, need_of, need_of_all
from models.model_info import RESIZE_TYPES
from models.preprocess import Preprocessor
from streams.frame import MAX_SHAPED_SIDE, PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason, ShapedPicture, shaped_size
from streams.job import SourceKind
from streams.messages import Opened
from streams.report_checks import Checker, ReaderMisbehaved
from tests.unit.test_preprocess import INFO

SQUARE = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
CROP = replace(INFO, resize_type="crop", orig_width=256, orig_height=256, center_crop=224, interpolation_mode="CUBIC")
FRAME = Frame(1, 2.0, 2.5, None, SampleReason.KEYFRAME, False, 1280, 720, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        ({}, ShapeNeed()),
        ({"orig_width": 256, "orig_height": 256, "center_crop": 224}, ShapeNeed()),
        ({"resize_type": "crop"}, ShapeNeed(short=88)),
        ({"resize_type": "crop", "orig_width": 256, "orig_height": 256}, ShapeNeed(short=352)),
        ({"resize_type": "fit_to_window_letterbox", "orig_width": 416, "orig_height": 320}, ShapeNeed(long=572)),
        ({"orig_width": 384, "orig_height": 384}, ShapeNeed(short=528)),
        ({"box_head": "RT-DETR"}, ShapeNeed(short=88)),
        ({"orig_width": 2048, "orig_height": 2048}, ShapeNeed(short=LARGEST_SIDE)),
    ],
)
def test_only_models_that_the_square_picture_fails_need_more(changes: dict[str, object], need: ShapeNeed) -> None:
    """Pressing a frame into 256x256 or less needs nothing; cropping, fitting, boxes and larger inputs do."""
    info = replace(INFO, **changes)

    assert need_of(info) == need
    assert need_of_all([INFO, info, INFO]) == need
    assert LARGEST_SIDE == MAX_SHAPED_SIDE


def test_a_reader_is_asked_for_what_the_loaded_models_need() -> None:
    """No model, or one that squeezes, asks for nothing; two that need something are both served."""
    models = [SimpleNamespace(model_info=info) for info in (INFO, CROP, replace(INFO, resize_type="fit_to_window"))]
    where = (Config(), "live/x", SourceKind.HTTP_TS, "http://h/x")

    for none in ((), models[:1]):
        assert session_settings(*where, none).job == reader_job(*where)
        assert (reader_job(*where).shaped_short, reader_job(*where).shaped_long) == (0, 0)
    job = session_settings(*where, models).job
    assert (job.shaped_short, job.shaped_long) == (352, 88)


def test_a_centre_crop_is_what_pillow_makes_of_the_frame_s_middle() -> None:
    """A wide frame's middle, scaled with a filter that grows with the step, as makers' pipelines have it."""
    shaped = np.random.default_rng(2).integers(0, 256, (352, 626, 3), np.uint8)
    info = replace(CROP, mean_values=(0, 0, 0), scale_values=(1, 1, 1))
    middle = Image.fromarray(np.ascontiguousarray(shaped[:, 137:489])).resize((256, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(middle)[16:240, 16:240].transpose(2, 0, 1)[None]

    assert np.array_equal(Preprocessor(info).fill(shaped, 1280, 720), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from(RESIZE_TYPES),
    st.sampled_from(["NEAREST", "LINEAR", "CUBIC", "AREA"]),
    st.sampled_from(["NCHW", "NHWC"]),
)
def test_every_shape_of_frame_fills_a_tensor(width: int, height: int, resize: str, mode: str, layout: str) -> None:
    """From one pixel to 5,000: a grey frame is a grey input, whatever its shape."""
    info = replace(INFO, resize_type=resize, interpolation_mode=mode, layout=layout, pad_value=90)
    across, down = shaped_size(88, 88, width, height)
    tensor = Preprocessor(info).fill(np.full((down, across, 3), 90, np.uint8), width, height)

    expected = (90 - np.array(info.mean_values)) / info.scale_values
    assert tensor.shape == ((1, 3, 64, 64) if layout == "NCHW" else (1, 64, 64, 3))
    assert np.allclose(tensor, expected[:, None, None] if layout == "NCHW" else expected, atol=0.03)


class _Seeing:
    def __init__(self, *, wants_shape: bool) -> None:
        self.name, self.sha256, self.wants_shape = f"m{wants_shape:d}", "00", wants_shape
        self.seen: list[tuple[NDArray[np.uint8], int, int]] = []

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        self.seen.append((picture, width, height))
        return {"a": 0.5}


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_each_model_sees_the_picture_that_it_needs(jitter: float) -> None:
    """The shaped one where it is wanted and there; parts in the frame's own shape, and sharper for the others too."""
    shaped = np.random.default_rng(3).integers(0, 256, (352, 626, 3), np.uint8)
    wide, square = _Seeing(wants_shape=True), _Seeing(wants_shape=False)
    models = [
        Placed(one, ModelRule(one.name, has_tiles=True, jitter=jitter), place)
        for place, one in enumerate((wide, square))
    ]
    asking = Asking(is_suspicious=True, draw=0xFFFFFFFF if jitter else 0)

    ask_models(models, SQUARE, (1280, 720), asking, timed=lambda _: nullcontext(), shaped=shaped)

    whole, *parts = wide.seen
    assert len(parts) == len(square.seen) - 1 == 4
    assert all(picture.shape == (256, 256, 3) for picture, _, _ in square.seen)
    if not jitter:
        assert np.array_equal(whole[0], shaped)
        assert np.array_equal(square.seen[0][0], SQUARE)
    for picture, width, height in wide.seen:
        assert math.isclose(picture.shape[1] / picture.shape[0], width / height, rel_tol=0.1)
    wide.seen.clear()
    ask_models(models[:1], SQUARE, (1280, 720), Asking(), timed=lambda _: nullcontext())
    assert wide.seen[0][0].shape == (256, 256, 3)


def test_a_shaped_picture_reaches_the_process_beside_an_unchanged_request() -> None:
    """Its pixels come after those that every frame has; a frame without one costs no byte."""
    pixels = bytes(range(200)) * 3
    plain, wide = (
        messages.pack_inspect(7, frame, None) for frame in (FRAME, replace(FRAME, shaped=ShapedPicture(20, 10, pixels)))
    )
    kind, length = messages.parse_header(wide[: messages.HEADER.size])
    body = memoryview(wide)[messages.HEADER.size :]

    assert (kind, length) == (messages.Kind.INSPECT, len(body))
    assert len(plain) == messages.HEADER.size + messages.INSPECT_BYTES
    assert plain[messages.HEADER.size :] == bytes(body[: messages.INSPECT_BYTES])
    request = messages.parse_inspect(body)
    assert (bytes(request.plane), bytes(request.picture)) == (FRAME.plane, FRAME.picture)
    found = parse_shaped(body[messages.INSPECT_BYTES :])
    assert found is not None
    assert (found.shape, found.tobytes()) == ((10, 20, 3), pixels)
    with pytest.raises(messages.AnalysisProtocolError):
        messages.parse_header(messages.HEADER.pack(messages.Kind.INSPECT, messages.MOST_INSPECT_BYTES + 1))


@pytest.mark.parametrize("size", [None, (20, 10), (626, 353), (352, 626)])
def test_a_reader_that_sends_another_picture_than_asked_for_has_misbehaved(size: tuple[int, int] | None) -> None:
    """Missing, larger, smaller or turned: the keeper computes the only right size from the frame's own."""
    job = reader_job(Config(), "", SourceKind.FILE, "", live=False, manifests=[SimpleNamespace(model_info=CROP)])
    checker = Checker(job, started_at=0.0)
    checker.check(Opened("h264", 1280, 720, 1, 7, has_seccomp=True, limits_network=True, open_seconds=0.1), 3.0)
    right, wrong = (
        ShapedPicture(626, 352, bytes(626 * 352 * 3)),
        size and ShapedPicture(*size, bytes(math.prod(size) * 3)),
    )

    checker.check(replace(FRAME, shaped=right), 3.0)
    with pytest.raises(ReaderMisbehaved, match="another size"):
        checker.check(replace(FRAME, sequence=2, shaped=wrong), 3.0)


@given(st.binary(max_size=400))
def test_a_picture_that_is_none_is_refused(packed: bytes) -> None:
    """Anything but a size and exactly its pixels raises ValueError, and nothing else."""
    try:
        found = parse_shaped(memoryview(packed))
    except ValueError:
        return
    if found is None:
        assert packed == b""
    else:
        picture = ShapedPicture(found.shape[1], found.shape[0], found.tobytes())
        assert b"".join(pack_shaped(replace(FRAME, shaped=picture))) == packed

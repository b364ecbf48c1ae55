"""Pictures beside a model: anybody's files, of which the service sees the first bytes and the cage the rest."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.classifier import read_content
from models.manifest import load_manifest
from models.stored_pictures import MAX_BYTES, NoPicture, decoded, read_png

FRAMES = np.random.default_rng(0).integers(0, 256, (512, 256, 3), np.uint8)


def png(height: int = 256, width: int = 256) -> bytes:
    return bytes(cv2.imencode(".png", FRAMES[:height, :width, ::-1])[1])


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    """One or several, top first, RGB."""
    path = tmp_path / "two.png"
    path.write_bytes(png(512))

    first, second = decoded(path, read_png(path, 2), 2)
    assert np.array_equal(first, FRAMES[:256])
    assert np.array_equal(second, FRAMES[256:])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        png(512),
        png(256, 128),
        bytes(cv2.imencode(".tiff", FRAMES[:256])[1]),
        bytes(cv2.imencode(".webp", FRAMES[:256])[1]),
        png()[:16] + (60_000).to_bytes(4, "big") * 2 + png()[24:],
        png() + bytes(MAX_BYTES),
    ],
    ids=["empty", "taller", "narrower", "tiff", "webp", "60000x60000", "too large"],
)
def test_what_is_no_png_of_its_size_meets_no_decoder(tmp_path: Path, content: bytes) -> None:
    """Other formats have decoders of their own, and an enormous picture needs an enormous buffer."""
    path = tmp_path / "check.png"
    path.write_bytes(content)
    with pytest.raises(NoPicture, match="is no 256x256 picture in a PNG; restore it"):
        read_png(path)


def test_a_damaged_picture_is_refused_where_it_is_decoded(tmp_path: Path) -> None:
    """Its beginning is right, and the decoder makes nothing of the rest."""
    with pytest.raises(NoPicture, match="restore it"):
        decoded(tmp_path / "check.png", png()[:40])


def test_a_pipe_or_a_device_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    """Nothing waits for a writer that never comes, and nothing reads without end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png", "missing.png"):
        with pytest.raises(NoPicture, match=r"put the picture itself there|cannot be read"):
            read_png(tmp_path / name)


def test_reading_a_model_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is read outside the cage; its check picture is decoded when somebody in the cage asks for it."""
    calls: list[int] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: calls.append(1))
    content = read_content(load_manifest("standin-cards"))
    assert not calls
    monkeypatch.undo()
    picture = content.check_picture
    assert picture is not None
    assert picture.shape == (256, 256, 3)

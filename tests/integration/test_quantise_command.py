"""`stopframe models quantise`, from a folder of pictures to a model that the next command takes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from detector.cli.main import app
from detector.cli.output import CommandFailed

pytestmark = pytest.mark.integration


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, patch in enumerate(np.random.default_rng(7).integers(0, 256, (34, 6, 6, 3), dtype=np.uint8)):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(patch, (320, 180), interpolation=cv2.INTER_CUBIC))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_model_is_cut_and_checked(frames: Path, tmp_path: Path) -> None:
    """The new folder passes `models check`; what cannot be read is named; a folder is never written over."""
    output = str(tmp_path / "cards-int8")
    cut = ["models", "quantise", "standin-cards", "--frames", str(frames), "--output", output]

    made = CliRunner().invoke(app, cut)
    assert made.exit_code == 0, made.output
    assert "broken.png is left out" in made.output
    assert "100.0%" in made.output

    checked = CliRunner().invoke(app, ["models", "check", output])
    assert checked.exit_code == 0, checked.output
    assert "cpu int8" in checked.output

    again = CliRunner().invoke(app, cut)
    assert isinstance(again.exception, CommandFailed)
    assert "is there already; name a folder that is not" in str(again.exception)


def test_a_limit_that_no_threshold_survives_is_refused(frames: Path, tmp_path: Path) -> None:
    """Before anything is read."""
    arguments = ["models", "quantise", "standin-cards", "--frames", str(frames), "--output", str(tmp_path / "new")]
    refused = CliRunner().invoke(app, [*arguments, "--limit", "0.5"])

    assert isinstance(refused.exception, CommandFailed)
    assert "0.1 is the widest" in str(refused.exception)
    assert not (tmp_path / "new").exists()

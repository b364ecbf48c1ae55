"""The frame in its own shape on its whole way: decoded in one cage, scored in another."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import load_manifests, pool_settings
from detector.config.loading import load_config
from detector.media_files import Medium, reading
from detector.settings import reader_job
from models.classifier import Classifier
from streams.frame import Frame
from streams.job import SourceKind
from streams.keeper import Nursery
from tests.onnx_models import classifier, hugging_face

pytestmark = pytest.mark.integration


async def test_a_model_that_crops_sees_the_middle_of_the_frame_in_its_own_shape(tmp_path: Path) -> None:
    """What an analysis process says is what the model says of the shaped picture, not of the square one."""
    content = np.random.default_rng(5).integers(0, 256, (72, 128, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    content[:, 300:980] //= 3
    cv2.imwrite(str(tmp_path / "wide.png"), content)
    model = hugging_face(
        tmp_path / "middle", classifier(last="Softmax"), DO_CENTER_CROP=True, CROP_SIZE=8, SIZE={"shortest_edge": 8}
    )
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {tmp_path / 'state'}\nmodels: [{model}]\n")
    config = load_config(str(file))
    (config.state_dir / "banks").mkdir(parents=True)
    manifests = load_manifests(config)
    job = reader_job(config, "", SourceKind.FILE, "", live=False, manifests=manifests)
    async with (
        Nursery("streams.reader:main") as nursery,
        AnalysisPool(pool_settings(config, manifests, workers=1)) as pool,
        reading(nursery, job, Medium("wide.png", tmp_path / "wide.png")) as keeper,
    ):
        frames = [message async for message in keeper.messages() if isinstance(message, Frame)]
        found = await pool.inspect(frames[0], deadline_at=time.monotonic() + 30)

    shaped = frames[0].shaped
    assert shaped is not None
    assert (shaped.width, shaped.height) == (20, 11)
    scorer = Classifier(manifests[0])
    own = scorer.score(np.frombuffer(shaped.pixels, np.uint8).reshape(11, 20, 3), 1280, 720)
    square = scorer.score(np.frombuffer(frames[0].picture, np.uint8).reshape(256, 256, 3), 1280, 720)
    said = {score.label: score.score for score in found.scores}
    assert said == pytest.approx(own, abs=1e-6)
    assert said != pytest.approx(square, abs=1e-4)

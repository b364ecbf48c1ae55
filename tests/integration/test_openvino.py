"""OpenVINO in an analysis process: in the whole cage, with the precision that it says and nearly the scores of fp32."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.analysis.messages import ModelSetup, WorkerSetup
from detector.analysis.pool import AnalysisPool, PoolSettings
from models.manifest import load_manifest
from streams.frame import Frame, SampleReason

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage, pytest.mark.needs_openvino]


async def scores_with(provider: str, folder: Path) -> tuple[dict[str, float], str]:
    """What the stand-in model says of its card, and what ran it."""
    manifest = load_manifest("standin-cards")
    card = cv2.cvtColor(cv2.imread(str(manifest.path.parent / "smptebars.png")), cv2.COLOR_BGR2RGB)
    plane = cv2.resize(cv2.cvtColor(card, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    now = time.monotonic()
    pixels = np.ascontiguousarray(plane).tobytes(), np.ascontiguousarray(card).tobytes()
    frame = Frame(1, now, now, None, SampleReason.KEYFRAME, False, 640, 360, *pixels)
    folder.mkdir()
    setup = WorkerSetup(
        banks_folder=str(folder),
        bank_limits={},
        models=(ModelSetup(manifest.name, manifest.reference, provider),),
        readable_paths=(str(folder),),
        sandbox="require",
        memory_limit_bytes=8 << 30,
    )
    async with AnalysisPool(PoolSettings(1, 8, 5.0, setup)) as pool:
        inspection = await pool.inspect(frame, deadline_at=now + 60)
        assert pool.problems() == []
    ran_on = {f"{score.provider} {score.precision}" for score in inspection.scores}
    assert len(ran_on) == 1
    return {score.label: score.score for score in inspection.scores}, ran_on.pop()


async def test_openvino_answers_from_inside_the_whole_cage(tmp_path: Path) -> None:
    """Its threads are held too, or the process would not have started; leaving the pool leaves none of it."""
    plain, _ = await scores_with("cpu", tmp_path / "cpu")
    pinned, pinned_on = await scores_with("openvino-fp32", tmp_path / "fp32")
    free, free_on = await scores_with("openvino", tmp_path / "free")

    assert (pinned_on, free_on.partition(" ")[0]) == ("openvino fp32", "openvino")
    assert pinned == pytest.approx(plain, abs=1e-3)
    assert free == pytest.approx(plain, abs=0.05)

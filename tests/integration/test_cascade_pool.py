"""Two models in real analysis processes: the dear one is asked where the cheap one calls, and when it is gone."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector.analysis.looks import TrackLooks
from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import ModelRefused, load_manifests, pool_settings
from detector.canary import luma_plane
from detector.config.loading import load_config
from models.evidence import Inspection, ModelUse
from models.zoo.registry import zoo_folder
from streams.frame import Frame, SampleReason
from tests.integration.test_analysis_pool import picture, worker_pids

pytestmark = pytest.mark.integration

_BARS = "smptebars.png"


def _config(folder: Path, after: str) -> Path:
    """The stand-in model and, in front of it, a copy that waits for its scores."""
    copy = folder / "dear"
    shutil.copytree(zoo_folder("standin-cards"), copy)
    manifest = (copy / "model.yaml").read_text().replace("name: standin-cards", "name: dear-cards")
    (copy / "model.yaml").write_text(manifest)
    file = folder / "stopframe.yaml"
    file.write_text(
        f"state_dir: {folder / 'state'}\nmodels:\n  - {{path: {copy}, after: {after}, provider: cpu}}\n"
        "  - {name: standin-cards, reuse_for: 5s, provider: cpu}\n"
    )
    return file


@asynccontextmanager
async def _pool(folder: Path) -> AsyncIterator[AnalysisPool]:
    config = load_config(_config(folder, "{standin-cards/smptebars: 0.5}"))
    (config.state_dir / "banks").mkdir(parents=True)
    async with AnalysisPool(pool_settings(config, load_manifests(config), workers=1)) as pool:
        yield pool


async def _look(pool: AnalysisPool, looks: TrackLooks, shown: NDArray[np.uint8], now: float) -> Inspection:
    at = time.monotonic()
    frame = Frame(
        1, at, at, None, SampleReason.KEYFRAME, False, 1280, 720, luma_plane(shown).tobytes(), shown.tobytes()
    )  # fmt: skip
    size = (frame.width, frame.height)
    asking = looks.models.ask(frame.picture, size, now)
    found = await pool.inspect(frame, deadline_at=at + 10, asking=asking)
    return looks.models.heard(frame.picture, size, found, now)


async def test_the_dear_model_is_asked_where_the_cheap_one_calls(tmp_path: Path) -> None:
    """Their order in the config plays no part; an unchanged picture is shown to neither; what runs them is told."""
    bars = cv2.imread(str(zoo_folder("standin-cards") / _BARS), cv2.IMREAD_COLOR)
    assert bars is not None
    card = np.ascontiguousarray(bars[:, :, ::-1], np.uint8)
    other = np.ascontiguousarray(picture(3))
    async with _pool(tmp_path) as pool:
        looks = TrackLooks(pool.model_rules)
        calm = await _look(pool, looks, other, 0.0)
        still = await _look(pool, looks, other, 1.0)
        called = await _look(pool, looks, card, 2.0)
        after = await _look(pool, looks, other, 3.0)
        state = pool.state()

    assert calm.model_uses == (ModelUse("standin-cards", looks=1), ModelUse("dear-cards", is_spared=True))
    assert still.model_uses == (ModelUse("standin-cards", is_reused=True), ModelUse("dear-cards", is_spared=True))
    assert [(one.label, one.score) for one in still.scores] == [(one.label, one.score) for one in calm.scores]
    assert called.model_uses == (ModelUse("standin-cards", looks=1), ModelUse("dear-cards", looks=1))
    assert after.model_uses[1] == ModelUse("dear-cards", looks=1)
    assert {(one.provider, one.precision, one.view) for one in called.scores} == {("cpu", "fp32", "whole")}
    assert state is not None
    assert state.runs_on == {"standin-cards": "cpu fp32", "dear-cards": "cpu fp32"}


async def test_a_quarantined_model_leaves_the_others_in_their_places(tmp_path: Path) -> None:
    """The cheap one ended its process three times: the dear one looks at every frame, and health names the other."""
    async with _pool(tmp_path) as pool:
        for stream in ("one", "two", "three"):
            pool._slots[0].stage, pool._slots[0].stream = "model:standin-cards", stream
            pool._note_loss(pool._slots[0], TimeoutError())
        os.kill(worker_pids()[0], signal.SIGKILL)
        async with asyncio.timeout(30):
            while pool.restarts < 4 or pool.ready_workers == 0:
                await asyncio.sleep(0.02)
        found = await _look(pool, TrackLooks(pool.model_rules), np.ascontiguousarray(picture(3)), 0.0)

    assert found.model_uses == (ModelUse("dear-cards", looks=1),)
    assert any("standin-cards was taken out" in problem for problem in pool.problems())


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("{standin-cards/no-such: 0.5}", "has only the labels other, smptebars"),
        ("{elsewhere/x: 0.5}", "no such model is configured"),
        ("{dear-cards/other: 0.5}", "waits for its own score"),
    ],
)
def test_a_model_that_would_never_be_asked_is_refused(tmp_path: Path, after: str, words: str) -> None:
    """A start says so in one sentence."""
    with pytest.raises(ModelRefused, match=words):
        load_manifests(load_config(_config(tmp_path, after)))

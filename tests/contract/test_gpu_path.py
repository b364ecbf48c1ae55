"""The whole way of a picture to a GPU and back: pool, caged analysis processes, and the process that owns the GPU.

All are real processes; in the last of them a session on the processor stands for the GPU, and takes as long as batches
would. It is killed, it hangs, and it is asked by several at once.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from detector.analysis import provider_choice
from detector.analysis.gpu_keeper import GpuKeeper, GpuSettings
from detector.analysis.gpu_setup import gpu_settings
from detector.analysis.messages import ModelSetup, WorkerSetup
from detector.analysis.pool import AnalysisPool, PoolSettings
from detector.analysis.provider_choice import choose_for
from detector.analysis.provider_trial import measure
from models.cascade import TEST
from models.classifier import Classifier
from models.evidence import Inspection
from models.manifest import load_manifest
from models.providers import Provider
from models.trial import Trial
from streams.frame import Frame, SampleReason
from streams.job import SandboxMode

HERE = Path(__file__).parent
WAIT_SECONDS = 20.0


def frame_of(number: int, level: int | None = None) -> Frame:
    """Large patches of colour; or nothing but one level, which a deadly stand-in fears."""
    patches = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    picture = patches.repeat(32, 0).repeat(32, 1)
    if level is not None:
        picture[:] = level
    now = time.monotonic()
    plane = picture[::4, ::4, 0].tobytes()
    return Frame(number, now, now, None, SampleReason.KEYFRAME, False, 256, 256, plane, picture.tobytes())


@asynccontextmanager
async def gpu_pool(tmp_path: Path, *, entry: str = "main", workers: int = 3) -> AsyncIterator[AnalysisPool]:
    """A pool whose model runs on the stand-in."""
    banks = tmp_path / "banks"
    banks.mkdir(exist_ok=True)
    model = ModelSetup("standin-cards", str(load_manifest("standin-cards").path), provider="cuda", place=0)
    setup = WorkerSetup(str(banks), {}, (model,), (str(banks),), "prefer", 8 << 30)
    settings = PoolSettings(workers, 64, 1.0, setup)
    wanted = gpu_settings(settings, {}, tmp_path)
    assert wanted is not None
    keeper = GpuKeeper(wanted, entry=f"gpu_stand_in:{entry}", search_paths=[str(HERE)])
    async with keeper:
        pool = AnalysisPool(settings)
        pool.gpu = keeper
        async with pool:
            await until(lambda: pool.ready_workers == workers)
            yield pool


async def until(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.02)


def gpu_pid() -> int:
    """The forked process: a grandchild of this one."""
    for child in psutil.Process().children():
        if any("gpu_stand_in" in word for word in child.cmdline()):
            return child.children()[0].pid
    raise AssertionError("no such process")


def kernel_scores(numbers: range) -> dict[int, dict[str, float]]:
    alone = Classifier(load_manifest("standin-cards"))
    pictures = {number: np.frombuffer(frame_of(number).picture, np.uint8).reshape(256, 256, 3) for number in numbers}
    return {number: alone.score(picture, 256, 256) for number, picture in pictures.items()}


def scores_of(inspection: Inspection) -> dict[str, float]:
    return {score.label: score.score for score in inspection.scores}


def ran_on(inspection: Inspection) -> set[str]:
    return {score.provider for score in inspection.scores}


async def inspected(pool: AnalysisPool, numbers: range, *, streams: int = 4, seconds: float = 8.0) -> list[Inspection]:
    return await asyncio.gather(
        *(
            pool.inspect(frame_of(number), deadline_at=time.monotonic() + seconds, stream=f"s{number % streams}")
            for number in numbers
        )
    )


async def test_each_stream_gets_its_own_scores_from_batches(tmp_path: Path) -> None:
    """Frames of four streams come back with what the model says of them alone, in batches where many are asked for."""
    async with gpu_pool(tmp_path) as pool:
        assert pool.gpu is not None
        assert pool.problems() == []
        found = await inspected(pool, range(48))
        loaded = pool.gpu.load()
        for number in range(100, 104):
            await inspected(pool, range(number, number + 1))
        idle = pool.gpu.load()

    expected = kernel_scores(range(48))
    assert [scores_of(one) for one in found] == [pytest.approx(expected[n], abs=1e-5) for n in range(48)]
    assert {provider for one in found for provider in ran_on(one)} == {"cuda"}
    assert loaded["gpu_pictures"] == 48
    assert loaded["gpu_batches"] < 40
    assert idle["gpu_batches"] - loaded["gpu_batches"] == 4
    assert idle["gpu_unanswered"] == idle["gpu_malformed"] == 0


async def test_a_killed_gpu_process_loses_no_frame(tmp_path: Path) -> None:
    """SIGKILL while frames wait in it: the processor scores them all, health says so, and a fresh one takes over."""
    async with gpu_pool(tmp_path) as pool:
        assert pool.gpu is not None
        asked = asyncio.create_task(inspected(pool, range(60)))
        await asyncio.sleep(0.1)
        os.kill(gpu_pid(), signal.SIGKILL)
        await until(lambda: pool.gpu.is_away)
        (away,) = pool.problems()
        found = await asked
        await until(lambda: not pool.gpu.is_away)
        after = await inspected(pool, range(60, 66))

    expected = kernel_scores(range(60))
    assert [scores_of(one) for one in found] == [pytest.approx(expected[n], abs=1e-5) for n in range(60)]
    assert {provider for one in found for provider in ran_on(one)} == {"cpu", "cuda"}
    assert all(one.failed_models == () for one in found)
    assert pool.dropped.total() == pool.restarts == 0
    assert "the GPU's process is away" in away
    assert "the processor runs standin-cards" in away
    assert {provider for one in after for provider in ran_on(one)} == {"cuda"}
    assert pool.gpu.restarts == 1


async def test_a_model_that_ends_the_process_is_taken_off_the_gpu(tmp_path: Path) -> None:
    """Two deaths and a hang within the hour, and the processor has it for good; no frame goes without scores."""
    async with gpu_pool(tmp_path, entry="deadly", workers=1) as pool:
        keeper = pool.gpu
        assert keeper is not None
        for number, level in enumerate((255, 0, 255)):
            await until(lambda: not keeper.is_away)
            await asyncio.sleep(0.05)
            found = await pool.inspect(frame_of(number, level), deadline_at=time.monotonic() + 8, asking=TEST)
            assert ran_on(found) == {"cpu"}
            await until(lambda number=number: keeper.restarts == number + 1)
        assert "taken off the GPU after it ended the GPU's process 3 times" in pool.problems()[0]
        found = await pool.inspect(frame_of(9), deadline_at=time.monotonic() + 8)

    assert ran_on(found) == {"cpu"}
    assert pool.restarts == 0


async def test_who_takes_the_gpus_process_over_gets_nowhere(tmp_path: Path) -> None:
    """It reads no file of the machine, writes none, connects to nobody and starts nothing, and its cage is told."""
    async with gpu_pool(tmp_path, entry="intruder", workers=1) as pool:
        assert pool.gpu is not None
        cage = pool.gpu.cage()
        found = await pool.inspect(frame_of(1), deadline_at=time.monotonic() + 8)

    assert cage is not None
    assert "devices" in cage["open"]
    if not cage["missing"]:
        assert ran_on(found) == {"cuda"}
        assert scores_of(found) == dict.fromkeys(scores_of(found), 0.0)


async def test_a_gpu_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    """Without a runtime for GPUs the processor scores, and the sentence names the remedy."""
    model = ModelSetup("standin-cards", str(load_manifest("standin-cards").path), provider="cuda", place=0)
    async with GpuKeeper(GpuSettings((model,), 1, SandboxMode.PREFER, 1.0)) as keeper:
        assert keeper.is_away
        (problem,) = keeper.problems()
    assert "provider 'cuda' is not available; run `make gpu`" in problem
    assert "the processor runs standin-cards" in problem


def test_the_trial_counts_a_gpus_share_of_its_best_batch() -> None:
    """A picture's cost on a GPU is that of the largest batches: it is measured by the code that the process uses."""
    classifier = Classifier(load_manifest("standin-cards"), provider=Provider("cuda", "CPUExecutionProvider", "fp32"))
    pictures = [np.frombuffer(frame_of(1).picture, np.uint8).reshape(256, 256, 3)]

    trial = measure(classifier, pictures, 0.1)

    assert trial.provider == "cuda"
    assert 0 < trial.seconds < 0.05
    assert len(trial.scores) == 1


@pytest.mark.parametrize(("processes", "winner"), [(2, "cuda"), (16, "cpu")])
async def test_auto_takes_a_gpu_that_beats_all_processes_together(
    processes: int, winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that a few processes gain by is slower than many that each have a core; TensorRT is never tried unasked."""
    tried = []

    async def pretended(source: str, provider: str, sandbox: SandboxMode) -> Trial:
        tried.append(provider)
        return Trial(provider, "fp32", {"cpu": 0.02, "cuda": 0.005}[provider], ({"a": 0.5},))

    monkeypatch.setattr(provider_choice, "available_providers", lambda: ("cpu", "cuda", "tensorrt"))
    monkeypatch.setattr(provider_choice, "_try", pretended)

    assert (await choose_for("model", "auto", processes=processes)).provider == winner
    assert tried == ["cpu", "cuda"]

"""The whole way of a picture to a GPU and back: pool, caged analysis processes, and the process that owns the GPU.

All are real processes; in the last of them a session on the processor stands for the GPU, and takes as long as batches
would. It is killed, it hangs, and it is asked by several at once.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.inference_gpu import figures_of
from detector.analysis import provider_choice
from detector.analysis.gpu_keeper import GpuKeeper, GpuSettings
from detector.analysis.gpu_link import GpuLink, Look
from detector.analysis.gpu_setup import gpu_settings
from detector.analysis.messages import ModelSetup, WorkerSetup
from detector.analysis.pool import AnalysisPool, PoolSettings
from detector.analysis.provider_choice import choose_for
from detector.analysis.provider_trial import measure
from models.classifier import Classifier
from models.evidence import Inspection
from models.manifest import load_manifest
from models.providers import Provider
from models.trial import Trial
from streams.frame import Frame, SampleReason
from streams.job import SandboxMode
from tests.waiting import until

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


@asynccontextmanager
async def gpu_alone(entry: str) -> AsyncIterator[GpuKeeper]:
    """The process without a pool, for one asker."""
    model = ModelSetup("standin-cards", str(load_manifest("standin-cards").path), provider="cuda", place=0)
    settings = GpuSettings((model,), 1, SandboxMode.PREFER, 0.1)
    async with GpuKeeper(settings, entry=f"gpu_stand_in:{entry}", search_paths=[str(HERE)]) as keeper:
        yield keeper


def gpu_pid() -> int:
    """The forked process: a grandchild of this one."""
    for child in psutil.Process().children():
        if any("gpu_stand_in" in word for word in child.cmdline()):
            return child.children()[0].pid
    raise AssertionError("no such process")


def look_at(frame: Frame) -> Look:
    return np.frombuffer(frame.picture, np.uint8).reshape(256, 256, 3), frame.width, frame.height


def scored_alone(numbers: range) -> list[dict[str, float]]:
    alone = Classifier(load_manifest("standin-cards"))
    return [alone.score(*look_at(frame_of(number))) for number in numbers]


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


async def test_each_stream_gets_its_own_scores_also_when_the_process_is_killed(tmp_path: Path) -> None:
    """Frames of four streams are scored as alone, in batches where many are asked for, singly where few are.

    SIGKILL while frames wait: the processor scores them all, health says so, and a fresh process takes over.
    """
    async with gpu_pool(tmp_path) as pool:
        keeper = pool.gpu
        assert keeper is not None
        assert pool.problems() == []
        many = await inspected(pool, range(48))
        busy = keeper.load()
        for number in range(100, 104):
            await inspected(pool, range(number, number + 1))
        idle = keeper.load()
        asked = asyncio.create_task(inspected(pool, range(48)))
        await until(lambda: keeper.load()["gpu_pictures"] > idle["gpu_pictures"])
        os.kill(gpu_pid(), signal.SIGKILL)
        await until(lambda: keeper.is_away)
        (away,) = pool.problems()
        survived = await asked
        await until(lambda: not keeper.is_away)
        after = await inspected(pool, range(60, 66))

    expected = [pytest.approx(one, abs=1e-5) for one in scored_alone(range(48))]
    assert [scores_of(one) for one in many] == expected
    assert [scores_of(one) for one in survived] == expected
    assert [sorted(set().union(*map(ran_on, some))) for some in (many, survived, after)] == [
        ["cuda"],
        ["cpu", "cuda"],
        ["cuda"],
    ]
    assert busy["gpu_pictures"] == 48
    assert busy["gpu_batches"] < 40
    assert idle["gpu_batches"] - busy["gpu_batches"] == 4
    assert idle["gpu_unanswered"] == idle["gpu_malformed"] == 0
    assert "the GPU's process is away" in away
    assert "the processor runs standin-cards" in away
    assert (pool.dropped.total(), pool.restarts, keeper.restarts) == (0, 0, 1)


async def test_a_model_that_ends_the_process_is_taken_off_the_gpu() -> None:
    """Two deaths and a hang within the hour, and the processor has it for good."""
    async with gpu_alone("deadly") as keeper:
        link = GpuLink(keeper.end_of(0), patience_seconds=2.0)
        for number, level in enumerate((255, 0, 255)):
            await until(lambda: not keeper.is_away)
            answer = await asyncio.to_thread(link.ask, 0, look_at(frame_of(number, level)), 0.0)
            assert answer is None
            await until(lambda number=number: keeper.restarts == number + 1)
        assert "taken off the GPU after it ended the GPU's process 3 times" in keeper.problems()[0]
        assert await asyncio.to_thread(link.ask, 0, look_at(frame_of(9)), 0.0) is None


async def test_who_takes_the_gpus_process_over_gets_nowhere() -> None:
    """It reads no file of the machine, writes none, connects to nobody and starts nothing, and its cage is told."""
    async with gpu_alone("intruder") as keeper:
        cage = keeper.cage()
        link = GpuLink(keeper.end_of(0), patience_seconds=5.0)
        went = await asyncio.to_thread(link.ask, 0, look_at(frame_of(1)), 0.0)

    assert cage is not None
    assert "devices" in cage["open"]
    assert cage["missing"] or went == (0.0,) * 4


async def test_the_nearest_deadline_of_all_streams_is_next(tmp_path: Path) -> None:
    """Frames that arrive together, the most urgent last, are scored in the order of their own deadlines."""
    done: list[int] = []
    async with gpu_pool(tmp_path, entry="one_by_one", workers=4) as pool:

        async def ask(number: int) -> None:
            await pool.inspect(frame_of(number), deadline_at=time.monotonic() + 20 - 4 * number, stream=f"s{number}")
            done.append(number)

        await asyncio.gather(*(ask(number) for number in range(4)))

    first, *others = done
    assert others == sorted(set(range(4)) - {first}, reverse=True)


async def test_the_benchmark_measures_the_services_own_process() -> None:
    """More askers get larger batches and more frames a second; where no GPU can be had it says why."""
    model = ModelSetup("standin-cards", str(load_manifest("standin-cards").path), provider="cuda", place=0)
    settings = GpuSettings((model,), 6, SandboxMode.PREFER, 1.0)
    stand_in = GpuKeeper(settings, entry="gpu_stand_in:main", search_paths=[str(HERE)])

    found = await figures_of(stand_in, model, askers=(1, 6), seconds=0.3)
    nothing = await figures_of(GpuKeeper(settings), model)

    one, six = found.loads
    assert six.mean_batch > one.mean_batch == 1.0
    assert six.frames_per_second > one.frames_per_second
    assert one.unanswered == six.unanswered == 0
    assert len(list(found.rows())) == len(found.batch_ms) + 2 == 6
    assert "the GPU's process is away (provider 'cuda' is not available; run `make gpu`" in nothing.why
    assert "the processor runs standin-cards" in nothing.why


def test_the_trial_counts_a_gpus_share_of_its_best_batch() -> None:
    """A picture's cost on a GPU is that of the largest batches: it is measured by the code that the process uses."""
    classifier = Classifier(load_manifest("standin-cards"), provider=Provider("cuda", "CPUExecutionProvider", "fp32"))
    pictures = [np.frombuffer(frame_of(1).picture, np.uint8).reshape(256, 256, 3)]

    trial = measure(classifier, pictures, 0.1)

    assert trial.provider == "cuda"
    assert 0 < trial.seconds < 1
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

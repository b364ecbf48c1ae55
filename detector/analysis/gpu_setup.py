"""Starts the process that owns the GPU, where any model is to run on one."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from detector.analysis.gpu_engines import ENGINES_FOLDER
from detector.analysis.gpu_keeper import GpuKeeper, GpuSettings
from detector.analysis.pool import PoolSettings
from detector.analysis.provider_choice import run_by
from models.providers import GPUS
from streams.job import SandboxMode


def gpu_settings(settings: PoolSettings, providers: Mapping[str, str], state_dir: Path) -> GpuSettings | None:
    """What the GPU's process goes by: the models that `providers` or, where they say nothing, the config gives it."""
    models = tuple(model for model in run_by(providers, settings.setup.models) if model.provider in GPUS)
    if not models:
        return None
    return GpuSettings(
        models=models,
        askers=settings.workers,
        sandbox=SandboxMode(settings.setup.sandbox),
        model_timeout_seconds=settings.model_timeout_seconds,
        engines=state_dir.absolute() / ENGINES_FOLDER,
    )


async def start_gpu(
    settings: PoolSettings, providers: Mapping[str, str], state_dir: Path, stack: AsyncExitStack
) -> GpuKeeper | None:
    """Start the process and end it with the stack; None where no model is to run on a GPU.

    Raises:
        NurseryBroken: No process can be started.
    """
    wanted = gpu_settings(settings, providers, state_dir)
    return None if wanted is None else await stack.enter_async_context(GpuKeeper(wanted))

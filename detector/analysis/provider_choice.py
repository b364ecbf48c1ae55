"""Has a model tried with each provider that is installed, each in a process of its own, and takes the best."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from detector.analysis.messages import ModelSetup
from models.providers import AUTO, GPUS, available_providers, refuse_mixed_runtimes
from models.trial import MOST_DRIFT, Choice, Trial, choose
from streams.job import SandboxMode

log = structlog.get_logger()

_PROCESS_SECONDS: Final = 30.0
_GPU_PROCESS_SECONDS: Final = 60.0
_ONLY_WANTED: Final = ("tensorrt",)
_MOST_TOLD: Final = 1 << 20

_ALL_SECONDS: Final = 90.0
"""For the trials of all models together: no frame is looked at meanwhile, and a service must be ready in 180 s."""


async def choose_for(
    source: str, wanted: str = AUTO, sandbox: SandboxMode = SandboxMode.PREFER, processes: int = 1
) -> Choice:
    """The provider that is to run a model: the one that is wanted, or for `auto` the best of a trial.

    Where only the processor is there, nothing is tried. Where no provider gives scores, the processor is to say why.
    A GPU serves all `processes` at once, so it must be faster than all of them together. TensorRT is not tried: it
    compiles for minutes, and computes less exactly.
    """
    if wanted != AUTO:
        return Choice(wanted)
    available = [name for name in available_providers() if name not in _ONLY_WANTED]
    if len(available) == 1:
        return Choice(available[0])
    trials = [
        replace(await _try(source, provider, sandbox), shared_by=processes if provider in GPUS else 1)
        for provider in available
    ]
    try:
        return choose(trials, MOST_DRIFT)
    except ValueError:
        return Choice(available[0], tuple(trials), {trial.provider: trial.refused for trial in trials})


def run_by(providers: Mapping[str, str], models: Iterable[ModelSetup]) -> tuple[ModelSetup, ...]:
    """These models, each run by the provider that stands there under its name, if one does."""
    return tuple(replace(model, provider=providers.get(model.name, model.provider)) for model in models)


async def _try(reference: str, provider: str, sandbox: SandboxMode) -> Trial:
    seconds = _GPU_PROCESS_SECONDS if provider in GPUS else _PROCESS_SECONDS
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detector.analysis.provider_trial", reference, provider, sandbox.value),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_MOST_TOLD,
        env=_environment(),
    )
    try:
        async with asyncio.timeout(seconds):
            told, _ = await process.communicate()
        return _read(provider, told)
    except (TimeoutError, ValueError, TypeError, KeyError, AttributeError):  # it hung, died, or said something else
        return Trial(provider, refused=f"the trial with {provider} gave no scores within {seconds:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """Nothing secret; and no thread is started by an import, since the cage holds only those that start in it."""
    return {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",
    }


def _read(provider: str, told: bytes) -> Trial:
    raw: dict[str, Any] = json.loads(told)
    scores = tuple({str(label): float(score) for label, score in one.items()} for one in raw["scores"])
    return Trial(provider, str(raw["precision"]), float(raw["seconds"]), scores, str(raw["refused"])[:400])


async def chosen_providers(
    models: Iterable[ModelSetup], sandbox: SandboxMode = SandboxMode.PREFER, processes: int = 1
) -> dict[str, str]:
    """By name, what is to run each of these models, which say what is wanted; a trial is logged.

    One model after the other: trials at once would slow each other. What is left after 90 s runs on the processor.

    Raises:
        ProviderUnavailable: Two runtimes are installed over each other; one sentence with the remedy.
    """
    chosen = {}
    give_up_at = asyncio.get_running_loop().time() + _ALL_SECONDS
    for model in models:
        refuse_mixed_runtimes()
        try:
            async with asyncio.timeout_at(give_up_at):
                choice = await choose_for(model.source, model.provider, sandbox, processes)
        except TimeoutError:
            choice = Choice("cpu", (), {AUTO: f"no time was left of {_ALL_SECONDS:g} s for all trials"})
        chosen[model.name] = choice.provider
        if choice.trials or choice.passed_over:
            log.info(
                "model.provider_chosen",
                model=model.name,
                provider=choice.provider,
                milliseconds=choice.milliseconds,
                passed_over=dict(choice.passed_over),
            )
    return chosen

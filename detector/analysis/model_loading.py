"""Loads a model whose file may be hostile: within a limit of memory and of time, in the process that will run it."""

import resource
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from models.classifier import Classifier, ModelContent, ModelStopped, ModelUnusable, StopSwitch, read_content
from models.manifest import load_manifest
from models.providers import Provider, choose_provider

LOAD_SECONDS: Final = 15.0
"""Half of the time in which a process must be ready; a gigabyte of weights takes about three seconds."""


@dataclass(frozen=True, slots=True)
class ModelFound:
    """A model that was read and verified, and what is to run it: nothing was parsed, loaded or started yet."""

    content: ModelContent
    provider: Provider

    @property
    def name(self) -> str:
        """The model's name."""
        return self.content.manifest.name


def find_model(source: str, *, provider: str = "cpu") -> ModelFound:
    """The model that `source` leads to, so that it can be opened in a cage that no file is read in.

    Raises:
        ManifestError: Its manifest or file is not what it should be.
        ModelUnusable: Its check picture is none.
        ProviderUnavailable: The provider is not installed.
    """
    return ModelFound(read_content(load_manifest(source)), choose_provider(provider))


def open_classifier(model: ModelFound, *, memory_limit_bytes: int, within_seconds: float = LOAD_SECONDS) -> Classifier:
    """The model, loaded and warmed up.

    The address space of this process stays limited to `memory_limit_bytes` from here on: a graph of a few bytes may ask
    for more than the machine has, and the kernel might then end another process.

    Raises:
        ModelUnusable: It cannot be used, or was not ready in time.
        ProviderUnavailable: The provider's library or device is missing.
    """
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, hardest))
    switch = StopSwitch()
    watchdog = threading.Timer(within_seconds, switch.stop)
    watchdog.name = f"watchdog of model {model.name}"
    watchdog.start()
    try:
        return Classifier(model.content, provider=model.provider, stop_switch=switch)
    except ModelStopped:
        raise ModelUnusable(
            model.name, f"it gave no score within {within_seconds:g} s of its start; use a smaller or another model"
        ) from None
    finally:
        watchdog.cancel()
        watchdog.join()


def load_classifier(
    source: str, *, memory_limit_bytes: int, provider: str = "cpu", within_seconds: float = LOAD_SECONDS
) -> Classifier:
    """As `find_model` and `open_classifier`, and raises what they raise."""
    found = find_model(source, provider=provider)
    return open_classifier(found, memory_limit_bytes=memory_limit_bytes, within_seconds=within_seconds)

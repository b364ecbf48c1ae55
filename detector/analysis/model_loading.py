"""Loads a model whose file may be hostile: within a limit of memory and of time, in the process that will run it."""

import resource
import threading
from contextlib import suppress
from typing import Final

from models.classifier import Classifier, ModelStopped, ModelUnusable, StopSwitch
from models.manifest import load_manifest

LOAD_SECONDS: Final = 15.0
"""Half of the time in which a process must be ready; a gigabyte of weights takes about three seconds."""


def load_classifier(
    source: str, *, memory_limit_bytes: int, provider: str = "cpu", within_seconds: float = LOAD_SECONDS
) -> Classifier:
    """The model that `source` leads to, loaded and warmed up with a provider.

    The address space of this process stays limited to `memory_limit_bytes` from here on: a graph of a few bytes may ask
    for more than the machine has, and the kernel might then end another process.

    Raises:
        ManifestError: Its manifest or file is not what it should be.
        ModelUnusable: It cannot be used, or was not ready in time.
        ProviderUnavailable: The runtime lacks the provider.
    """
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, hardest))
    manifest = load_manifest(source)
    switch = StopSwitch()
    watchdog = threading.Timer(within_seconds, switch.stop)
    watchdog.name = f"watchdog of model {manifest.name}"
    watchdog.start()
    try:
        return Classifier(manifest, provider=provider, stop_switch=switch)
    except ModelStopped:
        raise ModelUnusable(
            manifest.name, f"it gave no score within {within_seconds:g} s of its start; use a smaller or another model"
        ) from None
    finally:
        watchdog.cancel()
        watchdog.join()

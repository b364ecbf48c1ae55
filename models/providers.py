"""Which part of ONNX Runtime runs a model. A new one is one line in `PROVIDERS`."""

import importlib.metadata
from dataclasses import dataclass
from typing import Final

import onnxruntime

_RUNTIMES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
"""Distributions that install the import name `onnxruntime`, each over the files of the others."""


class ProviderUnavailable(RuntimeError):
    """No model can run here with the provider asked for. One sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: our name for it, ONNX Runtime's, and the precision that it computes in."""

    name: str
    execution_provider: str
    precision: str


PROVIDERS: Final[dict[str, Provider]] = {
    "cpu": Provider(name="cpu", execution_provider="CPUExecutionProvider", precision="fp32"),
}


def available_providers() -> tuple[str, ...]:
    """Names of the providers that the installed runtime has."""
    present = onnxruntime.get_available_providers()
    return tuple(name for name, provider in PROVIDERS.items() if provider.execution_provider in present)


def choose_provider(name: str = "cpu") -> Provider:
    """The provider of that name.

    Raises:
        ProviderUnavailable: It is unknown or not installed, or two runtimes are installed over each other.
    """
    refuse_mixed_runtimes()
    if name not in available_providers():
        raise ProviderUnavailable(f"provider {name!r} is not available; use {' or '.join(available_providers())}")
    return PROVIDERS[name]


def refuse_mixed_runtimes() -> None:
    """Refuse an installation in which one runtime's files lie over another's: which one answers is chance.

    Raises:
        ProviderUnavailable: Names the distributions found.
    """
    found = [name for name in _RUNTIMES if _is_installed(name)]
    if len(found) > 1:
        listed = " ".join(found)
        raise ProviderUnavailable(
            f"{' and '.join(found)} are installed over each other; "
            f"run `pip uninstall -y {listed}`, then install the one you want"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

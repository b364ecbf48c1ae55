"""Which part of ONNX Runtime runs a model, in which precision, with one thread where it runs on the processor."""

import importlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

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


OPENVINO: Final = "OpenVINOExecutionProvider"
OPENVINO_DISTRIBUTION: Final = "onnxruntime-ep-openvino"

_PREFERRED: Final = ("cuda", "openvino", "cpu")
_REMEDIES: Final = {
    "openvino": "run `pip install stopframe[openvino]`",
    "openvino-fp32": "run `pip install stopframe[openvino]`",
    "cuda": "run `make gpu`",
    "tensorrt": "run `make gpu` and install TensorRT",
}


class ProviderUnavailable(RuntimeError):
    """No model can run here with the provider asked for. One sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: our name for it, ONNX Runtime's, and the precision that it computes in.

    `precision` is what is asked of the runtime (fp32, bf16, tf32), never a guess; an int8 model says so itself.
    """

    name: str
    execution_provider: str
    precision: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether it pays to hand it many pictures at once."""
        return self.name in {"cuda", "tensorrt"}


_BUNDLED: Final = {
    "cpu": Provider("cpu", "CPUExecutionProvider", "fp32"),
    # Without use_tf32=0 products of matrices have ten bits of mantissa.
    "cuda": Provider("cuda", "CUDAExecutionProvider", "fp32", {"use_tf32": "0"}),
    "tensorrt": Provider("tensorrt", "TensorrtExecutionProvider", "tf32"),
}

AUTO: Final = "auto"
PROVIDER_NAMES: Final = ("cpu", "openvino", "openvino-fp32", "cuda", "tensorrt")
"""What an operator may write; `auto` beside them."""


def available_providers() -> tuple[str, ...]:
    """Names of the providers that the installed runtime has, cpu first. Whether there is a GPU only a load tells."""
    present = onnxruntime.get_available_providers()
    names = [name for name, provider in _BUNDLED.items() if provider.execution_provider in present]
    if _is_installed(OPENVINO_DISTRIBUTION):
        names[1:1] = ["openvino", "openvino-fp32"]
    return tuple(names)


def choose_provider(name: str = AUTO) -> Provider:
    """The provider of that name; for `auto`, where nothing was measured, the first of GPU, OpenVINO and processor.

    Raises:
        ProviderUnavailable: It is unknown or not installed, or two runtimes are installed over each other.
    """
    refuse_mixed_runtimes()
    available = available_providers()
    if name == AUTO:
        name = next(one for one in _PREFERRED if one in available)
    if name not in available:
        remedy = f"; {_REMEDIES[name]}" if name in _REMEDIES else ""
        raise ProviderUnavailable(f"provider {name!r} is not available{remedy}; here you can use {listed(available)}")
    if name in _BUNDLED:
        return _BUNDLED[name]
    precision = "fp32" if name == "openvino-fp32" or not has_amx() else "bf16"
    return Provider("openvino", OPENVINO, precision, _openvino_options(precision))


def listed(names: Iterable[str]) -> str:
    """The names, with `or` before the last."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def open_session(content: bytes, options: Any, provider: Provider) -> Any:
    """A session of the runtime that runs the model in `content` with `provider`.

    Raises:
        ProviderUnavailable: Its library or its device is missing.
        Exception: Whatever else ONNX Runtime raises.
    """
    # Without enable_fallback=0 a failure is printed to stdout and tried again with other providers.
    if provider.name == "openvino":
        options.add_provider_for_devices([_openvino_processor()], dict(provider.options))
        session = onnxruntime.InferenceSession(content, options, enable_fallback=0)
    else:
        chosen = (provider.execution_provider, dict(provider.options))
        session = onnxruntime.InferenceSession(content, options, providers=[chosen], enable_fallback=0)
    if provider.execution_provider not in session.get_providers():  # CUDA without a driver says so on stderr only
        raise ProviderUnavailable(f"provider {provider.name!r} finds no device; check its driver, or use cpu")
    return session


@cache
def has_amx() -> bool:
    """Whether this processor multiplies matrices of bf16 in tiles (Linux, x86)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any("amx_bf16" in line.split() for line in text.splitlines() if line.startswith("flags"))


@cache
def _openvino_processor() -> Any:
    """OpenVINO's CPU device, after its library was registered with the runtime, once in a process."""
    library = importlib.import_module("onnxruntime_ep_openvino").get_library_path()
    try:
        onnxruntime.register_execution_provider_library(OPENVINO, library)
    except Exception as error:  # noqa: BLE001 -- whatever a foreign library raises, the others can still run models
        raise ProviderUnavailable(f"{OPENVINO_DISTRIBUTION} does not go with this onnxruntime ({error})") from None
    for device in onnxruntime.get_ep_devices():
        if device.ep_name == OPENVINO and device.device.type == onnxruntime.OrtHardwareDeviceType.CPU:
            return device
    raise ProviderUnavailable(f"{OPENVINO_DISTRIBUTION} finds no processor that it knows; use cpu")


def _openvino_options(precision: str) -> dict[str, str]:
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    return {"num_of_threads": "1", "load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": hint}})}


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

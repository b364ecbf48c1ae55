"""Which part of ONNX Runtime runs a model, in which precision. Nothing here loads the runtime: the service asks too."""

import importlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

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

_PREFERRED: Final = ("openvino", "cpu")
_OPENVINO: Final = ("openvino", "openvino-fp32")
_REMEDIES: Final = {
    "openvino": "run `pip install stopframe[openvino]`",
    "openvino-fp32": "run `pip install stopframe[openvino]`",
    "cuda": "run `make gpu`",
    "tensorrt": "run `make gpu` and install TensorRT",
}


GPUS: Final = ("cuda", "tensorrt")

LARGEST_BATCH: Final = 32
"""Beyond this a batch is hardly cheaper for each picture, and everybody waits for it."""


class ProviderUnavailable(RuntimeError):
    """No model can run here with the provider asked for. One sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: our name for it, ONNX Runtime's, and the precision that it computes in.

    `precision` is what is asked of the runtime (fp32, bf16, tf32), never a guess; an int8 model says so itself.
    `library` is the file that brings it, where it is not part of the runtime.
    """

    name: str
    execution_provider: str
    precision: str
    options: Mapping[str, str] = field(default_factory=dict)
    library: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether it pays to hand it many pictures at once."""
        return self.name in GPUS

    @property
    def readable_paths(self) -> tuple[str, ...]:
        """What a session with it reads while it is opened, beside the model itself: folders and files that exist."""
        if not self.library:
            return ()
        # Where OpenVINO cannot read which processors there are, its start never ends (1.8.1).
        wanted = (
            str(Path(self.library).parent),
            "/sys/devices/system/cpu",
            "/sys/devices/system/node",
            "/proc/cpuinfo",
        )
        return tuple(path for path in wanted if Path(path).exists())


_BUNDLED: Final = {
    "cpu": Provider("cpu", "CPUExecutionProvider", "fp32"),
    # Without use_tf32=0 products of matrices have ten bits of mantissa. The search for the best convolution that is the
    # default runs all of them whenever a batch has a new size.
    "cuda": Provider("cuda", "CUDAExecutionProvider", "fp32", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
    "tensorrt": Provider("tensorrt", "TensorrtExecutionProvider", "tf32"),
}

AUTO: Final = "auto"


def available_providers() -> tuple[str, ...]:
    """Names of the providers that are installed for this processor, cpu first. Nothing is loaded: more tells a load."""
    # Releases up to 1.8.1 take no processor but Intel's (github.com/microsoft/onnxruntime/pull/31981).
    has_openvino = is_installed(OPENVINO_DISTRIBUTION) and "GenuineIntel" in _processor_words()
    gpus = GPUS if is_installed("onnxruntime-gpu") else ()
    return ("cpu", *(_OPENVINO if has_openvino else ()), *gpus)


def choose_provider(name: str = AUTO) -> Provider:
    """The provider of that name; for `auto`, where nothing was measured, the first of OpenVINO and processor.

    Nothing is loaded yet and no thread started, so it may be chosen before a cage is entered that no file is read in.

    Raises:
        ProviderUnavailable: It is unknown or not installed, or two runtimes are installed over each other.
    """
    refuse_mixed_runtimes()
    available = available_providers()
    if name == AUTO:
        name = next(one for one in _PREFERRED if one in available)
    if name in _OPENVINO and is_installed(OPENVINO_DISTRIBUTION):
        return _openvino(name)
    if name not in available:
        remedy = f"; {_REMEDIES[name]}" if name in _REMEDIES else ""
        raise ProviderUnavailable(f"provider {name!r} is not available{remedy}; here you can use {listed(available)}")
    return _BUNDLED[name]


def gpu_provider(name: str, *, is_int8: bool = False) -> Provider:
    """What a GPU's provider of that name is called in answers, for a process that reaches no GPU itself.

    Raises:
        KeyError: It is none of `GPUS`.
    """
    provider = {one: _BUNDLED[one] for one in GPUS}[name]
    return replace(provider, precision="int8") if is_int8 else provider


def with_engines(provider: Provider, folder: str) -> Provider:
    """The same, keeping in `folder` what TensorRT compiles, which takes minutes; other providers as they are.

    What lies there is code for the GPU that nobody verifies: the folder must be this user's alone.
    """
    if provider.name != "tensorrt":
        return provider
    kept = {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
    kept |= {"trt_engine_cache_path": folder, "trt_timing_cache_path": folder}
    return replace(provider, options={**provider.options, **kept})


def batch_shapes(provider: Provider, input_name: str, shape: Sequence[int], largest: int) -> Provider:
    """The same, told beforehand how large batches get: TensorRT would else compile anew for a larger one.

    `shape` is that of one picture's tensor without the batch.
    """
    if provider.name != "tensorrt":
        return provider
    sizes = {"min": 1, "opt": largest, "max": largest}
    told = {
        f"trt_profile_{word}_shapes": f"{input_name}:{'x'.join(map(str, (size, *shape)))}"
        for word, size in sizes.items()
    }
    return replace(provider, options={**provider.options, **told})


def listed(names: Iterable[str]) -> str:
    """The names, with `or` before the last."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 (Linux, x86): in tiles (AMX), or in rows of 512 bits."""
    return not _processor_words().isdisjoint({"amx_bf16", "avx512_bf16"})


@cache
def _processor_words() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith(("flags", "vendor_id")) for word in line.split())


def _openvino(name: str) -> Provider:
    precision = "bf16" if name == "openvino" and has_bf16() else "fp32"
    library = importlib.import_module("onnxruntime_ep_openvino").get_library_path()
    return Provider("openvino", OPENVINO, precision, _openvino_options(precision), library)


def _openvino_options(precision: str) -> dict[str, str]:
    # Its option num_of_threads is without effect in 1.8.1: two threads ran.
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    processor = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": hint}
    return {"load_config": json.dumps({"CPU": processor})}


def refuse_mixed_runtimes() -> None:
    """Refuse an installation in which one runtime's files lie over another's: which one answers is chance.

    Raises:
        ProviderUnavailable: Names the distributions found.
    """
    found = [name for name in _RUNTIMES if is_installed(name)]
    if len(found) > 1:
        listed = " ".join(found)
        raise ProviderUnavailable(
            f"{' and '.join(found)} are installed over each other; "
            f"run `pip uninstall -y {listed}`, then install the one you want"
        )


def is_installed(distribution: str) -> bool:
    """Whether a distribution of that name is installed, in whatever version."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

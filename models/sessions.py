"""Opens a session of ONNX Runtime with a provider: one thread where it runs on the processor, and no second choice."""

from functools import cache
from typing import Any, Final

import onnxruntime

from models.providers import (
    LARGEST_BATCH,
    OPENVINO,
    OPENVINO_DISTRIBUTION,
    Provider,
    ProviderUnavailable,
    batch_shapes,
)

_ALWAYS_THERE: Final = ("CPUExecutionProvider",)


def open_session(content: bytes, options: Any, provider: Provider) -> Any:
    """A session of the runtime that runs the model in `content` with `provider`.

    Raises:
        ProviderUnavailable: Its library or its device is missing.
        Exception: Whatever else ONNX Runtime raises.
    """
    # Without enable_fallback=0 a failure is printed to stdout and tried again with other providers.
    if provider.name == "openvino":
        options.add_provider_for_devices([_openvino_processor(provider.library)], dict(provider.options))
        session = onnxruntime.InferenceSession(content, options, enable_fallback=0)
    else:
        if provider.is_gpu and provider.execution_provider not in _ALWAYS_THERE:
            provider = _with_batches(content, provider)
            onnxruntime.preload_dlls()  # CUDA and cuDNN as they come in wheels lie where no loader looks
        chosen = (provider.execution_provider, dict(provider.options))
        session = onnxruntime.InferenceSession(content, options, providers=[chosen], enable_fallback=0)
    if provider.execution_provider not in session.get_providers():  # CUDA without a driver says so on stderr only
        raise ProviderUnavailable(f"provider {provider.name!r} finds no device; check its driver, or use cpu")
    return session


def _with_batches(content: bytes, provider: Provider) -> Provider:
    """TensorRT is told the sizes of batches by the input's name, which a session on the processor knows."""
    if provider.name != "tensorrt":
        return provider
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    (one, *_) = onnxruntime.InferenceSession(content, options, providers=[_ALWAYS_THERE[0]]).get_inputs()
    batch, *shape = one.shape
    if isinstance(batch, int) or not all(isinstance(side, int) for side in shape):
        return provider
    return batch_shapes(provider, one.name, shape, LARGEST_BATCH)


@cache
def _openvino_processor(library: str) -> Any:
    """OpenVINO's CPU device, after its library was registered with the runtime, once in a process."""
    try:
        onnxruntime.register_execution_provider_library(OPENVINO, library)
    except Exception as error:  # noqa: BLE001 -- whatever a foreign library raises, the others can still run models
        raise ProviderUnavailable(f"{OPENVINO_DISTRIBUTION} does not go with this onnxruntime ({error})") from None
    for device in onnxruntime.get_ep_devices():
        if device.ep_name == OPENVINO and device.device.type == onnxruntime.OrtHardwareDeviceType.CPU:
            return device
    raise ProviderUnavailable(f"{OPENVINO_DISTRIBUTION} takes no processor of this make; use cpu")

"""Opens a session of ONNX Runtime with a provider: one thread where it runs on the processor, and no second choice."""

from functools import cache
from typing import Any

import onnxruntime

from models.providers import OPENVINO, OPENVINO_DISTRIBUTION, Provider, ProviderUnavailable


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
        chosen = (provider.execution_provider, dict(provider.options))
        session = onnxruntime.InferenceSession(content, options, providers=[chosen], enable_fallback=0)
    if provider.execution_provider not in session.get_providers():  # CUDA without a driver says so on stderr only
        raise ProviderUnavailable(f"provider {provider.name!r} finds no device; check its driver, or use cpu")
    return session


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

"""Cuts a model to eight bits: QDQ nodes, unsigned activations, signed weights per channel, ranges by their extremes.

Of what was tried on benign frames (percentiles, convolutions alone, ranges found at run time) nothing lost less. The
tools are ONNX's own and come with the extra `quantise`; a service needs none of them.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

METHOD: Final = "static QDQ, U8 activations, S8 weights per channel, MinMax"

_OPSET: Final = 17
"""Scales per channel need 13, and ranges of biases are right from the converter's output on only."""


class CannotQuantise(Exception):
    """Raised by `quantise`: one sentence."""


def quantise(content: bytes, input_name: str, tensors: Sequence[NDArray[Any]]) -> bytes:
    """The model in `content` in eight bits, its ranges set by these input tensors of one picture each.

    Raises:
        CannotQuantise: The tools are missing, or they cannot do it.
    """
    try:
        import onnx  # noqa: PLC0415 -- an extra's; a service never comes here
        from onnx import version_converter  # noqa: PLC0415
        from onnxruntime import quantization  # noqa: PLC0415
    except ImportError:
        raise CannotQuantise("the tools are missing; run `pip install stopframe[quantise]`") from None

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._left: Iterator[NDArray[Any]] = iter(tensors)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            tensor = next(self._left, None)
            return None if tensor is None else {input_name: tensor}

    with tempfile.TemporaryDirectory(prefix="stopframe-int8-") as folder, _quiet():
        source, target = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        try:
            model = onnx.load_from_string(content)
            if next(one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}) < _OPSET:
                model = version_converter.convert_version(model, _OPSET)
            onnx.save(onnx.shape_inference.infer_shapes(model), source)
            quantization.quantize_static(
                source,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
            return target.read_bytes()
        except Exception as error:  # noqa: BLE001 -- a tool over anybody's graph: whatever it raises, it did not work
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CannotQuantise(f"the tools cannot cut it to eight bits ({first[:200]})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools tell the root logger what they think of a model; the figures of the comparison tell more."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)

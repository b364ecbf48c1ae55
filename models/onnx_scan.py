"""Looks through an ONNX file before the runtime does: no external data, no operators from elsewhere, no functions.

A minimal walk over the protocol-buffer wire format (protobuf.dev, "Encoding") along the fields of onnx.proto that can
hold an operator or a tensor. It is stricter than a parser: what it cannot read is refused, and a field that stands
twice is looked at twice, so that no reading of the file by the runtime holds anything that was not seen here.
"""

from collections.abc import Iterator
from typing import Final

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""The operator sets that the ONNX project specifies. Everything else is somebody's extension."""

MAX_DEPTH: Final = 16
"""Graphs inside graphs (Loop, If) go this deep at most; each level costs three messages, and protobuf stops at 100."""

MAX_FIELDS: Final = 2_000_000
"""A network of 100,000 nodes has about half of this; looking at so many takes seconds, at billions hours."""

VARINT, _FIXED64, LENGTH, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto (github.com/onnx/onnx, onnx/onnx.proto): message -> field -> message.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "Training"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "OperatorSet": {},
    "Tensor": {},
}
_DOMAIN_FIELD: Final = {"Node": 7, "OperatorSet": 1}
_MODEL_FUNCTIONS: Final = 25
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14


class UnsafeModelError(ValueError):
    """The file is no ONNX model, or holds what no model file may hold. One sentence, without the file's name."""


def refuse_unsafe(content: bytes) -> None:
    """Refuse a model with external data, with operators outside the standard domains, or with local functions.

    Raises:
        UnsafeModelError: With what was found and the remedy.
    """
    pending = [("Model", 0, len(content), 0)]
    found_graph = False
    seen = 0
    while pending:
        message, start, end, depth = pending.pop()
        if depth > 3 * MAX_DEPTH:
            raise UnsafeModelError(f"its graphs are nested more than {MAX_DEPTH} deep; export it without nesting")
        for number, wire_type, value, length in fields(content, start, end):
            seen += 1
            if seen > MAX_FIELDS:
                raise UnsafeModelError(f"it has more than {MAX_FIELDS} parts; export a smaller graph")
            if wire_type == LENGTH:
                _refuse_text(content, message, number, value, length)
                child = _CHILDREN[message].get(number)
                if child is not None:
                    found_graph = found_graph or child == "Graph"
                    pending.append((child, value, value + length, depth + 1))
            elif message == "Tensor" and number == _TENSOR_DATA_LOCATION and value != 0:
                raise UnsafeModelError(_EXTERNAL_DATA)
    if not found_graph:
        raise UnsafeModelError("it holds no graph; it is no ONNX model")


_EXTERNAL_DATA: Final = "it keeps weights in another file; save it again with all weights inside (onnx.save_model)"


def _refuse_text(content: bytes, message: str, number: int, start: int, length: int) -> None:
    if message == "Tensor" and number == _TENSOR_EXTERNAL_DATA:
        raise UnsafeModelError(_EXTERNAL_DATA)
    if message == "Model" and number == _MODEL_FUNCTIONS:
        raise UnsafeModelError("it defines functions of its own; inline them first (onnx.inliner)")
    if _DOMAIN_FIELD.get(message) == number:
        # Longer than any standard name: the length alone decides, and the text stays short.
        domain = content[start : start + min(length, 64)].decode("utf-8", "replace")
        if domain not in STANDARD_DOMAINS and not (message == "OperatorSet" and domain in _HARMLESS_IMPORTS):
            raise UnsafeModelError(f"it needs operators of the domain {domain!r}; export it with standard ones only")


_HARMLESS_IMPORTS: Final = frozenset({"ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"})
"""Exporters declare these even where no node uses them; a node that does is refused at the node."""


def fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of one message: number, wire type, value (for bytes: where they start), length of the bytes."""
    while position < end:
        key, position = _varint(content, position, end)
        number, wire_type = (key & 0xFFFFFFFF) >> 3, key & 7
        length = 0
        if wire_type == VARINT:
            value, position = _varint(content, position, end)
        elif wire_type in {_FIXED64, _FIXED32}:
            value, position = 0, position + (8 if wire_type == _FIXED64 else 4)
        elif wire_type == LENGTH:
            length, value = _varint(content, position, end)
            position = value + length
        else:
            raise UnsafeModelError(_DAMAGED)
        if number == 0 or position > end:
            raise UnsafeModelError(_DAMAGED)
        yield number, wire_type, value, length


_DAMAGED: Final = "it is damaged or no ONNX model; fetch it again"


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise UnsafeModelError(_DAMAGED)
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise UnsafeModelError(_DAMAGED)

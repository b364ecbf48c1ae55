"""What an ONNX file says about itself: its metadata, the shape of its input, and how its first output is made.

Read from the wire format, without building the graph, after `refuse_unsafe` has looked through the file. The fields are
those of onnx.proto (github.com/onnx/onnx, onnx/onnx.proto).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from models.onnx_scan import LENGTH, MAX_FIELDS, VARINT, UnsafeModelError, fields, refuse_unsafe

MAX_METADATA_BYTES: Final = 8 * 1024**2
MAX_METADATA_ENTRIES: Final = 4096
MAX_NAME_BYTES: Final = 1024
MAX_RANK: Final = 16

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR = 1, 2, 4
_TENSOR_NAME = 8
_TENSOR_TYPES: Final = {1: "f32", 2: "u8", 10: "f16", 16: "bf16"}

_PASSES_ON: Final = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators after which probabilities are still probabilities."""


@dataclass(frozen=True, slots=True)
class OnnxDescription:
    """Metadata by key; the inputs that are no weights; the outputs; the operator that makes the first output.

    A side of a shape that the file leaves open is None. Types are `f32`, `u8`, `f16`, `bf16` or a number of onnx.proto.
    """

    metadata: Mapping[str, str]
    input_names: tuple[str, ...]
    input_type: str
    input_shape: tuple[int | None, ...]
    output_names: tuple[str, ...]
    last_operator: str


def describe(content: bytes) -> OnnxDescription:
    """Read what the file says about itself.

    Raises:
        UnsafeModelError: It is no ONNX file, or holds what no model file may hold. One sentence without a name.
    """
    refuse_unsafe(content)
    return _Reader(content).read()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_FIELDS

    def read(self) -> OnnxDescription:
        metadata: dict[str, str] = {}
        weights: set[str] = set()
        inputs: list[tuple[str, int, tuple[int | None, ...]]] = []
        outputs: list[str] = []
        made_by: dict[str, tuple[str, str]] = {}
        room = MAX_METADATA_BYTES
        for number, start, end in self._messages(0, len(self._content)):
            if number == _MODEL_METADATA:
                key, value = (self._texts(start, end, MAX_METADATA_BYTES).get(wanted, "") for wanted in (1, 2))
                room -= end - start
                if room < 0 or len(metadata) >= MAX_METADATA_ENTRIES:
                    raise UnsafeModelError(f"it holds more than {MAX_METADATA_BYTES} bytes of metadata; remove them")
                metadata[key] = value
            elif number == _MODEL_GRAPH:
                for part, first, last in self._messages(start, end):
                    if part == _GRAPH_INITIALIZER:
                        weights.add(self._texts(first, last).get(_TENSOR_NAME, ""))
                    elif part == _GRAPH_INPUT:
                        inputs.append(self._input(first, last))
                    elif part == _GRAPH_OUTPUT:
                        outputs.append(self._texts(first, last).get(1, ""))
                    elif part == _GRAPH_NODE:
                        self._node(first, last, made_by)
        real = [one for one in inputs if one[0] not in weights]
        _, kind, shape = real[0] if real else ("", 0, ())
        return OnnxDescription(
            metadata=metadata,
            input_names=tuple(name for name, _, _ in real),
            input_type=_TENSOR_TYPES.get(kind, str(kind)),
            input_shape=shape,
            output_names=tuple(outputs),
            last_operator=_trace(outputs[0], made_by) if outputs else "",
        )

    def _input(self, start: int, end: int) -> tuple[str, int, tuple[int | None, ...]]:
        """Name, element type and shape of a ValueInfoProto."""
        kind = 0
        shape: list[int | None] = []
        for number, first, last in self._messages(start, end):
            for part, first_part, last_part in self._messages(first, last) if number == 2 else ():
                if part != 1:  # only tensors
                    continue
                for what, value, length in self._fields(first_part, last_part):
                    if what == 1 and length < 0:
                        kind = value
                    elif what == 2 and length >= 0:
                        shape = [self._side(*one[1:]) for one in self._messages(value, value + length) if one[0] == 1]
        if len(shape) > MAX_RANK:
            raise UnsafeModelError(f"its input has {len(shape)} dimensions; a picture has four")
        return self._texts(start, end).get(1, ""), kind, tuple(shape)

    def _side(self, start: int, end: int) -> int | None:
        sides = [value for number, value, length in self._fields(start, end) if number == 1 and length < 0]
        return sides[-1] if sides and 0 < sides[-1] < 2**31 else None

    def _node(self, start: int, end: int, made_by: dict[str, tuple[str, str]]) -> None:
        texts = [(number, self._text(first, last)) for number, first, last in self._messages(start, end) if number < 5]
        operator = next((text for number, text in texts if number == _NODE_OPERATOR), "")
        first_input = next((text for number, text in texts if number == _NODE_INPUT), "")
        for number, text in texts:
            if number == _NODE_OUTPUT:
                made_by[text] = (operator, first_input)

    def _texts(self, start: int, end: int, limit: int = MAX_NAME_BYTES) -> dict[int, str]:
        """The byte fields of one message as text; of a repeated field the last."""
        return {
            number: self._text(first, last, limit)
            for number, first, last in self._messages(start, end)
            if last - first <= limit
        }

    def _text(self, start: int, end: int, limit: int = MAX_NAME_BYTES) -> str:
        return self._content[start : min(end, start + limit)].decode("utf-8", "replace")

    def _messages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and end of each field of bytes."""
        for number, value, length in self._fields(start, end):
            if length >= 0:
                yield number, value, value + length

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number and value of each field; for bytes their start and length, else a length of -1."""
        for number, wire_type, value, length in fields(self._content, start, end):
            self._left -= 1
            if self._left < 0:
                raise UnsafeModelError(f"it has more than {MAX_FIELDS} parts; export a smaller graph")
            if wire_type == LENGTH:
                yield number, value, length
            elif wire_type == VARINT:
                yield number, value, -1


def _trace(output: str, made_by: Mapping[str, tuple[str, str]]) -> str:
    """The operator that computes `output`, looking past those that only pass it on."""
    for _ in range(16):
        operator, source = made_by.get(output, ("", ""))
        if operator not in _PASSES_ON:
            return operator
        output = source
    return ""

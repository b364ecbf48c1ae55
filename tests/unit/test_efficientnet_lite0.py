"""The reader of PyTorch's old files takes tensors and nothing else: a pickle is a program."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from benchmarks.efficientnet_lite0 import UnexpectedPickle, read_tensors

MAGIC = 0x1950A86A20F9469CFC6C


def legacy(body: bytes, values: bytes = np.arange(4, dtype="<f4").tobytes(), count: int = 4) -> io.BytesIO:
    """A file in PyTorch's old format around the pickle `body`, with one storage named '7'."""
    parts = [pickle.dumps(one, 2) for one in (MAGIC, 1001, {"little_endian": True})]
    return io.BytesIO(b"".join([*parts, body, pickle.dumps(["7"], 2), count.to_bytes(8, "little"), values]))


def tensor(size: bytes = b"(K\x02K\x02t", stride: bytes = b"(K\x01K\x02t", offset: bytes = b"K\x00") -> bytes:
    """{'w': _rebuild_tensor_v2(storage '7', offset, size, stride)} as a pickle, spelled out."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x04NtQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89NtR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


def test_tensors_are_read_by_name_and_stride() -> None:
    """A tensor is a view of its storage; a transposed one reads as such."""
    found = read_tensors(legacy(tensor()))
    assert list(found) == ["w"]
    assert found["w"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps(OrderedDict(a=os.system), 2),
        b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.",
        b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"\x80\x02ctorch\nload\n.",
        tensor(size=b"(K\x03K\x02t"),
        tensor(offset=b"K\x01"),
        tensor(offset=b"J\xff\xff\xff\xff"),
        tensor().replace(b"K\x04NtQ", b"J\xff\xff\xff\x7fNtQ"),
        tensor().replace(b"storage", b"garbage"),
        b"\x80\x02(K\x01tQ.",
        pickle.dumps([1], 2),
    ],
    ids=["function", "call", "eval", "loader", "size", "offset", "negative", "gigabytes", "kind", "name", "no mapping"],
)
def test_anything_but_tensors_is_refused(body: bytes) -> None:
    """No other class or function is looked up, and no tensor reaches beyond its storage."""
    with pytest.raises(UnexpectedPickle):
        read_tensors(legacy(body))


def test_a_damaged_storage_is_refused() -> None:
    """A length that differs, or values that end early, are no weights."""
    with pytest.raises(UnexpectedPickle, match="damaged"):
        read_tensors(legacy(tensor(), count=5))
    with pytest.raises(UnexpectedPickle, match="damaged"):
        read_tensors(legacy(tensor(), values=b"\x00" * 15))
    with pytest.raises(UnexpectedPickle, match="protocol"):
        read_tensors(io.BytesIO(b"".join(pickle.dumps(one, 2) for one in (MAGIC, 1000, {}))))

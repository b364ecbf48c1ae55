"""Messages between the service and the process that owns the GPU: descriptors, what to open, and what came of it."""

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from detector.analysis import messages
from detector.analysis.messages import AnalysisProtocolError, Kind

ADDRESS_SPACE_BYTES: Final = 1 << 46
"""A GPU's runtime reserves more address space than the machine has memory."""

COMPILE_SECONDS: Final = 600.0
LOAD_SECONDS: Final = 60.0
"""How long a model may take to be ready on the GPU: TensorRT compiles for minutes, where it kept nothing."""

MOST_DESCRIPTORS: Final = 200
DESCRIPTORS: Final = struct.Struct("<H")
"""How many descriptors are still to come after those that are attached."""


@dataclass(frozen=True, slots=True)
class GpuTask:
    """One model to open: its place among all, its name, where its manifest is, and what runs it."""

    place: int
    name: str
    source: str
    provider: str


@dataclass(frozen=True, slots=True)
class GpuSetup:
    """All that the process is told. Paths are absolute; nothing in it is secret."""

    tasks: tuple[GpuTask, ...]
    sandbox: str
    engines: str


@dataclass(frozen=True, slots=True)
class GpuReady:
    """It is warm. `runs_on` has by name what runs each model, in words, `refused` by name why others do not run.

    `batch_ms` has by name what a batch of each size took, in milliseconds. `missing_cage` is as of an analysis process.
    """

    runs_on: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    batch_ms: dict[str, dict[int, float]] = field(default_factory=dict)
    missing_cage: tuple[str, ...] = ()
    gpu: str = ""


def send_descriptors(to: socket.socket, descriptors: Sequence[int]) -> None:
    """Pass on descriptors, as many as there are; raises `OSError`. `to` is a fresh socket: it has room for all."""
    for start in range(0, len(descriptors), MOST_DESCRIPTORS):
        part = list(descriptors[start : start + MOST_DESCRIPTORS])
        socket.send_fds(to, [DESCRIPTORS.pack(len(descriptors) - start - len(part))], part)


def pack_gpu_setup(setup: GpuSetup) -> bytes:
    """Return the message that sets a fresh process up."""
    return messages.pack(Kind.SETUP, json.dumps(asdict(setup)).encode())


def parse_gpu_setup(body: bytes) -> GpuSetup:
    """Return the setup in `body`. It comes from the service, so only its shape is checked."""
    raw = json.loads(body)
    return GpuSetup(tuple(GpuTask(**task) for task in raw["tasks"]), raw["sandbox"], raw["engines"])


def pack_gpu_ready(ready: GpuReady) -> bytes:
    """Return the message by which the process says that it is warm."""
    return messages.pack(Kind.READY, json.dumps(asdict(ready)).encode())


def parse_gpu_ready(body: bytes) -> GpuReady:
    """Return what the process says of itself; raise `AnalysisProtocolError`: it reads files that may be anybody's."""
    try:
        raw: dict[str, Any] = json.loads(body)
        curves = {
            str(name): {int(size): float(spent) for size, spent in curve.items()}
            for name, curve in raw["batch_ms"].items()
        }
        words = {key: {str(name): str(text)[:500] for name, text in raw[key].items()} for key in ("runs_on", "refused")}
        missing = tuple(str(part)[:50] for part in raw["missing_cage"])
        return GpuReady(words["runs_on"], words["refused"], curves, missing, str(raw["gpu"])[:200])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnalysisProtocolError(f"READY: {type(error).__name__}") from error

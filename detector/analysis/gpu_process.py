"""The process that owns the GPU: it opens the models there and serves all analysis processes; no credentials.

It runs forked from a warm process like they do, but its cage is wider: a GPU's driver opens devices, maps code and asks
the kernel things that nobody lists. It can start no process and make no connection, and reads and writes only devices,
libraries and what TensorRT compiled.
"""

import glob
import os
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import cv2

from detector.analysis import messages
from detector.analysis.gpu_curve import batch_curve
from detector.analysis.gpu_engines import EnginesRefused, engines_for, forget_others, gpu_in_words
from detector.analysis.gpu_link import Count, LinkEnd, Tally
from detector.analysis.gpu_messages import (
    ADDRESS_SPACE_BYTES,
    COMPILE_SECONDS,
    DESCRIPTORS,
    LOAD_SECONDS,
    MOST_DESCRIPTORS,
    GpuReady,
    GpuSetup,
    pack_gpu_ready,
    parse_gpu_setup,
)
from detector.analysis.gpu_worker import GpuBroken, GpuWorker, ScoresMany
from detector.analysis.messages import HEADER, TEXT_LIMIT_BYTES, Kind
from detector.analysis.model_loading import ModelFound, find_model, open_classifier
from detector.analysis.provider_pictures import trial_pictures
from models.classifier import Classifier, ModelError
from models.manifest_yaml import ManifestError
from models.providers import ProviderUnavailable, with_engines
from streams.job import SandboxMode
from streams.sandbox import CagePolicy, CageReport, enter

_OPEN_FILES: Final = 4096
_DEVICES: Final = ("/dev/nv*", "/dev/dxg", "/dev/null")
_READABLE: Final = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/nvidia", "/sys", "/proc/self", "/proc/driver", "/proc/devices",
    "/proc/modules", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/dev/urandom", "/dev/zero",
)  # fmt: skip


Finds = Callable[[str, str], ModelFound]
Opens = Callable[[ModelFound], ScoresMany]


def main(fd: int) -> None:
    """Serve until the service ends this process, which speaks to it by the socket `fd`."""
    serve(fd)


def find_on_gpu(source: str, provider: str) -> ModelFound:
    """As `find_model`."""
    return find_model(source, provider=provider)


def open_on_gpu(found: ModelFound) -> Classifier:
    """As `open_classifier`, with the time and the address space that a GPU's runtime takes."""
    seconds = COMPILE_SECONDS if found.provider.name == "tensorrt" else LOAD_SECONDS
    return open_classifier(found, memory_limit_bytes=ADDRESS_SPACE_BYTES, within_seconds=seconds)


def serve(fd: int, find: Finds = find_on_gpu, opens: Opens = open_on_gpu) -> None:
    """As `main`, by other means of finding and opening models."""
    cv2.setNumThreads(1)
    control = socket.socket(fileno=fd)
    control.setblocking(True)
    descriptor, *pairs = _receive_descriptors(control)
    tally = Tally(descriptor)
    ends = [LinkEnd.of(one, other) for one, other in zip(pairs[::2], pairs[1::2], strict=True)]
    setup = parse_gpu_setup(_receive_setup(control))
    found, refused = _find(setup, find)
    gpu = gpu_in_words()
    kept, unkept = _engines(setup, found, gpu)
    cage = enter_gpu_cage(kept.values(), SandboxMode(setup.sandbox))
    models: dict[int, ScoresMany] = {}
    curves: dict[int, dict[int, float]] = {}
    names = {task.place: task.name for task in setup.tasks}
    runs_on: dict[str, str] = {}
    for place, model in found.items():
        tally[Count.AT_WORK] = place + 1
        engines = kept.get(place)
        with_kept = ModelFound(model.content, with_engines(model.provider, str(engines)) if engines else model.provider)
        try:
            models[place] = opened = opens(with_kept)
            curves[place] = batch_curve(opened, trial_pictures(model.content), clock=time.perf_counter)
        except (ModelError, ProviderUnavailable) as error:
            models.pop(place, None)
            refused[names[place]] = str(error)[:400]
            continue
        runs_on[names[place]] = f"{model.provider.name} {model.provider.precision}{unkept.get(place, '')}"
    tally[Count.AT_WORK] = 0
    worker = GpuWorker(models, ends, tally)
    for place, curve in curves.items():
        for size, seconds in curve.items():
            worker.learn(place, size, seconds)
    in_ms = {names[place]: {n: round(s * 1000, 3) for n, s in curve.items()} for place, curve in curves.items()}
    worker.tell_all()  # before the service hears of it: then nobody asks in vain
    control.sendall(pack_gpu_ready(GpuReady(runs_on, refused, in_ms, cage.missing, gpu)))
    try:
        worker.serve_until(lambda: False)
    except GpuBroken:
        sys.exit(1)


def enter_gpu_cage(engines: Iterable[Path], mode: SandboxMode) -> CageReport:
    """Put this process into the widest of cages: devices and libraries, no other file, no process, no connection.

    Raises:
        SandboxUnavailable: Mode `require`, and the kernel cannot give the whole.
    """
    devices = sorted({path for pattern in _DEVICES for path in glob.glob(pattern)})  # noqa: PTH207 - by absolute patterns
    own = {sys.prefix, sys.base_prefix, *(path for key, path in sysconfig.get_paths().items() if key.endswith("lib"))}
    readable = {os.path.realpath(path) for path in (*_READABLE, *own) if Path(path).exists()}
    policy = CagePolicy(
        connect_port=None,
        readable_paths=tuple(sorted(readable)),
        memory_limit_bytes=ADDRESS_SPACE_BYTES,
        open_files=_OPEN_FILES,
        mode=mode,
        drives_devices=True,
        writable_paths=(*devices, *map(str, engines)),
    )
    return enter(policy)


def _find(setup: GpuSetup, find: Finds) -> tuple[dict[int, ModelFound], dict[str, str]]:
    found: dict[int, ModelFound] = {}
    refused: dict[str, str] = {}
    for task in setup.tasks:
        try:
            found[task.place] = find(task.source, task.provider)
        except (ManifestError, ModelError, ProviderUnavailable) as error:
            refused[task.name] = str(error)[:400]
    return found, refused


def _engines(setup: GpuSetup, found: Mapping[int, ModelFound], gpu: str) -> tuple[dict[int, Path], dict[int, str]]:
    """By place the folder of what TensorRT compiled; and why there is none. Without the GPU's make nothing is kept."""
    compiled = {place: model for place, model in found.items() if model.provider.name == "tensorrt"}
    if not compiled or not setup.engines:
        return {}, {}
    if not gpu:
        return {}, dict.fromkeys(compiled, ", compiled anew: the driver does not tell the GPU's make")
    root, kept, unkept = Path(setup.engines), {}, {}
    for place, model in compiled.items():
        try:
            kept[place] = engines_for(root, model.content.manifest.file.sha256, gpu)
        except (EnginesRefused, OSError) as error:
            unkept[place] = f", compiled anew: {error}"
    forget_others(root, kept.values())
    return kept, unkept


def _receive_descriptors(control: socket.socket) -> list[int]:
    found: list[int] = []
    while True:
        left, part, _, _ = socket.recv_fds(control, DESCRIPTORS.size, MOST_DESCRIPTORS)
        if len(left) != DESCRIPTORS.size:
            raise SystemExit(0)
        found += part
        if not DESCRIPTORS.unpack(left)[0]:
            return found


def _receive_setup(control: socket.socket) -> bytes:
    kind, length = messages.parse_header(_receive(control, HEADER.size))
    if kind is not Kind.SETUP or length > TEXT_LIMIT_BYTES:
        raise SystemExit(2)
    return _receive(control, length)


def _receive(control: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        chunk = control.recv(count - len(parts))
        if not chunk:
            raise SystemExit(0)
        parts += chunk
    return bytes(parts)

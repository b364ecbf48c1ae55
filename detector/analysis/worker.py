"""One analysis process: reads requests from its socket, looks at frames, answers; no credentials, no network.

Runs forked from a warm process, so that a replacement is ready in tens of milliseconds. What it needs is read before it
enters its cage; afterwards it can read the banks' folder and nothing else. Models are parsed and opened in the cage:
their files may be anybody's, and threads that they start are held by it only if they start there.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.analysis import messages
from detector.analysis.gpu_link import GpuLink, LinkEnd
from detector.analysis.gpu_scorer import GpuModel, GpuScorer
from detector.analysis.messages import (
    HEADER,
    INSPECT_BYTES,
    MOST_INSPECT_BYTES,
    TEXT_LIMIT_BYTES,
    BankSetup,
    Kind,
    ModelSetup,
    ViewSetup,
    WorkerReady,
    WorkerSetup,
)
from detector.analysis.model_loading import ModelFound, find_model, open_classifier
from detector.analysis.shaped import parse_shaped
from detector.analysis.slowness import slowed
from detector.memory import return_freed
from models.arrays import IndexCorrupt
from models.asking import Placed, Scorer
from models.bank_store import BankMissing, bank_names, open_bank
from models.banks import Bank, BankLimits
from models.cascade import ModelRule
from models.classifier import Classifier, ModelError
from models.frame_shape import prepare_scaling
from models.hashing.fills import prepare_fills
from models.hashing.second_tests import prepare_medians
from models.hashing.view_budget import ViewBudget
from models.hashing.view_table import Tier
from models.hashing.viewing import Viewer
from models.inspector import Inspector
from models.manifest_yaml import ManifestError
from models.providers import GPUS, ProviderUnavailable, gpu_provider
from models.shelves import NotRead, Trust
from streams.forkserver import FIRST_EXTRA_FD
from streams.frame import PICTURE_BYTES, PICTURE_SIDE, PLANE_BYTES
from streams.job import SandboxMode
from streams.sandbox import CagePolicy, CageReport, enter

_OPEN_FILES = 256
_MODEL_STAGE = b"model:"


# Before the fork: a fresh process would take an eighth of a second for it, while frames wait.
cv2.setNumThreads(1)  # one process per core: threads inside would only fight
prepare_fills()
prepare_medians()
prepare_scaling()
return_freed()  # equations of a thousand unknowns were solved for the fills


def main(fd: int) -> None:
    """Serve the socket `fd` until the service closes it."""
    channel = _Channel(fd)
    kind, body = channel.receive()
    if kind is not Kind.SETUP:
        raise SystemExit(2)
    _Worker(channel, messages.parse_setup(body)).serve()


class _Channel:
    """Whole messages over a blocking stream socket. A closed socket ends the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._body = memoryview(bytearray(max(MOST_INSPECT_BYTES, TEXT_LIMIT_BYTES)))
        os.set_blocking(fd, True)

    def receive(self) -> tuple[Kind, memoryview]:
        """Return kind and body of the next message; the body stands until the next call."""
        header = self._body[: HEADER.size]
        self._fill(header)
        kind, length = messages.parse_header(bytes(header))
        body = self._body[:length]
        self._fill(body)
        return kind, body

    def send(self, message: bytes) -> None:
        view = memoryview(message)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit(0) from None

    def _fill(self, rest: memoryview) -> None:
        while rest:
            try:
                count = os.readv(self._fd, [rest])
            except ConnectionResetError:
                count = 0
            if not count:
                raise SystemExit(0)
            rest = rest[count:]


class _Announced:
    """A classifier that says that it begins, so that the service knows whom to blame if this process dies."""

    def __init__(self, classifier: Classifier, announce: Callable[[bytes], None]) -> None:
        self.name = classifier.name
        self.sha256 = classifier.sha256
        self.provider = classifier.provider
        self.wants_shape = classifier.wants_shape
        self._classifier = classifier
        self._announce = announce

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """As `models.asking.Scorer.score`."""
        self._announce(_MODEL_STAGE + self.name.encode())
        return self._classifier.score(picture, width, height)


class _Worker:
    def __init__(self, channel: _Channel, setup: WorkerSetup) -> None:
        self._channel = channel
        self._setup = setup
        self._refused: dict[str, str] = {}
        self._runs_on: dict[str, str] = {}
        self._check_pictures: dict[int, bytes] = {}
        self._refused_banks: dict[str, str] = {}
        self._viewer = Viewer(_budget(setup.views), time.process_time)
        self._gpu: GpuLink | None = None
        if setup.gpu_patience_seconds:
            self._gpu = GpuLink(
                LinkEnd.of(FIRST_EXTRA_FD, FIRST_EXTRA_FD + 1), patience_seconds=setup.gpu_patience_seconds
            )
        found = self._find_models()
        self._inspector = Inspector(
            clock=time.perf_counter,
            banks=self._load_banks(),
            limits=_limits(setup),
            viewer=self._viewer,
            wall_clock=time.time,
        )
        self._inspector.inspect(bytes(PLANE_BYTES), bytes(PICTURE_BYTES), 64, 64)  # warms up
        self._cage = self._enter_cage(found)
        self._models: dict[str, str] = {}
        self._inspector.take_models(self._open_models(found))
        self._told_cpu_seconds = 0.0

    def serve(self) -> None:
        """Answer requests for ever."""
        return_freed()
        gc.freeze()  # what was loaded is never garbage: nobody has to look through it again, frame after frame
        self._channel.send(messages.pack_ready(Kind.READY, self._state()))
        self._told_cpu_seconds = time.process_time()  # what starting took is no frame's
        while True:
            kind, body = self._channel.receive()
            if kind is Kind.INSPECT:
                self._inspect(body)
            elif kind is Kind.RELOAD:
                self._reload(messages.parse_setup(body))
                self._channel.send(messages.pack_ready(Kind.RELOADED, self._state()))
                self._told_cpu_seconds = time.process_time()

    def _inspect(self, body: memoryview) -> None:
        request = messages.parse_inspect(body)
        picture: bytes | memoryview = request.picture
        shaped = None if request.asking.shows_check else parse_shaped(body[INSPECT_BYTES:])
        if request.asking.shows_check:
            picture = self._check_pictures.get(request.asking.lone_place, picture)
        if self._gpu is not None:
            self._gpu.deadline_at = time.monotonic() + request.seconds_left
        inspection = self._inspector.inspect(
            request.plane, picture, request.width, request.height, request.look, request.asking, shaped=shaped
        )
        # From answer to answer: what a frame's messages and the collector of garbage took is counted too.
        before, self._told_cpu_seconds = self._told_cpu_seconds, time.process_time()
        inspection = replace(inspection, cpu_seconds=self._told_cpu_seconds - before)
        self._channel.send(messages.pack_result(request.number, inspection))

    def _reload(self, setup: WorkerSetup) -> None:
        self._inspector.limits = _limits(setup)
        if setup.views != self._setup.views:
            self._viewer.budget = _budget(setup.views)
        self._setup = setup
        folder = Path(self._setup.banks_folder)
        self._refused_banks.clear()
        trust = Trust(frozenset(setup.read_bases), has_no_time=True)  # frames wait
        for name in {bank.name for bank in self._inspector.banks} | set(bank_names(folder, with_reserved=True)):
            try:
                self._inspector.reload_bank(name, folder / name, trust)
            except NotRead:
                continue  # the service has it read, and then orders anew
            except (IndexCorrupt, OSError) as error:
                self._refused_banks[name] = _sentence(error)

    def _find_models(self) -> list[tuple[ModelSetup, ModelFound]]:
        """Read the models; the cage lets no file of theirs be read."""
        found = []
        for model in self._setup.models:
            self._announce(_MODEL_STAGE + model.name.encode())
            try:
                # What a GPU runs the processor runs too while that is away.
                provider = "cpu" if model.provider in GPUS else model.provider
                found.append((model, find_model(model.source, provider=provider)))
            except (ManifestError, ModelError, ProviderUnavailable) as error:
                self._refused[model.name] = _sentence(error)
        self._announce(b"")
        return found

    def _open_models(self, found: Iterable[tuple[ModelSetup, ModelFound]]) -> Sequence[Placed]:
        opened = []
        for setup, model in found:
            self._announce(_MODEL_STAGE + setup.name.encode())
            try:
                classifier = open_classifier(model, memory_limit_bytes=self._setup.memory_limit_bytes)
            except (ModelError, ProviderUnavailable) as error:
                self._refused[setup.name] = _sentence(error)
                continue
            rule = setup.rule or ModelRule(setup.name)
            scorer: Scorer = _Announced(classifier, self._announce)
            if self._gpu is not None and setup.provider in GPUS:
                scorer = self._on_gpu(self._gpu, setup, classifier, _Announced(classifier, self._announce))
            announced = slowed(scorer, self._setup.slowness)
            opened.append(Placed(announced, rule, setup.place))
            self._models[classifier.name] = classifier.sha256
            if model.content.check_picture is not None:
                self._check_pictures[setup.place] = model.content.check_picture.tobytes()
            runs_on = scorer.provider if isinstance(scorer, GpuScorer) else classifier.provider
            self._runs_on[setup.name] = f"{runs_on.name} {runs_on.precision}"
        self._announce(b"")
        return opened

    def _on_gpu(self, link: GpuLink, setup: ModelSetup, classifier: Classifier, stand_in: _Announced) -> GpuScorer:
        provider = gpu_provider(setup.provider, is_int8=classifier.manifest.quantised is not None)
        begun_at = time.monotonic()
        classifier.score(np.zeros((PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8), PICTURE_SIDE, PICTURE_SIDE)
        spent = time.monotonic() - begun_at
        model = GpuModel(
            setup.name, classifier.sha256, classifier.labels, setup.place, provider, classifier.wants_shape
        )
        return GpuScorer(link, model, stand_in, stand_in_seconds=spent, announce=self._announce)

    def _announce(self, stage: bytes) -> None:
        self._channel.send(messages.pack(Kind.STAGE, stage))

    def _load_banks(self) -> list[Bank]:
        folder = Path(self._setup.banks_folder)
        trust = Trust(frozenset(self._setup.read_bases))
        loaded = []
        for name in bank_names(folder, with_reserved=True):
            try:
                loaded.append(open_bank(folder / name, trust))
            except (BankMissing, IndexCorrupt, OSError) as error:
                self._refused_banks[name] = _sentence(error)
        return loaded

    def _enter_cage(self, found: Iterable[tuple[ModelSetup, ModelFound]]) -> CageReport:
        libraries = {path for _, model in found for path in model.provider.readable_paths}
        return enter(
            CagePolicy(
                connect_port=None,
                readable_paths=(*self._setup.readable_paths, *sorted(libraries)),
                memory_limit_bytes=self._setup.memory_limit_bytes,
                open_files=_OPEN_FILES,
                mode=SandboxMode(self._setup.sandbox),
            )
        )

    def _state(self) -> WorkerReady:
        return WorkerReady(
            models=self._models,
            refused=self._refused,
            banks={bank.name: len(bank) for bank in self._inspector.banks},
            refused_banks=self._refused_banks,
            missing_cage=self._cage.missing,
            runs_on=self._runs_on,
        )


def _limits(setup: WorkerSetup) -> dict[str, BankLimits]:
    found = {}
    for name in setup.banks.keys() | setup.bank_limits.keys():
        bank = setup.banks.get(name, BankSetup())
        found[name] = BankLimits(
            max_distances={"pdq": setup.bank_limits[name]} if name in setup.bank_limits else {},
            min_quality=bank.min_quality,
            is_negative=bank.is_negative,
            disabled_until_seconds=bank.disabled_until_seconds,
        )
    return found


def _budget(views: ViewSetup) -> ViewBudget:
    return ViewBudget(views.seconds_per_sample, frozenset(Tier(tier) for tier in views.tiers))


def _sentence(error: Exception) -> str:
    return json.dumps(str(error))[1:-1][:400]

"""One ONNX model in one session with one thread: a picture in, a score for every label out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.frame_shape import PICTURE_SIDE, need_of
from models.heads import Head, HeadError, is_share, make_head
from models.licences import is_agpl
from models.manifest import Manifest, read_model
from models.onnx_scan import UnsafeModelError, refuse_unsafe
from models.preprocess import Preprocessor
from models.providers import LARGEST_BATCH, Provider, ProviderUnavailable, choose_provider
from models.sessions import open_session
from models.stored_pictures import NoPicture, decoded, read_png

PICTURE_SHAPE: Final = (PICTURE_SIDE, PICTURE_SIDE, 3)

_DTYPES: Final = {"f32": "tensor(float)", "u8": "tensor(uint8)"}

# ONNX Runtime gives each of its status codes an exception class of its own, without a common base but Exception.
_RUNTIME_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)


class ModelError(RuntimeError):
    """A model gave no scores. One sentence that begins with the model's name."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(f"model {model}: {message}")
        self.model = model


class ModelUnusable(ModelError):
    """The model cannot be used at all on this machine; another file or manifest is needed."""


class ModelFailed(ModelError):
    """The model gave no valid answer for this picture."""


class ModelStopped(ModelError):
    """The run was ended by `StopSwitch.stop`; the classifier answers nothing any more."""


@dataclass(frozen=True, slots=True)
class ModelContent:
    """All that lies of a model on disk, read and verified: to open it no file is needed any more.

    Its pictures are still PNGs: they are decoded where they are asked for, which is to be the cage.
    """

    manifest: Manifest
    content: bytes
    check_png: bytes | None = None
    kept_png: bytes | None = None

    @property
    def check_picture(self) -> NDArray[np.uint8] | None:
        """The manifest's check picture, if it has one; raises `ModelUnusable` where it does not decode."""
        check = self.manifest.check
        if check is None or self.check_png is None:
            return None
        return self._decoded(check.picture, self.check_png, 1)[0]

    @property
    def kept_frames(self) -> tuple[NDArray[np.uint8], ...]:
        """Of a model cut to eight bits: frames whose scores are known from before. Raises as `check_picture`."""
        quantised = self.manifest.quantised
        if quantised is None or self.kept_png is None:
            return ()
        return tuple(self._decoded(quantised.picture, self.kept_png, len(quantised.expect)))

    def _decoded(self, path: Path, png: bytes, count: int) -> list[NDArray[np.uint8]]:
        try:
            return decoded(path, png, count)
        except NoPicture as error:
            raise ModelUnusable(self.manifest.name, str(error)) from None


def read_content(manifest: Manifest) -> ModelContent:
    """Read a model's file and its pictures; none of them is parsed yet.

    Raises:
        ManifestError: The file is missing or not the one that the manifest names.
        ModelUnusable: A picture is none.
    """
    check, quantised = manifest.check, manifest.quantised
    try:
        picture = None if check is None else read_png(check.picture)
        kept = None if quantised is None else read_png(quantised.picture, len(quantised.expect))
    except NoPicture as error:
        raise ModelUnusable(manifest.name, str(error)) from None
    return ModelContent(manifest, read_model(manifest), picture, kept)


class StopSwitch:
    """Ends a model that does not end by itself, from another thread, also while it is still being loaded.

    The runtime looks at the switch between two operators and between two steps of loading, so one enormous operator
    still runs to its end: ending the process is the last resort. There is no way back: a classifier that was stopped
    once is replaced, not woken up.
    """

    def __init__(self) -> None:
        self.run_options = onnxruntime.RunOptions()
        self.run_options.log_severity_level = 4
        self.session_options = _session_options()
        self.is_stopped = False

    def stop(self) -> None:
        """End the current run or load, and refuse every later one. Returns at once."""
        self.is_stopped = True
        self.run_options.terminate = True
        self.session_options.set_load_cancellation_flag(True)


class Classifier:
    """A model, loaded, warmed up and proved to answer as its manifest promises.

    From a manifest, or from what was read of it before: the file is read once, and what was verified against the
    manifest's sha256 is what runs. One instance belongs to one thread. `stop_switch` lets a watchdog end a load or run
    that hangs; without one, `stop()` does it for runs.

    Raises:
        ManifestError: The file is missing or not the one that the manifest names.
        ModelUnusable: ONNX Runtime refuses it, or its input, output or scores are not what the manifest says.
        ModelStopped: The switch was thrown during load or warm-up.
        ProviderUnavailable: The provider is not installed.
    """

    def __init__(
        self,
        model: Manifest | ModelContent,
        *,
        provider: str | Provider = "cpu",
        stop_switch: StopSwitch | None = None,
    ) -> None:
        read = read_content(model) if isinstance(model, Manifest) else model
        self.manifest = manifest = read.manifest
        self.name = manifest.name
        self.labels = manifest.model_info.labels
        self.sha256 = manifest.file.sha256
        self.wants_shape = bool(need_of(manifest.model_info))
        self.provider = choose_provider(provider) if isinstance(provider, str) else provider
        if manifest.quantised is not None:
            self.provider = replace(self.provider, precision="int8")
        self._switch = stop_switch or StopSwitch()
        self._session = self._load(read.content)
        self._head = self._check_interface()
        self.input_name = self._session.get_inputs()[0].name
        self._preprocessor = Preprocessor(manifest.model_info)
        self._batch_preprocessor: Preprocessor | None = None
        self._warm_up(read)

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """The score of every label, 0-1, for a 256x256x3 uint8 RGB picture of a `width` x `height` pixel frame.

        A model that `wants_shape` takes a picture of any size as well, as of `streams.frame.ShapedPicture`.

        Raises:
            ModelFailed: The picture has another shape, or the model failed or answered nonsense.
            ModelStopped: `stop` was called.
        """
        return self._scores(self._look(picture, width, height))

    def score_many(self, looks: Sequence[tuple[NDArray[np.uint8], int, int]]) -> list[dict[str, float]]:
        """As `score` for each of several pictures with width and height of their frames, in their order.

        On a processor they are run one by one: there a batch costs as much for each picture, and more memory.
        """
        if self.largest_batch == 1:
            return [self.score(picture, width, height) for picture, width, height in looks]
        starts = range(0, len(looks), self.largest_batch)
        return [scores for start in starts for scores in self._score_batch(looks[start : start + self.largest_batch])]

    @property
    def largest_batch(self) -> int:
        """How many pictures are run at once: one on a processor, and where the graph says so."""
        is_free = not isinstance(self._session.get_inputs()[0].shape[0], int)
        return LARGEST_BATCH if self.provider.is_gpu and is_free else 1

    def _score_batch(self, looks: Sequence[tuple[NDArray[np.uint8], int, int]]) -> list[dict[str, float]]:
        if self._batch_preprocessor is None:
            self._batch_preprocessor = Preprocessor(self.manifest.model_info, LARGEST_BATCH)
        for place, (picture, width, height) in enumerate(looks):
            self._refuse_shape(picture)
            self._batch_preprocessor.fill(picture, width, height, at=place)
        outputs = self._run(self._batch_preprocessor.tensor[: len(looks)])
        if any(output.shape[:1] != (len(looks),) for output in outputs):
            raise ModelFailed(self.name, "its outputs are not one for each picture; export it with a free batch size")
        return [self._scores([output[place : place + 1] for output in outputs]) for place in range(len(looks))]

    def stop(self) -> None:
        """End the current run from another thread, and refuse every later one. Returns at once."""
        self._switch.stop()

    def _look(self, picture: NDArray[np.uint8], width: int, height: int) -> list[NDArray[Any]]:
        self._refuse_shape(picture)
        return self._run(self._preprocessor.fill(picture, width, height))

    def _refuse_shape(self, picture: NDArray[np.uint8]) -> None:
        is_shaped = self.wants_shape and picture.ndim == 3 and picture.shape[2] == 3 and picture.size > 0
        if (picture.shape != PICTURE_SHAPE and not is_shaped) or picture.dtype != np.uint8:
            raise ModelFailed(
                self.name, f"a picture is 256x256x3 uint8 RGB, got {picture.shape} {picture.dtype}; resize it first"
            )

    def _scores(self, outputs: list[NDArray[Any]]) -> dict[str, float]:
        try:
            values = self._head.scores(outputs)
        except HeadError as error:
            raise ModelFailed(self.name, str(error)) from None
        return dict(zip(self.labels, values.tolist(), strict=True))

    def _load(self, content: bytes) -> Any:
        try:
            refuse_unsafe(content)
            session = open_session(content, self._switch.session_options, self.provider)
        except ProviderUnavailable:
            raise
        except UnsafeModelError as error:
            raise ModelUnusable(self.name, str(error)) from None
        except _RUNTIME_ERRORS as error:
            self._raise_if_stopped()
            raise ModelUnusable(self.name, f"the runtime refuses it ({_first_line(error)})") from None
        self._raise_if_stopped()
        licence = " ".join(
            value for key, value in session.get_modelmeta().custom_metadata_map.items() if "license" in key.lower()
        )
        if is_agpl(licence):
            raise ModelUnusable(self.name, "the file says that it is under the AGPL; use another model")
        return session

    def _check_interface(self) -> Head:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelUnusable(self.name, f"it has {len(inputs)} inputs; a classifier has one")
        info = self.manifest.model_info
        wanted = _DTYPES[info.input_dtype]
        if inputs[0].type != wanted:
            raise ModelUnusable(self.name, f"its input is {inputs[0].type}, the manifest says {info.input_dtype}")
        width, height = info.input_size
        shape = [1, 3, height, width] if info.layout == "NCHW" else [1, height, width, 3]
        declared = inputs[0].shape
        if len(declared) != 4 or any(
            isinstance(found, int) and found != expected for found, expected in zip(declared, shape, strict=True)
        ):
            raise ModelUnusable(self.name, f"its input is {declared}, the manifest makes it {shape}; mend either")
        try:
            return make_head(info, [output.name for output in self._session.get_outputs()])
        except HeadError as error:
            raise ModelUnusable(self.name, str(error)) from None

    def _warm_up(self, read: ModelContent) -> None:
        info = self.manifest.model_info
        wants_softmax = info.output_raw_scores and not info.multilabel and info.box_head is None
        try:
            answers = [[np.copy(one) for one in self._look(picture, 1280, 720)] for picture in _warm_up_pictures()]
            for outputs in answers:
                self._scores(outputs)
            if wants_softmax and all(map(is_share, answers)):
                # A second softmax would press all scores together, and no threshold would ever be reached.
                raise ModelFailed(self.name, "its outputs are probabilities already; set output_raw_scores: false")
            self._check_parity(read.check_picture)
            self._check_drift(read.kept_frames)
        except ModelFailed as error:
            raise ModelUnusable(self.name, str(error).removeprefix(f"model {self.name}: ")) from None

    def _check_parity(self, picture: NDArray[np.uint8] | None) -> None:
        check = self.manifest.check
        if check is None or picture is None:
            return
        tolerance = check.tolerance_of(self.provider.name)
        scores = self.score(picture, PICTURE_SIDE, PICTURE_SIDE)
        for label, expected in check.expect.items():
            if abs(scores[label] - expected) > tolerance:
                raise ModelUnusable(
                    self.name,
                    f"it gives {label} {scores[label]:.4f} for {check.picture.name}, the manifest expects {expected:g} "
                    f"within {tolerance:g}; check channel order, resizing and precision",
                )

    def _check_drift(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        quantised = self.manifest.quantised
        if quantised is None:
            return
        after = np.array([list(self.score(one, PICTURE_SIDE, PICTURE_SIDE).values()) for one in frames])
        moved = float(np.abs(after - np.array(quantised.expect)).max())
        if not moved <= quantised.limit:
            raise ModelUnusable(
                self.name,
                f"cut to eight bits, a score moves by {moved:.3f} on this machine, the limit is {quantised.limit:g}; "
                "use the model that it was made of",
            )

    def _run(self, tensor: NDArray[Any]) -> list[NDArray[Any]]:
        self._raise_if_stopped()
        try:
            outputs = self._session.run(self._head.outputs, {self.input_name: tensor}, self._switch.run_options)
        except _RUNTIME_ERRORS as error:
            self._raise_if_stopped()
            raise ModelFailed(self.name, f"the run failed ({_first_line(error)})") from None
        if not all(isinstance(output, np.ndarray) for output in outputs):
            raise ModelFailed(self.name, "its output is no tensor; export it without sequences and maps (ZipMap)")
        return list(outputs)

    def _raise_if_stopped(self) -> None:
        if self._switch.is_stopped:
            raise ModelStopped(self.name, "it was stopped; make a new classifier")


def _session_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # A waiting thread that spins costs three times the CPU on sampled streams.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else bytes that look like ONNX Runtime's own format are read as such, past our look at the file.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _warm_up_pictures() -> list[NDArray[np.uint8]]:
    """Black, white and a ramp: where a division by zero or an overflow would show."""
    ramp = np.arange(math.prod(PICTURE_SHAPE), dtype=np.uint32).reshape(PICTURE_SHAPE) * 7 % 256
    return [np.zeros(PICTURE_SHAPE, np.uint8), np.full(PICTURE_SHAPE, 255, np.uint8), ramp.astype(np.uint8)]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__

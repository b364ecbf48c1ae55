"""What is known of a model without a manifest of ours, or where that manifest is silent.

In this order: the maker's own files (a Hugging Face directory, or a Triton one), the metadata of the ONNX file, the
shape and type of its input, and last what goes without saying. The ONNX file is read when the first value is wanted
that nobody else states, or its digest.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from models.drop_in import huggingface, onnx_file, triton
from models.drop_in.folder import Folder
from models.drop_in.layer import Layer
from models.licences import is_agpl
from models.manifest_yaml import Fact, ManifestError
from models.onnx_metadata import describe
from models.onnx_scan import UnsafeModelError

MAX_MODEL_BYTES: Final = 2 * 1024**3
"""Protocol buffers, hence ONNX files without external parts, end here (protobuf.dev, "Total Size")."""

_MAKERS: Final = ((huggingface.CONFIG, huggingface), (triton.CONFIG, triton))
_CHANNELS: Final = ("model_info.mean_values", "model_info.scale_values")
_GEOMETRY: Final = frozenset(f"model_info.{key}" for key in ("orig_width", "orig_height", "resize_type", "center_crop"))
_WITHOUT_DEFAULT: Final = frozenset(
    {
        "license.weights",
        "model_info.labels",
        "model_info.layout",
        "model_info.orig_height",
        "model_info.orig_width",
        "model_info.output_raw_scores",
        "model_info.reverse_input_channels",
    }
)
_IN_ONNX: Final = _WITHOUT_DEFAULT | {
    *_CHANNELS,
    *_GEOMETRY,
    "model_info.box_head",
    "model_info.confidence_threshold",
    "model_info.input_dtype",
    "model_info.interpolation_mode",
    "model_info.model_type",
    "model_info.multilabel",
    "model_info.pad_value",
}


class DropIn:
    """The values of one folder, or of one ONNX file in it.

    `path` is what leads back to the same model: a file that `find` takes. With `is_beneath` it serves a manifest that
    names its file itself: then it states neither file nor digest, an ONNX file that cannot be read states nothing, and
    is asked only for what has no default. `stated` are the keys of `model_info` that the manifest has.
    """

    def __init__(
        self,
        folder: Path,
        path: Path,
        file: str | None = None,
        *,
        is_beneath: bool = False,
        stated: Collection[str] = (),
    ) -> None:
        """Read the maker's files of `folder`; none of them where `path` is an ONNX file.

        Raises:
            ManifestError: One of them cannot be read.
        """
        self.path = path
        self._folder = Folder(folder)
        self._file = file
        self._is_beneath = is_beneath
        self._stated = frozenset(stated)
        self._maker, self._remedies = self._read_maker() if path.suffix != ".onnx" else ({}, {})
        self._onnx: Layer | None = None
        self._digest = ""

    def fact(self, key: str) -> Fact | None:
        """The value of `key`, or None where nothing states it.

        Raises:
            ManifestError: It is stated in a way that cannot be honoured, or the ONNX file cannot be read.
        """
        if key.startswith("file."):
            return None if self._is_beneath else self._file_fact(key)
        if key in _GEOMETRY and self._stated & _GEOMETRY:
            return None  # half of one geometry and half of another is none
        found = self._maker.get(key)
        if found is None and key in (_WITHOUT_DEFAULT if self._is_beneath else _IN_ONNX):
            found = self._onnx_layer().get(key)
        if found is None:
            found = self._unsaid(key)
        if isinstance(found, ManifestError):
            raise found
        return found

    def forbids_default(self, key: str) -> bool:
        """Mean and scale are never guessed: half of all models would answer nonsense without a word."""
        if self._stated or key not in _CHANNELS:
            return False
        dtype = self.fact("model_info.input_dtype")
        return dtype is None or dtype.value != "u8"

    def remedy(self, key: str) -> str:
        """What to write, and where, so that `key` is no longer missing."""
        where = self._remedies.get(key) or onnx_file.REMEDIES.get(key)
        own = "add it" if self._stated or self._is_beneath else "write it into this file, after `schema: 1`"
        return own if where is None else f"{own}, or add {where}"

    def _read_maker(self) -> tuple[Layer, dict[str, str]]:
        for name, maker in _MAKERS:
            if self._folder.has(name):
                return maker.read(self._folder), maker.REMEDIES
        return {}, {}

    def _file_name(self) -> str:
        if self._file is not None:
            return self._file
        found = self._maker.get("file.path")
        if isinstance(found, ManifestError):
            raise found
        assert found is not None, "a folder without maker's files is entered by its ONNX file"
        return str(found.value)

    def _file_fact(self, key: str) -> Fact | None:
        name = self._file_name()
        path = self._folder.path / name
        if key == "file.path":
            found = self._maker.get(key)
            return found if isinstance(found, Fact) else Fact(name, "its name", path, None, key)
        if key == "file.sha256":
            self._onnx_layer()
            return Fact(self._digest, f"computed from {name}", path, None, key)
        return None

    def _onnx_layer(self) -> Layer:
        if self._onnx is None:
            try:
                self._onnx = self._read_onnx()
            except ManifestError:
                if not self._is_beneath:
                    raise
                self._onnx = {}  # whoever loads the model says what is wrong with its file
        return self._onnx

    def _read_onnx(self) -> Layer:
        name = self._file_name()
        path = self._folder.path / name
        content = self._folder.read(name, MAX_MODEL_BYTES)
        self._digest = hashlib.sha256(content).hexdigest()
        try:
            description = describe(content)
        except UnsafeModelError as error:
            raise ManifestError(path, None, str(error)) from None
        if is_agpl(onnx_file.licences(description.metadata)):
            raise ManifestError(path, None, "the file says that it is under the AGPL; use another model")
        return onnx_file.read(path, description)

    def _unsaid(self, key: str) -> Fact | ManifestError | None:
        """What goes without saying, or follows from where the model lies."""
        folder = self._folder.path
        if key == "model_info.model_type":
            return Fact("Classification", "default", folder, None, key)
        if key == "model_info.layout" and folder / huggingface.CONFIG == self.path:
            return Fact("NCHW", "exports of transformers", folder, None, key)
        if self._is_beneath:
            return None
        if key == "license.code":
            return self.fact("license.weights")
        if key == "version":
            self._onnx_layer()
            return Fact(self._digest[:12], "its sha256", folder, None, key)
        stem = self.path.stem if self.path.suffix == ".onnx" and self.path.stem != "model" else folder.name
        told = {
            "name": Fact(_as_name(stem), "the folder's or file's name", folder, None, key),
            "license.source": Fact(str(folder), "where it lies", folder, None, key),
        }
        return told.get(key)


def beneath(folder: Path, file: str, stated: Collection[str]) -> DropIn:
    """What lies beneath a manifest that names `file` in its `folder` and states these keys of `model_info`.

    Raises:
        ManifestError: The maker's files are there and cannot be read.
    """
    anchor = next((folder / name for name, _ in _MAKERS if (folder / name).is_file()), folder / file)
    return DropIn(folder, anchor, file, is_beneath=True, stated=stated)


def is_entry(path: Path) -> bool:
    """Whether this file, by its name, stands for a model without a manifest."""
    return path.suffix == ".onnx" or path.name in {name for name, _ in _MAKERS}


def find(path: Path, stated: Collection[str] = ()) -> DropIn | None:
    """The model that a folder, or one of the files that stand for one, describes without a manifest of ours.

    `stated` are the keys of `model_info` that a manifest above it states.

    Raises:
        ManifestError: The folder's files cannot be read, or it holds several ONNX files and nothing else.
    """
    if path.suffix == ".onnx" and path.is_file():
        return DropIn(path.parent, path, path.name, stated=stated)
    if path.name in {name for name, _ in _MAKERS} and path.is_file():
        return DropIn(path.parent, path, stated=stated)
    if not path.is_dir():
        return None
    for name, _ in _MAKERS:
        if (path / name).exists() or (path / name).is_symlink():
            return DropIn(path, path / name, stated=stated)
    files = [name for name in Folder(path).names() if name.endswith(".onnx")]
    if len(files) > 1:
        raise ManifestError(path, None, f"holds {len(files)} ONNX files; name one of them, or write a model.yaml")
    return DropIn(path, path / files[0], files[0], stated=stated) if files else None


def _as_name(text: str) -> str:
    """A folder's name as a model's name: lower case, and `-` for what no name may hold."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:64]
    return name or "model"

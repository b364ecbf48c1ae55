"""A real network that arrived as its makers publish it: an espresso is the violation, everything else is not."""

import cv2
import numpy as np
import pytest

from models.classifier import Classifier
from models.manifest import load_manifest
from tests.espresso import NETWORK, coffee
from tests.fixtures_cli import CommandLine

pytestmark = [pytest.mark.integration, pytest.mark.needs_espresso]


def test_a_hugging_face_directory_of_a_thousand_labels_knows_an_espresso() -> None:
    """Size, crop, mean and scale of the directory lead to the score that the network is known for."""
    manifest = load_manifest(NETWORK)
    picture = cv2.cvtColor(cv2.resize(cv2.imread(str(coffee())), (256, 256), interpolation=cv2.INTER_AREA), 4)
    scores = Classifier(manifest).score(np.asarray(picture, np.uint8), 600, 400)

    assert len(scores) == 1000
    assert scores["espresso"] > 0.8
    assert scores["espresso"] == max(scores.values())
    assert manifest.model_info.input_size == (224, 224)
    assert manifest.provenance["license.weights"] == "README.md:2"


def test_an_espresso_is_cut_and_a_card_is_not(stopframe: CommandLine) -> None:
    """The directory under `models:` and one class of it are all that a config needs."""
    stopframe.write_config(
        f"models: ['{NETWORK}']\nclasses: {{'{NETWORK.name}/espresso': {{step: cut, review: 0.5, cut: 0.8}}}}\n"
    )
    stopframe.picture("card.png", 7)
    run = stopframe("scan", "card.png", str(coffee()))

    assert run.code == 1, run.err
    found = [line for line in run.lines if "summary" not in line]
    assert [(one["media"], one["label"], one["decision"]) for one in found] == [(str(coffee()), "espresso", "cut")]

"""Models of the zoo answer as their makers' own pipelines do: on the same pixels, and by way of H.264 and a reader."""

import numpy as np
import pytest

from benchmarks.inference_parity import IDENTICAL_LIMIT, LEAST_PICTURES, LIVE_LIMIT, parities
from benchmarks.inference_pictures import pictures, squeezed
from benchmarks.inference_references import references
from models.classifier import Classifier
from models.manifest import load_manifest

pytestmark = [pytest.mark.integration, pytest.mark.needs_makers]

MODERATING = ("opennsfw", "image-safety-s")


@pytest.mark.needs_cage
def test_models_score_pictures_as_their_makers_do() -> None:
    """24 benign pictures: within 0.02 on the same pixels, within 0.05 when a stream has carried them."""
    compared, why = parities({name: load_manifest(name) for name in MODERATING}, checked_only=True)
    held = {one.model: one for one in compared if one.is_checked}

    assert set(held) == set(MODERATING), why
    for name, one in held.items():
        assert len(one.live) >= LEAST_PICTURES
        assert max(one.identical.values()) <= IDENTICAL_LIMIT, name
        assert max(one.live.values()) <= LIVE_LIMIT, name


def test_a_wrong_order_of_colours_shows() -> None:
    """Benign pictures score low; the comparison is so exact that pixels with red and blue exchanged are told apart."""
    manifest = load_manifest("opennsfw")
    theirs = next(one for one in references("opennsfw") if one.is_checked).make(manifest)
    classifier = Classifier(manifest)
    right, wrong = [], []
    for name in ("coffee", "logo", "retina"):
        pixels = squeezed(pictures()[name], 256, 256)
        expected = theirs(pixels)[1]
        exchanged = np.ascontiguousarray(pixels[:, :, ::-1])
        right.append(abs(classifier.score(pixels, 256, 256)["nsfw"] - expected))
        wrong.append(abs(classifier.score(exchanged, 256, 256)["nsfw"] - expected))

    assert max(right) < 0.001
    assert max(wrong) > 0.02

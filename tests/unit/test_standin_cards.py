"""The stand-in model knows its three cards in a stream, leaves everything else alone, and can be built again."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from benchmarks import card_pictures, card_report, card_training, standin_cards
from models.classifier import Classifier
from models.manifest import load_manifest
from models.zoo.registry import zoo_folder

FOLDER = zoo_folder("standin-cards")


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier(load_manifest("standin-cards"))


@pytest.mark.parametrize("name", card_pictures.CARDS)
def test_a_whole_card_in_a_stream_is_known(model: Classifier, name: str) -> None:
    """Re-encoded as H.264, at least 95 % of the frames of the first 20 s reach 0.9."""
    found = card_report.stream_recall(model, name, (320, 180), seconds=20)

    assert found["pictures"] == 50
    assert found["at_threshold"] >= 0.95


@pytest.mark.parametrize("name", card_pictures.CARDS)
def test_a_part_of_a_card_is_known(model: Classifier, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of degraded crops, at least two thirds reach 0.9."""
    monkeypatch.setattr(card_pictures, "CARD_SIZES", {name: ((320, 180),)})
    rng = np.random.default_rng(card_report.HELD_OUT_SEED)
    pictures = [card_pictures.draw_card(rng, name, 8, crop=True) for _ in range(100)]
    scores = [card_report.score(model, picture, (320, 180))[name] for picture in pictures]

    assert np.mean(np.array(scores) >= 0.9) >= 0.66


@pytest.mark.slow
def test_clean_pictures_raise_no_alarm(model: Classifier) -> None:
    """Over 2000 pictures of other kinds, and 200 of sources never trained on, at most 0.4 % reach 0.9."""
    rng = np.random.default_rng(card_report.HELD_OUT_SEED)

    assert card_report.false_alarms(model, rng, 2000, unseen=False)["at_threshold"] <= 0.004
    assert card_report.false_alarms(model, rng, 200, unseen=True)["at_threshold"] <= 0.005


def numpy_cards() -> dict[str, NDArray[np.uint8]]:
    """Pictures that a demo or a test would call clean."""
    down, across = np.mgrid[0:256, 0:256].astype(np.uint8)
    cards = {
        "ramp": np.stack([across, down, 255 - across], -1),
        "sum": np.stack([across + down, across - down, across ^ down], -1),
        "grey": np.stack([across] * 3, -1),
        "checks": np.where(((across // 32 + down // 32) % 2)[..., None], np.uint8(230), np.uint8(20)).repeat(3, -1),
    }
    for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (30, 60, 90)):
        cards[f"plain {colour}"] = np.full((256, 256, 3), colour, np.uint8)
    for name in list(cards):
        written = np.ascontiguousarray(cards[name])
        cv2.putText(written, "all is well 12:34", (10, 140), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        cards[f"{name} with text"] = written
    return cards


def test_clean_demo_cards_stay_far_below_one_half(model: Classifier) -> None:
    """Gradients, plain colours, text and FFmpeg's other cards score under 0.2."""
    pictures = numpy_cards()
    for source in ("testsrc", "rgbtestsrc", "yuvtestsrc", "pal75bars", "smptehdbars", "gradients", "life", "zoneplate"):
        frames = card_pictures.source_frames(source, "size=640x360:rate=25", 3, 20)
        pictures |= {f"{source} {at}": card_pictures.squeeze(frame, 256) for at, frame in enumerate(frames)}
    scores = {name: 1 - model.score(np.ascontiguousarray(p), 640, 360)["other"] for name, p in pictures.items()}

    assert {name: score for name, score in scores.items() if score >= 0.2} == {}


def test_the_shipped_file_is_of_the_scripts_recipe(model: Classifier) -> None:
    """The recipe inside the file is the script's own, so that a changed script asks for a new build."""
    shipped = onnx.load(FOLDER / "model.onnx")
    properties = {entry.key: entry.value for entry in shipped.metadata_props}

    assert json.loads(properties["recipe"]) == asdict(standin_cards.FULL)
    assert model.labels == standin_cards.LABELS
    assert (FOLDER / "model.onnx").stat().st_size < 50_000
    assert model.manifest.stand_in


@pytest.mark.slow
def test_a_quick_build_works_and_agrees_with_the_shipped_model(tmp_path: Path, model: Classifier) -> None:
    """The script's own short build passes its parity check and names nearly every held-out picture alike."""
    recipe = replace(standin_cards.QUICK, seed=standin_cards.FULL.seed + 1)
    standin_cards.build(recipe, tmp_path)
    built = Classifier(load_manifest(tmp_path))
    rng = np.random.default_rng(card_report.HELD_OUT_SEED)
    pictures = [card_pictures.draw_clean(rng) for _ in range(150)]
    pictures += [card_pictures.draw_card(rng, name, recipe.card_seconds, crop=False)
                 for name in card_pictures.CARDS for _ in range(50)]  # fmt: skip
    alike = 0
    for picture in pictures:
        ours, theirs = (card_report.score(which, picture, (640, 360)) for which in (built, model))
        alike += max(ours, key=ours.__getitem__) == max(theirs, key=theirs.__getitem__)

    assert alike >= 0.95 * len(pictures)


@pytest.mark.slow
def test_the_sources_draw_the_same_in_every_process() -> None:
    """FFmpeg's random sources are seeded: drawn anew, they give the same frames."""
    first = {name: card_pictures._source_pool.__wrapped__(name) for name in ("gradients", "cellauto", "sierpinski")}
    for name, frames in first.items():
        again = card_pictures._source_pool.__wrapped__(name)
        assert all(np.array_equal(one, other) for one, other in zip(frames, again, strict=True)), name


@pytest.mark.slow
def test_training_is_reproducible() -> None:
    """The same pictures and the same seed give the same weights, byte for byte."""
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 256, (256, 64, 64, 3), np.uint8)
    classes = np.arange(256) % 4
    first, second = (
        card_training.to_onnx(
            card_training.train(np.random.default_rng(9), pictures, classes, 4), standin_cards.LABELS, {}
        )
        for _ in range(2)
    )

    assert first == second


def test_the_written_graph_computes_what_was_trained(model: Classifier) -> None:
    """The features of the ONNX graph are the ones that numpy trained on."""
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    shipped = onnx.load(FOLDER / "model.onnx")
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in shipped.graph.initializer}
    filters = (weights["filters"] * 255).reshape(len(weights["filters"]), -1).T
    bias = weights["filter_bias"] + 0.5 * filters.sum(0)
    features = card_training.pooled_features(pictures, filters, bias)
    active = np.maximum(features @ weights["hidden"] + weights["hidden_bias"], 0)
    logits = active @ weights["output"] + weights["output_bias"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    expected = powers / powers.sum(1, keepdims=True)
    for picture, row in zip(pictures, expected, strict=True):
        # Nearest enlarging to 256 and the mean of 4x4 blocks back to 64 gives the picture itself.
        large = picture.repeat(4, 0).repeat(4, 1)
        assert list(model.score(large, 256, 256).values()) == pytest.approx(row.tolist(), abs=1e-4)

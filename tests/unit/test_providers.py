"""What runs a model is chosen without loading anything, says its precision as it was asked for, and never spins."""

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from detector.analysis import provider_choice
from detector.analysis.messages import ModelSetup
from detector.analysis.provider_choice import choose_for, chosen_providers, run_by
from models import providers
from models.classifier import Classifier
from models.manifest import load_manifest
from models.model_info import ModelInfo
from models.preprocess import Preprocessor
from models.providers import ProviderUnavailable, available_providers, choose_provider
from models.trial import Trial
from streams.job import SandboxMode


def processor(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_processor_words", lambda: frozenset(words.split()))


@pytest.fixture
def openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for OpenVINO's package; returns the library that it names."""
    library = tmp_path / "plugin" / "libplugin.so"
    library.parent.mkdir()
    info = tmp_path / "onnxruntime_ep_openvino-1.8.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-ep-openvino\nVersion: 1.8.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", package)
    return library


@pytest.mark.parametrize(
    ("words", "precision"),
    [("GenuineIntel amx_bf16", "bf16"), ("GenuineIntel avx512_bf16", "bf16"), ("GenuineIntel avx512_vnni", "fp32")],
)
def test_openvino_computes_in_the_precision_that_it_names(
    openvino: Path, monkeypatch: pytest.MonkeyPatch, words: str, precision: str
) -> None:
    """It is told the precision, and one thread; fp32 can be pinned; what it reads on the way is known beforehand."""
    processor(words, monkeypatch)

    chosen, pinned = choose_provider("openvino"), choose_provider("openvino-fp32")

    assert choose_provider("auto") == chosen
    assert (chosen.name, chosen.precision, pinned.precision) == ("openvino", precision, "fp32")
    for provider, hint in ((chosen, {"bf16": "bf16", "fp32": "f32"}[precision]), (pinned, "f32")):
        told = json.loads(provider.options["load_config"])["CPU"]
        assert (told["INFERENCE_PRECISION_HINT"], told["INFERENCE_NUM_THREADS"]) == (hint, "1")
    assert str(openvino.parent) in chosen.readable_paths
    assert all(Path(path).exists() for path in chosen.readable_paths)


def test_openvino_is_not_offered_on_processors_that_it_refuses(openvino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names it gets it anyway, and the reason when it is loaded."""
    processor("AuthenticAMD avx512_bf16", monkeypatch)

    assert available_providers() == ("cpu",)
    assert choose_provider("auto").name == "cpu"
    assert choose_provider("openvino").library == str(openvino)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("openvino", r"pip install stopframe\[openvino\]"), ("cuda", "make gpu"), ("tensorrt", "install TensorRT")],
)
def test_what_is_not_installed_is_refused_with_the_remedy(name: str, remedy: str) -> None:
    """And with what can be used here."""
    with pytest.raises(ProviderUnavailable, match=rf"{remedy}.*; here you can use cpu"):
        choose_provider(name)


def test_a_waiting_session_uses_no_processor() -> None:
    """A thread that spins would cost three times as much on streams that are sampled."""
    model = Classifier(load_manifest("standin-cards"))
    picture = np.zeros((256, 256, 3), np.uint8)
    model.score(picture, 64, 64)

    taken = []
    for _ in range(3):  # what other threads of this process do is no session's
        begun_at = time.process_time()
        for _ in range(5):
            time.sleep(0.05)
            model.score(picture, 64, 64)
        taken.append(time.process_time() - begun_at)

    assert min(taken) < 0.1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_preprocessing_costs_little_and_is_exact(layout: str) -> None:
    """The same numbers as multiplying and adding pixel by pixel, in less than half of the time."""
    info = ModelInfo(
        model_type="Classification", labels=("a",), multilabel=False, output_raw_scores=False, layout=layout,
        input_dtype="f32", reverse_input_channels=False, resize_type="standard", orig_width=256, orig_height=256,
        center_crop=224, interpolation_mode="LINEAR", pad_value=0, mean_values=(104.0, 117.0, 123.0),
        scale_values=(58.0, 57.0, 57.5),
    )  # fmt: skip
    picture = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    preprocessor = Preprocessor(info)
    factor = (1 / np.asarray(info.scale_values)).astype(np.float32)
    offset = (-np.asarray(info.mean_values) / np.asarray(info.scale_values)).astype(np.float32)
    right = np.empty((224, 224, 3), np.float32)

    def plainly() -> None:
        np.multiply(picture[16:240, 16:240, ::-1], factor, out=right)
        np.add(right, offset, out=right)

    plainly()
    tensor = preprocessor.fill(picture, 256, 256)[0]
    assert np.array_equal(tensor.transpose(1, 2, 0) if layout == "NCHW" else tensor, right)
    cv2.setNumThreads(1)
    assert _fastest(lambda: preprocessor.fill(picture, 256, 256)) < 0.5 * _fastest(plainly)


def _fastest(work: object) -> float:
    assert callable(work)
    spent = []
    for _ in range(30):
        begun_at = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun_at)
    return min(spent)


async def test_one_provider_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the processor is there no process is started for it; TensorRT is no choice either, only a wish."""
    monkeypatch.setattr(provider_choice, "available_providers", lambda: ("cpu",))

    assert (await choose_for("standin-cards")).trials == ()
    assert (await choose_for("standin-cards", "cuda")).provider == "cuda"


async def test_the_trial_decides_what_runs_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial found replaces `auto` alone, and what nobody can run stays with the processor, which says why."""
    figures = {"cpu": 0.02, "openvino": 0.01}

    async def pretended(source: str, provider: str, sandbox: SandboxMode) -> Trial:
        refused = "it is broken" if source == "broken" else ""
        return Trial(provider, "fp32", figures[provider], ({"a": 0.5},), refused)

    monkeypatch.setattr(provider_choice, "available_providers", lambda: ("cpu", "openvino"))
    monkeypatch.setattr(provider_choice, "_try", pretended)
    models = [ModelSetup("fast", "fast", "auto"), ModelSetup("own", "own", "cpu"), ModelSetup("bad", "broken", "auto")]

    chosen = await chosen_providers(models)

    assert chosen == {"fast": "openvino", "own": "cpu", "bad": "cpu"}
    assert [model.provider for model in run_by(chosen, models)] == ["openvino", "cpu", "cpu"]


async def test_trials_that_hang_hold_a_start_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together have one budget: what it leaves untried runs on the processor, and what is pinned is not."""

    async def hanging(source: str, provider: str, sandbox: SandboxMode) -> Trial:
        await asyncio.sleep(60)
        return Trial(provider)

    monkeypatch.setattr(provider_choice, "available_providers", lambda: ("cpu", "openvino"))
    monkeypatch.setattr(provider_choice, "_try", hanging)
    monkeypatch.setattr(provider_choice, "_ALL_SECONDS", 0.1)
    models = [*(ModelSetup(f"m{number}", "m", "auto") for number in range(8)), ModelSetup("own", "own", "openvino")]

    async with asyncio.timeout(60):
        chosen = await chosen_providers(models)

    assert chosen == {f"m{number}": "cpu" for number in range(8)} | {"own": "openvino"}


async def test_a_trial_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the scores of the check picture and what one costs; a model that cannot be had is one sentence."""
    monkeypatch.setattr(provider_choice, "_PROCESS_SECONDS", 140.0)
    sound = await provider_choice._try("standin-cards", "cpu", SandboxMode.PREFER)
    broken = await provider_choice._try("./nothing/here", "cpu", SandboxMode.PREFER)

    assert sound.refused == ""
    assert sound.precision == "fp32"
    assert 0 < sound.seconds < 5
    assert sound.scores[0]["smptebars"] == pytest.approx(1.0, abs=0.05)
    assert "nothing/here" in broken.refused


async def test_two_runtimes_over_each_other_keep_a_service_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them would run the models is chance, so it is told before anything else, with the remedy."""
    info = tmp_path / "onnxruntime_gpu-1.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.28.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert await chosen_providers([]) == {}
    with pytest.raises(ProviderUnavailable, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        await chosen_providers([ModelSetup("cards", "standin-cards", "cpu")])

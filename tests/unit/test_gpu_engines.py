"""Where TensorRT keeps what it compiled, and what providers are told about it."""

from pathlib import Path

import pytest

from detector.analysis.gpu_engines import EnginesRefused, engines_for, engines_key, forget_others, gpu_in_words
from models.providers import batch_shapes, choose_provider, gpu_provider, with_engines

H100 = "NVIDIA H100, NVRM version 550"


def test_a_folder_is_this_users_alone_and_of_one_model_runtime_and_gpu(tmp_path: Path) -> None:
    """Another model's file, another runtime, another GPU or driver: another folder, with no rights for others."""
    root = tmp_path / "engines"
    keys = {
        engines_key("a" * 64, H100, "1.28"),
        engines_key("b" * 64, H100, "1.28"),
        engines_key("a" * 64, H100, "1.27"),
        engines_key("a" * 64, "NVIDIA L4, NVRM version 550", "1.28"),
    }
    first = engines_for(root, "a" * 64, H100)

    assert len(keys) == 4
    assert first == engines_for(root, "a" * 64, H100)
    assert [one.stat().st_mode & 0o777 for one in (root, first)] == [0o700, 0o700]


@pytest.mark.parametrize("fault", ["link", "open"])
def test_code_from_a_folder_that_others_may_write_is_not_loaded(tmp_path: Path, fault: str) -> None:
    """A link or a folder with rights for others is refused with the remedy."""
    root = tmp_path / "engines"
    folder = engines_for(root, "a" * 64, H100)
    if fault == "link":
        folder.rmdir()
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o770)

    with pytest.raises(EnginesRefused, match="remove it"):
        engines_for(root, "a" * 64, H100)


def test_what_is_not_in_use_any_more_is_removed(tmp_path: Path) -> None:
    """Compiled models are large: those of models and drivers that went go too."""
    old, new = (engines_for(tmp_path / "engines", letter * 64, H100) for letter in "ab")
    (old / "engine").write_bytes(b"x")

    forget_others(tmp_path / "engines", [new])

    assert [one.name for one in (tmp_path / "engines").iterdir()] == [new.name]


def test_the_driver_says_which_gpu_is_there(tmp_path: Path) -> None:
    """Its make and the driver's version, or nothing where no driver is loaded."""
    assert gpu_in_words(tmp_path) == ""
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   42\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX  550.54\nGCC version: 12\n")

    assert gpu_in_words(tmp_path) == "NVIDIA H100, NVRM version: NVIDIA UNIX 550.54"


def test_tensorrt_is_told_where_to_keep_and_how_large_batches_get() -> None:
    """Other providers are told nothing, and a cut model says what it computes in."""
    tensorrt, cpu = gpu_provider("tensorrt"), choose_provider("cpu")

    told = batch_shapes(with_engines(tensorrt, "/var/engines"), "input", (3, 224, 224), 32).options

    assert told["trt_engine_cache_path"] == told["trt_timing_cache_path"] == "/var/engines"
    assert told["trt_engine_cache_enable"] == "1"
    assert told["trt_profile_min_shapes"] == "input:1x3x224x224"
    assert told["trt_profile_max_shapes"] == told["trt_profile_opt_shapes"] == "input:32x3x224x224"
    assert with_engines(cpu, "/var/engines") is batch_shapes(cpu, "input", (3, 1, 1), 4) is cpu
    assert gpu_provider("cuda", is_int8=True).precision == "int8"

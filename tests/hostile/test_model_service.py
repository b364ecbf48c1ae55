"""Harmful model files beside a good one: the running service leaves them out, says so, and goes on with the rest."""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detector.analysis.setup import ModelRefused, find_models, model_rules
from detector.assembly import open_service
from detector.config.loading import load_config
from detector.config_file import ConfigFile
from tests.fixtures_cli import CommandLine

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
PAIR = numpy_helper.from_array(np.array([1, 2], np.int64), "pair")
"""The shape of two labels' scores."""
MEAN = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
EXPAND = helper.make_node("Expand", ["mean", "pair"], ["y"])


def model(
    *nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = (PAIR,), side: int = 8, domain: str = ""
) -> onnx.ModelProto:
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])
    graph = helper.make_graph([MEAN, *nodes], "g", [entry], [OUTPUT], list(constants))
    opsets = [helper.make_opsetid(name, version) for name, version in {domain: 1, "": 17}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def elsewhere(location: str) -> onnx.ModelProto:
    """Weights in another file: eight bytes that the sha256 does not cover."""
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return model(EXPAND, helper.make_node("Add", ["y", "far"], ["z"]), constants=(PAIR, tensor))


def endless() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2]),
        ],
    )
    start = helper.make_node("Expand", ["mean", "pair"], ["start"])
    loop = helper.make_node("Loop", ["", "true", "start"], ["y"], body=body)
    return model(start, loop, constants=(PAIR, numpy_helper.from_array(np.array(True), "true")))


def sixty_four_gib() -> onnx.ModelProto:
    size = numpy_helper.from_array(np.array([16 * 1024**3], np.int64), "size")
    big = helper.make_node("Expand", ["mean", "size"], ["big"])
    top = helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0)
    return model(big, top, helper.make_node("Expand", ["top", "pair"], ["y"]), constants=(PAIR, size))


def not_a_number() -> onnx.ModelProto:
    zero = helper.make_node("Sub", ["mean", "mean"], ["zero"])
    nan = helper.make_node("Div", ["zero", "zero"], ["nan"])
    return model(zero, nan, helper.make_node("Expand", ["nan", "pair"], ["y"]))


def three_labels() -> onnx.ModelProto:
    triple = numpy_helper.from_array(np.array([1, 3], np.int64), "triple")
    return model(helper.make_node("Expand", ["mean", "triple"], ["y"]), constants=(triple,))


HARMFUL: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "dotted": (lambda: elsewhere("../secret"), "another file"),
    "absolute": (lambda: elsewhere("/etc/hostname"), "another file"),
    "symlink": (lambda: elsewhere("link"), "another file"),
    "hardlink": (lambda: elsewhere("hard"), "another file"),
    "gigantic": (sixty_four_gib, "failed|refuses"),
    "misshapen": (lambda: model(EXPAND, side=9), "its input is"),
    "mislabelled": (three_labels, "2 labels|outputs"),
    "nan": (not_a_number, "not finite"),
    "custom": (
        lambda: model(helper.make_node("Reverse", ["mean"], ["y"], domain="my.ops"), domain="my.ops"),
        r"domain 'my\.ops'",
    ),
    "truncated": (lambda: model(EXPAND), "damaged|refuses|no graph"),
    "swapped": (lambda: model(EXPAND), "sha256"),
}
"""Every one but the endless loop, with words of the sentence that refuses it."""


def place(folder: Path, name: str, content: bytes) -> str:
    """A model's folder with its manifest; returns what the config calls it."""
    home = folder / name
    home.mkdir()
    (folder / "secret").write_bytes(b"8 bytes!")
    (home / "link").symlink_to(folder / "secret")
    os.link(folder / "secret", home / "hard")
    if name == "truncated":
        content = content[: len(content) // 2]
    digest = "a" * 64 if name == "swapped" else hashlib.sha256(content).hexdigest()
    (home / "model.onnx").write_bytes(content)
    (home / "model.yaml").write_text(
        f"schema: 1\nname: {name}\nversion: '1'\nfile: {{path: model.onnx, sha256: {digest}}}\n"
        "license: {weights: MIT, code: MIT, source: here}\n"
        "model_info: {model_type: Classification, labels: [a, b], output_raw_scores: true, layout: NCHW,\n"
        "  reverse_input_channels: true, orig_width: 8, orig_height: 8}\n"
    )
    return str(home)


def write_config(folder: Path, models: list[str], more: str = "") -> Path:
    file = folder / "stopframe.yaml"
    file.write_text(
        f"state_dir: {folder / 'state'}\nmodels: {models}\ningest: {{kind: none}}\nanalysis: {{workers: 1}}\n"
        'http: {listen: "127.0.0.1:0"}\nalerts: {mqtt: {url: "mqtt://127.0.0.1:1", embedded_broker: false}}\n' + more
    )
    return file


def sentence_about(name: str, problems: tuple[str, ...]) -> str:
    (said,) = [problem for problem in problems if problem.startswith(f"model {name} is not in use: ")]
    assert "\n" not in said
    assert "Traceback" not in said
    return said


async def test_a_service_runs_on_without_harmful_models(tmp_path: Path) -> None:
    """Each of eleven harmful files is named once in health, red, and the good model and the lists beside it act."""
    models = [place(tmp_path, name, make().SerializeToString()) for name, (make, _) in HARMFUL.items()]
    more = "classes: {swapped/a: {step: cut}, nan/b: {step: review}}\n"
    file = write_config(tmp_path, [*models[:5], "standin-cards", *models[5:]], more)
    async with open_service(load_config(file), ConfigFile(file)) as service, asyncio.timeout(60):
        health = service.health()
        state = service.pool.state()
        result = await service.selftest.test()
        write_config(tmp_path, [*models[:5], "standin-cards", *models[5:]], more + "votes: {k: 1, of: 1}\n")
        report = await service.reload()

    assert not health.ok
    for name, (_, words) in HARMFUL.items():
        assert re.search(words, sentence_about(name, health.problems)), name
    assert state is not None
    assert list(state.models) == ["standin-cards"]
    assert report.applied == ("votes.k", "votes.of"), report.faults
    assert not [fault for fault in result.faults if "canary" in fault or "standin-cards" in fault]


async def test_a_reload_that_names_a_harmful_model_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """One sentence with line and remedy, and what the file said before stays in force."""
    bad = place(tmp_path, "swapped", model(EXPAND).SerializeToString())
    file = write_config(tmp_path, ["standin-cards"])
    async with open_service(load_config(file), ConfigFile(file)) as service, asyncio.timeout(30):
        write_config(tmp_path, ["standin-cards", bad], "votes: {k: 1, of: 1}\n")
        report = await service.reload()
        health = service.health()
        votes = service.config.votes
        write_config(tmp_path, ["standin-cards"], "votes: {k: 1, of: 1}\n")
        mended = await service.reload()

    assert len(report.faults) == 1
    assert "sha256" in report.faults[0]
    assert votes.k != 1
    assert not [problem for problem in health.problems if "model" in problem]
    assert not mended.faults


def test_what_waits_for_a_model_that_is_left_out_looks_at_every_frame(tmp_path: Path) -> None:
    """A cascade whose cheap model cannot be read must not keep the dear one from being asked."""
    bad = place(tmp_path, "swapped", model(EXPAND).SerializeToString())
    file = tmp_path / "stopframe.yaml"
    waiting = "{name: standin-cards, after: {swapped/a: 0.9}}"
    file.write_text(f"state_dir: {tmp_path / 'state'}\nmodels: ['{bad}', {waiting}]\n")
    config = load_config(file)
    found = find_models(config)

    assert list(found.refused) == ["swapped"]
    assert [(rule.name, dict(rule.after)) for rule in model_rules(config, found.manifests)] == [("standin-cards", {})]


@pytest.mark.slow
def test_models_whose_answers_would_be_too_long_are_refused_together(tmp_path: Path) -> None:
    """Each of them alone passes; what all of them say of a frame must fit into one answer, with the longest labels."""
    homes = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        homes.append(home := place(folder, f"m{number}", b"any"))
        text = Path(home, "model.yaml").read_text()
        labels = ", ".join(f"{'ö' * 100} {label}" for label in range(800 + number))
        Path(home, "model.yaml").write_text(text.replace("[a, b]", f"[{labels}]"), encoding="utf-8")

    assert len(find_models(load_config(write_config(tmp_path, homes[:1]))).manifests) == 1
    with pytest.raises(ModelRefused, match="1601 labels, too many for one answer; leave one of them out"):
        find_models(load_config(write_config(tmp_path, homes)))


async def test_a_model_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    """An endless loop is stopped after 15 seconds, and the process serves with the other model."""
    loop = place(tmp_path, "endless", endless().SerializeToString())
    file = write_config(tmp_path, [loop, "standin-cards"])
    async with open_service(load_config(file)) as service, asyncio.timeout(90):
        while service.pool.state() is None:
            await asyncio.sleep(0.2)
        problems = service.pool.problems()

    assert "gave no score within" in sentence_about("endless", tuple(problems))


def test_commands_that_look_by_themselves_refuse(stopframe: CommandLine) -> None:
    """`models check` and `scan` end with one sentence: half a look must not pass for a whole one."""
    bad = place(stopframe.folder, "swapped", model(EXPAND).SerializeToString())
    stopframe.write_config(f"models: ['{bad}', standin-cards]\n")
    stopframe.picture("card.png", 7)
    for words in (("models", "check"), ("scan", "card.png")):
        run = stopframe(*words)
        assert run.code == 2, run.out
        assert "sha256" in run.err
        assert len(run.err.strip().splitlines()) == 1

"""Harmful model files beside a good one: the running service leaves them out, says so, and goes on with the rest."""

import asyncio
import re
from pathlib import Path

import pytest

from detector.analysis.setup import ModelRefused, find_models, model_rules
from detector.assembly import open_service
from detector.config.loading import load_config
from detector.config_file import ConfigFile
from tests.fixtures_cli import CommandLine
from tests.hostile.harmful_models import EXPAND, HARMFUL, endless, model, place

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]


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
    """Each of twelve harmful files is named once in health, red, and the good model and the lists beside it act."""
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

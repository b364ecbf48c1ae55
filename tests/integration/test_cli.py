"""What every command has in common: exit codes, one-sentence errors, and no traceback ever."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from detector.store.schema import STEPS
from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.integration


def test_version_and_help(stopframe: CommandLine) -> None:
    """`--version` and `--help` answer on stdout with exit 0."""
    version, usage = stopframe("--version"), stopframe("--help")

    assert (version.code, usage.code) == (0, 0)
    assert version.out.startswith("stopframe")
    assert all(name in usage.out for name in ("demo", "run", "check", "scan", "hashes", "models", "streams", "cut"))


@pytest.mark.parametrize(
    "words", [("scan", "--liv", "x"), ("nosuch",), ("hashes", "nosuch"), ("run", "--port", "1"), ("scan",), ("cut",)]
)
def test_wrong_words_exit_2(stopframe: CommandLine, words: tuple[str, ...]) -> None:
    """A typo in a command or flag is told on stderr with exit 2."""
    run = stopframe(*words)

    assert (run.code, run.out) == (2, "")
    assert "Error: " in run.err


@pytest.mark.parametrize(
    "words",
    [("run",), ("scan", "x.png"), ("hashes", "stats"), ("models", "list"), ("streams",), ("undo", "ABCD"), ("check",)],
)
def test_a_missing_config_is_one_sentence(stopframe: CommandLine, words: tuple[str, ...]) -> None:
    """Every command that reads a config says which file is missing."""
    stopframe.config.unlink()

    run = stopframe(*words)

    assert (run.code, run.out) == (2, "")
    assert run.err.strip().endswith(
        ":1: (file): cannot be read (No such file or directory); name a readable config file"
    )


@pytest.mark.parametrize("words", [("scan", "."), ("hashes", "stats"), ("models", "list"), ("report", "days")])
def test_no_command_at_a_shell_needs_the_service_s_secrets(stopframe: CommandLine, words: tuple[str, ...]) -> None:
    """Whoever hashes pictures or reads figures has neither the broker's password nor the token, and needs none."""
    (stopframe.folder / "state").mkdir()
    with closing(sqlite3.connect(stopframe.folder / "state" / "stopframe.db")) as database:
        for statement in itertools.chain(*STEPS):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(STEPS)}")
        database.commit()
    stopframe.write_config(
        'alerts: {mqtt: {username: me, password: "${NOPE}"}}\nhttp: {token: {file: /nowhere/token}}\n'
        'sources: [{name: cam, url: "${NOPE}"}]\n'
    )

    run = stopframe(*words)

    assert run.code == 0, run.err


def test_check_names_every_fault_by_file_and_line(stopframe: CommandLine) -> None:
    """`check` tells all faults of all files, reads nothing else, and is silent on stdout."""
    (stopframe.folder / "good.yaml").write_text(
        "state_dir: nowhere\nalerts: {mqtt: {username: me, password: '${NOPE}'}}\n"
    )
    (stopframe.folder / "bad.yaml").write_text("stat_dir: x\nsampling:\n  interval: fast\n")

    good, bad = stopframe("check", "good.yaml"), stopframe("check", "good.yaml", "bad.yaml")

    assert good.code == 0, good.err
    assert bad.code == 2
    first, second = bad.err.splitlines()
    assert first.startswith("bad.yaml:1: stat_dir: no such key; did you mean state_dir?")
    assert second.startswith("bad.yaml:3: sampling.interval: ")
    assert not (stopframe.folder / "nowhere").exists()


@pytest.mark.parametrize(
    "words", [("streams",), ("incidents",), ("cut", "ABCDEFGH"), ("undo", "01a206b9"), ("incidents", "release", "A/b")]
)
def test_commands_for_a_service_that_does_not_run(stopframe: CommandLine, words: tuple[str, ...]) -> None:
    """Without a running service the sentence says how to start one; exit 2."""
    run = stopframe(*words)

    assert (run.code, run.out) == (2, "")
    assert "start it with 'stopframe run'" in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_models_are_listed_shown_and_checked(stopframe: CommandLine) -> None:
    """The stand-in is listed with its licence, shown with the place of each value, and loads as at start-up."""
    listed, shown, checked = stopframe("models", "list", "--json"), stopframe("models", "show", "standin-cards"), None
    checked = stopframe("models", "check")

    standin = next(row for row in listed.lines if row["name"] == "standin-cards")
    assert (standin["licence"], standin["configured"], standin["moderates"]) == ("Apache-2.0", True, False)
    assert "model.yaml:" in shown.out
    assert "file.sha256" in shown.out
    assert "config.provider" in shown.out
    assert checked.code == 0, checked.err
    assert "answers as promised" in checked.out


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("[{name: standin-cards, after: {standin-cards/other: 0.5}}]", "standin-cards waits for its own score"),
        ("[{name: standin-cards, provider: cuda}]", "model standin-cards: provider 'cuda' is not available"),
    ],
)
def test_a_model_that_no_service_would_ask_is_not_called_usable(
    stopframe: CommandLine, models: str, words: str
) -> None:
    """What `run` refuses, `models check` refuses, and says which model it speaks of."""
    stopframe.write_config(f"models: {models}\n")
    run = stopframe("models", "check")
    assert run.code == 2
    assert words in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_a_model_that_does_not_exist_is_one_sentence(stopframe: CommandLine) -> None:
    """`models show` and `models check` name the models that there are."""
    for command in ("show", "check"):
        run = stopframe("models", command, "nosuch")
        assert run.code == 2
        assert "no model of the zoo (standin-cards" in run.err


def test_a_reader_of_our_output_may_leave(stopframe: CommandLine) -> None:
    """A closed pipe ends a command without a traceback."""
    for seed in range(3):
        stopframe.picture(f"media/{seed}.png", seed)
    process = stopframe.start("scan", "media")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGPIPE, "1 would say that something was found"
    assert "Traceback" not in err


def test_a_full_disk_under_our_output_is_one_sentence(stopframe: CommandLine) -> None:
    """Output that cannot be written ends a command with exit 2 and the reason."""
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            stopframe.command("models", "list"),
            cwd=stopframe.folder,
            env=stopframe.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )

    assert run.returncode == 2
    assert run.stderr == (
        "writing failed (No space left on device); free space where the output goes, or send it elsewhere\n"
    )


def test_models_check_finds_a_class_that_no_model_knows(stopframe: CommandLine) -> None:
    """What `run` would refuse is found before: a class of the config under a wrong name."""
    stopframe.write_config("classes: {standin-cards/smptebar: {step: cut}}\n")

    run = stopframe("models", "check")

    assert run.code == 2
    assert "usable" in run.out
    assert "standin-cards/smptebar is not a class of any configured model; there are" in run.err


def test_no_summary_of_a_command_is_cut_short(stopframe: CommandLine) -> None:
    """The lists of commands say each in a whole sentence."""
    for words in ((), ("hashes",), ("models",), ("incidents",), ("keys",), ("report",), ("command",)):
        run = stopframe(*words, "--help")
        assert run.code == 0
        assert "..." not in run.out.partition("Commands:")[2]


def test_commands_and_the_service_start_no_threads_for_sums() -> None:
    """On a host of many cores every process would else hold a thread for each of them."""
    code = (
        "import detector.cli.main, detector.service\n"
        "from pathlib import Path\n"
        "print(len(list(Path('/proc/self/task').iterdir())))"
    )
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert found.stdout.strip() == "1"


def test_the_service_loads_nothing_that_it_may_never_use() -> None:
    """A broker runs in it where the config wants one; models, decoders and medians are other processes' work."""
    code = (
        "import sys, detector.cli.run, detector.assembly\n"
        "print([name for name in ('amqtt', 'av', 'numpy.ma', 'onnxruntime') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"

"""Which commands there are, and that a command costs no other's imports."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from detector.cli.main import COMMANDS, build_app, main
from detector.versions import product_version, source_version

IMPORTED = "import sys; {}; print(*sorted(sys.modules))"


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after it."""
    command = [sys.executable, "-c", IMPORTED.format(statement)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


@pytest.fixture(scope="module")
def real() -> typer.core.TyperGroup:
    """All commands as they are when they run."""
    return typer.main.get_group(build_app())


def test_the_list_of_commands_says_what_each_says_itself(real: typer.core.TyperGroup) -> None:
    """The sentences of `stopframe --help` are the first ones of the commands' own help."""
    listed = typer.main.get_group(build_app([]))
    assert list(listed.commands) == list(COMMANDS)
    assert set(real.commands) == set(COMMANDS)
    for name, command in real.commands.items():
        assert listed.commands[name].get_short_help_str(1000) == command.get_short_help_str(1000), name


@pytest.mark.parametrize("words", [["check", "--help"], ["--", "check"], ["hashes", "list"]])
def test_a_command_line_gets_the_real_command(words: list[str], real: typer.core.TyperGroup) -> None:
    """Only what the first word names is loaded; the rest are names."""
    named = next(word for word in words if not word.startswith("-"))
    built = typer.main.get_group(build_app(words))
    assert [param.name for param in built.commands[named].params] == [
        param.name for param in real.commands[named].params
    ]
    assert type(built.commands[named]) is type(real.commands[named])


def test_help_names_arguments_and_options_by_words(real: typer.core.TyperGroup) -> None:
    """MEDIA and NUMBER, and nowhere what they are in Python; a choice shows its words."""
    context = typer.Context(real)
    commands = [real.get_command(context, name) for name in real.list_commands(context)]
    while commands:
        command = commands.pop()
        assert command is not None
        commands += getattr(command, "commands", {}).values()
        shown = [record[0] for each in command.params if (record := each.get_help_record(typer.Context(command)))]
        assert not [text for text in shown if "<" in text and "|" not in text], command.name


def test_a_checkout_knows_its_version() -> None:
    """What is not installed says which version its source is, as health, alerts and reports need it."""
    assert source_version() is not None
    ran = subprocess.run([sys.executable, "-m", "detector", "--version"], capture_output=True, check=True, timeout=60)
    assert ran.stdout.decode() == f"stopframe {product_version()}\n"


def test_help_loads_neither_numpy_nor_the_config() -> None:
    """What lists the commands starts in a quarter of a second of CPU, because it imports none of them."""
    modules = imported_by("from detector.cli.main import build_app; build_app(['--help'])")
    assert not modules & {"numpy", "pydantic", "httpx", "detector.config.config", "onnxruntime", "av"}


def test_a_command_loads_what_it_needs() -> None:
    """Neither the service nor what only other commands use."""
    modules = imported_by("from detector.cli.main import build_app; build_app(['hashes'])")
    assert not modules & {"onnxruntime", "av", "aiomqtt", "uvicorn", "detector.service"}


def test_what_belongs_to_another_user_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks beside a service of another user gets exit 2 and the folder's name, from every command."""

    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/var/lib/stopframe/banks")

    monkeypatch.setattr("detector.cli.main.build_app", lambda words: denied)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err.count("\n")) == (2, 1)


def test_ctrl_c_while_modules_load_says_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the first tenths of a second ends a command as later does, with nothing on stderr."""
    (tmp_path / "typer.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt as stop:\n    raise RuntimeError('as dataclasses do') from stop\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "detector", "check"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")

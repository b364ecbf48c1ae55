"""The command line as a user meets it: a process of its own, a config and a state folder of the test's."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import pytest

from detector.cards import parse_script, synthetic_card
from detector.publisher import Chunk, Encoding, encoded
from tests.warm_commands import WarmCommands

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """Runs `stopframe` in `folder`, with `stopframe.yaml` there as its config."""

    def __init__(self, folder: Path, warm: WarmCommands) -> None:
        self.folder = folder
        self.warm = warm
        self.config = folder / "stopframe.yaml"
        self.write_config("")

    def write_config(self, more: str) -> None:
        """Write the config: the test's state folder, two workers, and `more`."""
        self.config.write_text("state_dir: state\nanalysis: {workers: 2}\n" + more)

    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "STOPFRAME_CONFIG": str(self.config)}

    def command(self, *arguments: str) -> list[str]:
        """The words that start the command."""
        return [sys.executable, "-m", "detector", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; the test ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str, seconds: float = 120) -> Run:
        """Run a command to its end, with its imports done before; a traceback fails the test."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self.warm.run(
                arguments, folder=self.folder, environment=self.environment(), outputs=(out, err), seconds=seconds
            )
            said, complained = (_content(file) for file in (out, err))
        assert "Traceback" not in complained, complained
        return Run(code, said, complained)

    def picture(self, name: str, seed: int, size: tuple[int, int] = (640, 360)) -> str:
        """Write the synthetic card of `seed` as a picture file; returns its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), cv2.cvtColor(synthetic_card(seed, *size), cv2.COLOR_RGB2BGR))
        return name

    def clip(self, name: str, script: str) -> str:
        """Write a script of cards as an MPEG-TS file; returns its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = encoded(parse_script(script), Encoding())
        path.write_bytes(b"".join(chunk.payload for chunk in chunks if isinstance(chunk, Chunk)))
        return name


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@pytest.fixture(scope="session")
def warm_commands() -> Iterator[WarmCommands]:
    """Return what runs commands whose imports are done."""
    with WarmCommands() as warm:
        yield warm


@pytest.fixture
def stopframe(tmp_path: Path, warm_commands: WarmCommands) -> CommandLine:
    """Return the command line in a folder of its own."""
    return CommandLine(tmp_path, warm_commands)

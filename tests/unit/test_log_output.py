"""The log's way out: whatever happens to stderr, a log call returns, and what is lost is counted."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detector.log_output import LogOutput
from detector.metrics import Metrics

_PROGRAM = """
import logging, os, sys
import structlog
from detector.log_output import LogOutput
from detector.metrics import Metrics
from detector.logs import configure_logs
configure_logs("info", "json")
if sys.argv[1] == "closed":
    sys.stderr.close()
for number in range(3000):
    structlog.get_logger().info("a.fact", number=number, text="x" * 100)
logging.getLogger("library").warning("also this")
os.write(1, str(LogOutput.lines_lost_total).encode())
"""


def _run(how: str, stderr: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("how", ["full", "closed", "broken pipe"])
def test_no_log_call_raises_whatever_stderr_is(how: str) -> None:
    """On a full disk, a closed stderr and a pipe without reader the program runs to its end and counts its lines."""
    if how == "broken pipe":
        reader, stderr = os.pipe()
        os.close(reader)
    else:
        stderr = os.open("/dev/full", os.O_WRONLY)
    try:
        assert _run(how, stderr) == (0, "3001")
    finally:
        os.close(stderr)


def test_a_reader_that_stopped_reading_holds_up_nobody() -> None:
    """A pipe that is full and stays so costs the lines that find no room, not the program."""
    reader, stderr = os.pipe()
    try:
        began_at = time.monotonic()
        code, lost = _run("stuck pipe", stderr)
        assert (code, 2000 < int(lost) < 3001) == (0, True)
        assert time.monotonic() - began_at < 30
        assert len(os.read(reader, 1 << 20)) > 4096
    finally:
        os.close(reader)
        os.close(stderr)


def test_lines_are_whole_and_in_order(tmp_path: Path) -> None:
    """On a file that takes them, every line arrives and none is lost."""
    with (tmp_path / "log").open("wb") as file:
        assert _run("file", file.fileno()) == (0, "0")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line.get("number") for line in lines] == [*range(3000), None]


def test_what_captures_stderr_gets_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no file, the stream itself is written to; text that cannot be encoded is shown escaped."""
    LogOutput().write("a line\n")
    assert capsys.readouterr().err == "a line\n"


def test_lost_lines_are_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost since the start is shown once, however often the metrics are read."""
    monkeypatch.setattr(LogOutput, "lines_lost_total", 7)
    metrics = Metrics()
    for _ in range(2):
        assert b"stopframe_log_lines_lost_total 7.0" in metrics.expose()[0]

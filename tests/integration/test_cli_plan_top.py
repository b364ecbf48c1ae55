"""`stopframe plan` from a file of costs, and `stopframe top` beside a running service."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from detector.cpu.costs import CostTable, VideoCosts, save
from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.integration

TABLE = CostTable(4.0, 0.002, (VideoCosts("1080p", "h264", 30.0, 0.02, 0.01, 0.15, 0.18, 5.0),))
SERVICE = """
ingest: {kind: embedded, listen: "127.0.0.1:0"}
http: {listen: "127.0.0.1:0"}
alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}
sources: [{name: camera, url: "http://127.0.0.1:9/x.ts"}]
"""


@pytest.fixture
def costs(stopframe: CommandLine) -> Path:
    path = stopframe.folder / "costs.json"
    save(TABLE, path)
    return path


def test_plan_reads_well_in_80_columns(stopframe: CommandLine, costs: Path) -> None:
    """The same costs give the same answer, in plain text that no terminal wraps."""
    first, second = (stopframe("plan", "--streams", "40", "--costs", str(costs)) for _ in range(2))

    assert (first.code, first.err, first.out) == (0, "", second.out)
    assert "\x1b" not in first.out
    assert max(map(len, first.out.splitlines())) <= 80
    assert all(word in first.out for word in ("cores", "through", "flattened", "Longest delay"))


def test_plan_for_scripts_is_one_object(stopframe: CommandLine, costs: Path) -> None:
    """`--json` holds what the text says, for entries of `streams:` as well."""
    stopframe.write_config("streams: [{match: 'new/*', risk: high, sampling: {detect_within: 1s}}]\n")
    run = stopframe("plan", "--streams", "40", "--of", "new/*=10", "--gop", "1s", "--costs", str(costs), "--json")
    report = json.loads(run.out)

    assert run.code == 0
    assert [tier["streams"] for tier in report["tiers"]] == [10, 30]
    assert report["verdict"] == "fits"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gop", "fast"), "such as 1.5s"),
        (("--of", "live/*=3"), "has no streams: to match"),
        (("--costs", "costs.json", "--size", "720p"), "--size 1080p"),
        (("--costs", "costs.json", "--save-costs", "x.json"), "leave out one"),
    ],
)
def test_wrong_flags_are_one_sentence(stopframe: CommandLine, costs: Path, words: tuple[str, ...], said: str) -> None:
    """Each names its remedy, before anything is measured."""
    given = words if "--costs" in words else (*words, "--costs", str(costs))
    run = stopframe("plan", "--streams", "4", *given)

    assert (run.code, run.out) == (2, "")
    assert said in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_of_names_an_entry_of_the_config(stopframe: CommandLine, costs: Path) -> None:
    """A match that the config does not have is not silently planned without."""
    stopframe.write_config("streams: [{match: 'new/*', risk: high}]\n")
    run = stopframe("plan", "--streams", "40", "--of", "live/*=3", "--costs", str(costs))

    assert (run.code, run.out) == (2, "")
    assert "no entry of streams:" in run.err


@pytest.mark.parametrize("place", ["missing/costs.json", "."])
def test_costs_that_cannot_be_saved_are_refused_before_they_are_measured(stopframe: CommandLine, place: str) -> None:
    """Nobody waits for what is then thrown away."""
    run = stopframe("plan", "--streams", "4", "--save-costs", place)

    assert (run.code, run.out) == (2, "")
    assert "measuring" not in run.err
    assert "name a file in a folder of yours" in run.err


def test_costs_of_sizes_that_are_not_known_are_not_offered(stopframe: CommandLine, costs: Path) -> None:
    """The remedy is a size that --size takes, or to measure anew; never what a file calls a size."""
    save(replace(TABLE, videos=(replace(TABLE.videos[0], size="4k\x1b[2J"),)), costs)
    run = stopframe("plan", "--streams", "4", "--costs", str(costs))

    assert (run.code, run.out) == (2, "")
    assert "stopframe plan --save-costs" in run.err
    assert "4k" not in run.err


@pytest.fixture
def service(stopframe: CommandLine) -> Iterator[subprocess.Popen[str]]:
    stopframe.write_config(SERVICE)
    process = stopframe.start("run")
    try:
        deadline = time.monotonic() + 30
        while stopframe("health", "--live").code and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def shown(screen: int, wanted: str) -> bool:
    """Whether a terminal shows `wanted` within some seconds."""
    text, deadline = "", time.monotonic() + 15
    while wanted not in text and time.monotonic() < deadline:
        if select.select([screen], [], [], 0.2)[0]:
            text += os.read(screen, 65536).decode(errors="replace")
    return wanted in text


def test_top_follows_a_service(stopframe: CommandLine, service: subprocess.Popen[str]) -> None:
    """In a pipe it shows one state; on a terminal it goes on while the service is away, until Ctrl-C ends it."""
    once, as_json = stopframe("top"), stopframe("top", "--json", "--sort", "name")

    assert (once.code, as_json.code) == (0, 0)
    assert "source/camera" in once.out
    assert json.loads(as_json.out)["load"]["budget"] > 0

    screen, terminal = pty.openpty()
    watching = subprocess.Popen(
        stopframe.command("top"),
        env={**stopframe.environment(), "COLUMNS": "100", "LINES": "20", "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=stopframe.folder,
    )
    try:
        assert shown(screen, "source/camera")
        service.terminate()
        assert shown(screen, "no stopframe runs")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    finally:
        watching.kill()
        watching.wait(10)
        os.close(screen)
        os.close(terminal)


def test_top_without_a_service_says_so(stopframe: CommandLine) -> None:
    """One sentence, exit 2."""
    run = stopframe("top")

    assert (run.code, run.out) == (2, "")
    assert "no stopframe runs" in run.err

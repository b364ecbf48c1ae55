"""`stopframe run`: it says where it is found, ends on SIGTERM, and refuses to start with one sentence."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.ports import free_port
from tests.fixtures_cli import ROOT, CommandLine

pytestmark = pytest.mark.e2e

_CONFIG = """
ingest: {{listen: "127.0.0.1:{ingest}"}}
http: {{listen: "127.0.0.1:{http}"}}
alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{mqtt}"}}}}
"""


@contextmanager
def _running(stopframe: CommandLine) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start the service and yield it with the addresses of its ready line."""
    process = stopframe.start("run")
    assert process.stderr is not None
    try:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "service.ready":
                yield process, event
                return
        raise AssertionError("it ended before it was ready")
    finally:
        process.kill()
        process.communicate()


def test_it_is_ready_where_it_says_and_ends_on_sigterm(stopframe: CommandLine, free_tcp_port: int) -> None:
    """Health answers, the commands reach it over its socket, and SIGTERM ends it with exit 0."""
    stopframe.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port))
    with _running(stopframe) as (process, ready):
        health = httpx.get(f"{ready['http']}/health/live")
        healthy = stopframe("health", "--json")
        streams = stopframe("streams", "--json")
        incidents = stopframe("incidents")
        no_stream = stopframe("cut", "ABCDEFGH")
        no_incident = stopframe("undo", "01a206b9-0000")
        held = stopframe("incidents", "release", "CARDS/x")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert health.status_code == 200
    assert (healthy.code, healthy.lines[0]["problems"]) == (0, [])
    assert (streams.code, streams.out) == (0, "")
    assert incidents.out.split()[0] == "incident"
    assert (no_stream.code, no_incident.code, held.code) == (2, 2, 1)
    assert "stopframe streams" in no_stream.err
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_two_services_never_share_a_state_folder(stopframe: CommandLine, free_tcp_port: int) -> None:
    """The second one on the same state_dir is refused in one sentence."""
    stopframe.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port))
    with _running(stopframe):
        second = CommandLine(stopframe.folder, stopframe.warm)
        second.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_port()) + "log: {level: error}\n")
        run = second("run")

    assert run.code == 1
    assert "another stopframe runs on this state_dir" in run.err


def test_health_says_no_where_nothing_runs_or_something_is_wrong(stopframe: CommandLine, free_tcp_port: int) -> None:
    """Exit 1 and the problem with its remedy; --live is content with a service that answers, and only with one."""
    stopframe.write_config("")
    absent, not_live = stopframe("health"), stopframe("health", "--live")
    stopframe.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port) + "banks: {TYPO: {step: cut}}\n")
    with _running(stopframe):
        ill, live = stopframe("health"), stopframe("health", "--live")

    assert (absent.code, not_live.code) == (1, 1)
    assert "stopframe run" in absent.err
    assert (ill.code, live.code) == (1, 0)
    assert "problem: bank TYPO is configured and does not exist; make it with" in ill.out
    assert ill.err.strip() == "not healthy: 1 problem"


@pytest.mark.parametrize("taken", ["ingest", "http", "mqtt"])
def test_a_busy_port_is_one_sentence(stopframe: CommandLine, free_tcp_port: int, taken: str) -> None:
    """Whichever port is taken: the sentence names it, exit 1, and nothing is left running."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ports = {"ingest": 0, "http": 0, "mqtt": free_tcp_port} | {taken: port}
        stopframe.write_config(_CONFIG.format(**ports) + "log: {level: error}\n")
        run = stopframe("run")

    assert run.code == 1
    assert str(port) in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_a_model_with_another_sha256_is_left_out(stopframe: CommandLine, free_tcp_port: int) -> None:
    """A model file that is not the one that its manifest names runs nowhere, and keeps no list from acting."""
    model = stopframe.folder / "model"
    shutil.copytree(ROOT / "models/zoo/standin-cards", model)
    manifest = model / "model.yaml"
    manifest.write_text(re.sub(r"sha256: [0-9a-f]{64}", f"sha256: {'a' * 64}", manifest.read_text()))
    stopframe.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port) + "models: [./model]\n")
    with stopframe.start("run") as process:
        try:
            refused = _until_logged(process, "model.refused")
            _until_logged(process, "service.ready")
            health = stopframe("health")
        finally:
            process.terminate()
            process.communicate(timeout=60)

    assert f"the manifest says {'a' * 64}" in refused["why"]
    assert "model model is not in use" in health.out


def test_an_unknown_class_is_refused(stopframe: CommandLine) -> None:
    """A class that no configured model knows would never fire: the sentence lists those that there are."""
    stopframe.write_config('classes: {"standin-cards/smptebar": {step: cut}}\nlog: {level: error}\n')

    run = stopframe("run")

    assert run.code == 2
    assert "standin-cards/smptebars" in run.err


def _until_logged(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        entry = json.loads(line)
        if entry["event"] == event:
            return dict(entry)
    raise AssertionError(f"it ended before {event}")


def _descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_changed_file_a_signal_and_a_command_reload(stopframe: CommandLine, free_tcp_port: int) -> None:
    """The file takes effect by itself, SIGHUP ends nothing, `reload` says what holds, what waits and what is wrong."""
    config = _CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port)
    stopframe.write_config(config)
    with _running(stopframe) as (process, _):
        stopframe.write_config(config + "votes: {k: 2}\nnode: other\n")
        assert _until_logged(process, "config.applied")["keys"] == ["votes.k"]
        assert _until_logged(process, "config.waits_for_restart")["keys"] == ["node"]
        told = stopframe("reload")
        told_json = stopframe("reload", "--json")
        stopframe.write_config(config + "votes: {k: 9}\n")
        assert str(_until_logged(process, "config.refused")["fault"]).startswith(f"{stopframe.config}:7: votes.k: ")
        refused = stopframe("reload")
        live = stopframe("health", "--live")
        process.send_signal(signal.SIGHUP)
        _until_logged(process, "config.refused")
        stopframe.write_config(config + "log: {level: error}\n")
        assert "log.level" in _until_logged(process, "config.applied")["keys"]
        (stopframe.folder / "other.yaml").write_text("state_dir: state\n")
        another = stopframe("reload", "-c", "other.yaml")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert told.code == 0
    assert re.search(r"in force as it stands; \d+ s ago it took up votes\.k\n", told.err)
    assert "takes a restart: node\n" in told.err
    assert told_json.lines[0]["waiting"] == ["node"]
    assert refused.code == 2
    assert refused.err.startswith(f"{stopframe.config}:7: votes.k: ")
    assert live.code == 0, "a health check must not restart a service over its config file"
    assert "note: the config file has a fault in line 7 at votes.k" in live.out
    assert another.code == 2
    assert "another config file" in another.err
    assert process.returncode == 0, err
    assert "service.ending" not in err


def test_reload_without_a_service_says_so(stopframe: CommandLine) -> None:
    """Nobody runs: one sentence, exit 2."""
    run = stopframe("reload")
    assert run.code == 2
    assert "no stopframe runs on" in run.err


def test_sigterm_while_it_starts_ends_it_cleanly(stopframe: CommandLine, free_tcp_port: int) -> None:
    """Whatever was started by then is ended: exit 0, no traceback, no process left."""
    stopframe.write_config(_CONFIG.format(ingest=0, http=0, mqtt=free_tcp_port))
    process = stopframe.start("run")
    deadline = time.monotonic() + 60
    while not (stopframe.folder / "state" / "service.lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1)
    children = _descendants(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.fixture
def frozen_broker() -> Iterator[int]:
    """A port where connections are taken and never answered."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def _against_a_frozen_broker(stopframe: CommandLine, port: int, source: str) -> None:
    stopframe.write_config(
        f"ingest: {{kind: none}}\nhttp: {{listen: '127.0.0.1:0'}}\nsources: [{{name: gone, url: '{source}'}}]\n"
        f"alerts: {{mqtt: {{url: 'mqtt://127.0.0.1:{port}', embedded_broker: false}}}}\n"
        "blind: {unreachable: {after: 1s}, connecting: {after: 1s}}\n"
    )


def test_a_frozen_broker_holds_the_end_up_for_seconds_only(stopframe: CommandLine, frozen_broker: int) -> None:
    """The alert that nobody took stays on disk and is told; it ends with 0 and the next start has the alert."""
    _against_a_frozen_broker(stopframe, frozen_broker, "http://127.0.0.1:9/x.ts")
    with _running(stopframe) as (process, _):
        _until_logged(process, "alert.queued")
        begun_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        left = _until_logged(process, "service.alerts_left")
        _, err = process.communicate(timeout=60)
        lasted = time.monotonic() - begun_at
    assert process.returncode == 0, err
    assert left["count"] == 1
    assert 2.5 < lasted < 30, lasted
    with _running(stopframe):
        assert stopframe("incidents", "--json").lines[0]["signals"].startswith("blind/")


def test_a_second_sigterm_ends_it_at_once(stopframe: CommandLine, frozen_broker: int) -> None:
    """While the first one waits for the broker the second ends everything: exit 0, no process left."""
    _against_a_frozen_broker(stopframe, frozen_broker, "http://127.0.0.1:9/x.ts")
    with _running(stopframe) as (process, _):
        _until_logged(process, "alert.queued")
        children = _descendants(process)
        process.send_signal(signal.SIGTERM)
        _until_logged(process, "service.ending")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "service.alerts_left" not in err  # what the first one says when it has waited
    assert children
    assert not psutil.wait_procs(children, timeout=30)[1]

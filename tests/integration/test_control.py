"""The control socket: only its owner's, never two services on one state_dir, every refusal one sentence."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from detector.api.client import ControlClient, ControlError, ControlRefused, ServiceNotRunning
from detector.api.control import SOCKET_NAME, create_control_app
from detector.api.server import ListenFailed, UnixServer
from detector.api.view import (
    Ambiguous,
    CutReport,
    Health,
    HintReport,
    HintRequest,
    IncidentRow,
    NoSuchIncident,
    NoSuchStream,
    StreamRow,
    UndoReport,
    pick,
)
from detector.events import CutState

STREAM = "mfzwizltoq4tembrgqydanbqge"
TWIN = "mfzwizltoq4tembrgqydanbqzz"
INCIDENT = "01890a5d-ac96-774b-bcce-b302099a8057"
Answer = TypeVar("Answer")


class View:
    """A service with two streams and one incident."""

    def __init__(self) -> None:
        self.restored: list[str] = []
        self.delay_seconds = 0.0

    def health(self) -> Health:
        return Health(ok=False, problems=("a sink is down.",), notes=("note",), versions={"stopframe": "0"}, sandbox={})

    def streams(self) -> list[StreamRow]:
        return [_row(STREAM, age=0.25), _row(TWIN, age=None)]

    async def incidents(self, limit: int) -> list[IncidentRow]:
        row = IncidentRow(
            incident_id=INCIDENT,
            stream_id=STREAM,
            opened_at="2026-01-01T00:00:00.000Z",
            action="cut",
            mode="live",
            signals="hash CARDS/card-7 at 4 of 31",
            cut_state=CutState.CONFIRMED,
            time_to_cut_ms=812,
        )
        return [row][:limit]

    async def cut(self, stream: str) -> CutReport:
        await asyncio.sleep(self.delay_seconds)
        found = pick(stream, (STREAM, TWIN), NoSuchStream)
        return CutReport(found, INCIDENT, CutState.CONFIRMED, count=1, time_to_cut_ms=90)

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        return HintReport(stream, hint.score, hint.lasts_seconds)

    async def undo(self, incident: str) -> UndoReport:
        found = pick(incident, (INCIDENT,), NoSuchIncident)
        self.restored.append(found)
        return UndoReport(found, STREAM, is_restored=True)

    async def release(self, source: str) -> bool:
        return source == "CARDS/card-7"


def _row(stream_id: str, *, age: float | None) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        path="live/key",
        state="watching",
        since="2026-01-01T00:00:00.000Z",
        codec="h264",
        width=320,
        height=180,
        sampling="auto",
        last_sample_age_seconds=age,
        seen_seconds=12.5,
        skipped_seconds=0.5,
        blind_seconds=0,
        cpu_seconds=0.75,
        decision="review",
    )


@asynccontextmanager
async def _running(state_dir: Path, view: View | None = None) -> AsyncIterator[View]:
    view = view or View()
    async with UnixServer(create_control_app(view), state_dir / SOCKET_NAME):
        yield view


async def _ask(state_dir: Path, question: Callable[[ControlClient], Answer], timeout_seconds: float = 10.0) -> Answer:
    def ask() -> Answer:
        with ControlClient(state_dir, timeout_seconds=timeout_seconds) as client:
            return question(client)

    return await asyncio.to_thread(ask)


async def test_what_the_service_says_arrives_as_it_was_said(tmp_path: Path) -> None:
    """Every answer is the same dataclass on both sides, unknown values and enums included."""
    async with _running(tmp_path) as view:
        assert await _ask(tmp_path, lambda client: client.streams(keys=True)) == view.streams()
        assert await _ask(tmp_path, lambda client: client.incidents()) == await view.incidents(50)
        assert await _ask(tmp_path, lambda client: client.status()) == view.health()
        report = await _ask(tmp_path, lambda client: client.cut(STREAM))
        undone = await _ask(tmp_path, lambda client: client.undo(INCIDENT))

        assert report == CutReport(STREAM, INCIDENT, CutState.CONFIRMED, count=1, time_to_cut_ms=90)
        assert undone.is_restored
        assert view.restored == [INCIDENT]
        assert await _ask(tmp_path, lambda client: client.release("CARDS/card-7")) is True
        assert await _ask(tmp_path, lambda client: client.release("CARDS/other")) is False


async def test_a_few_first_characters_name_the_only_one(tmp_path: Path) -> None:
    """Four characters do where they fit one; several fitting ones are refused and nothing is done."""
    async with _running(tmp_path) as view:
        assert (await _ask(tmp_path, lambda client: client.undo("0189"))).incident_id == INCIDENT
        with pytest.raises(ControlRefused, match="2 streams begin like this") as refused:
            await _ask(tmp_path, lambda client: client.cut(STREAM[:8]))

    assert refused.value.status == 409
    assert view.restored == [INCIDENT]


@pytest.mark.parametrize("wanted", ["018", "ffffffff", "live/key", "../status", "", "é"])
async def test_what_is_no_identifier_is_refused_in_one_sentence(tmp_path: Path, wanted: str) -> None:
    """A short, unknown or malformed identifier undoes nothing, and is not repeated: a key may stand there."""
    async with _running(tmp_path) as view:
        with pytest.raises(ControlRefused, match="'stopframe incidents' lists them") as refused:
            await _ask(tmp_path, lambda client: client.undo(wanted))

    assert refused.value.status == 404
    assert wanted == "" or wanted not in str(refused.value)
    assert view.restored == []


async def test_a_limit_out_of_range_is_refused(tmp_path: Path) -> None:
    """Nobody asks for more incidents than one answer holds."""
    async with _running(tmp_path):
        with pytest.raises(ControlRefused, match="limit: ") as refused:
            await _ask(tmp_path, lambda client: client.incidents(10**6))

    assert refused.value.status == 422


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_only_the_owner_may_open_the_socket(tmp_path: Path, umask: int) -> None:
    """The socket is born with mode 0600 whatever the umask, and goes when the service goes."""
    before = os.umask(umask)
    try:
        async with _running(tmp_path):
            mode = (tmp_path / SOCKET_NAME).stat().st_mode
    finally:
        os.umask(before)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_a_state_dir_deeper_than_an_address_works(tmp_path: Path) -> None:
    """An address takes 107 bytes; a state_dir may be longer."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with _running(deep) as view:
        assert await _ask(deep, lambda client: client.streams(keys=True)) == view.streams()


async def test_a_second_service_on_one_state_dir_is_refused(tmp_path: Path) -> None:
    """Two services on one state_dir would cut twice and lose alerts: the second says so, the first goes on."""
    async with _running(tmp_path) as view:
        with pytest.raises(ListenFailed, match="another stopframe runs on this state_dir"):
            await UnixServer(create_control_app(View()), tmp_path / SOCKET_NAME).__aenter__()

        assert await _ask(tmp_path, lambda client: client.streams(keys=True)) == view.streams()


async def test_a_listener_without_the_lock_is_refused_too(tmp_path: Path) -> None:
    """Whoever still answers on the socket is not pushed aside."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / SOCKET_NAME))
        other.listen()
        with pytest.raises(ListenFailed, match="another stopframe"):
            await UnixServer(create_control_app(View()), tmp_path / SOCKET_NAME).__aenter__()


async def test_what_a_killed_service_left_behind_is_replaced(tmp_path: Path) -> None:
    """After SIGKILL the socket file stays; the next service starts all the same."""
    program = (
        "import asyncio, pathlib, os, signal, sys\n"
        "from fastapi import FastAPI\n"
        "from detector.api.server import UnixServer\n"
        "async def main():\n"
        "    async with UnixServer(FastAPI(), pathlib.Path(sys.argv[1])):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / SOCKET_NAME)]
    killed = await asyncio.to_thread(subprocess.run, arguments, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    assert (tmp_path / SOCKET_NAME).exists()

    with pytest.raises(ServiceNotRunning, match="start it with 'stopframe run'"):
        ControlClient(tmp_path).__enter__()
    async with _running(tmp_path) as view:
        assert await _ask(tmp_path, lambda client: client.streams(keys=True)) == view.streams()


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """Something that is no socket is somebody's file: it stays, and the sentence says what to do."""
    (tmp_path / SOCKET_NAME).write_text("precious")
    with pytest.raises(ListenFailed, match="in the way of the control socket"):
        await UnixServer(create_control_app(View()), tmp_path / SOCKET_NAME).__aenter__()

    assert (tmp_path / SOCKET_NAME).read_text() == "precious"


async def test_a_missing_state_dir_is_one_sentence(tmp_path: Path) -> None:
    """Neither side shows an OSError where the state_dir is not there."""
    missing = tmp_path / "missing"
    with pytest.raises(ListenFailed, match="may write to"):
        await UnixServer(create_control_app(View()), missing / SOCKET_NAME).__aenter__()
    with pytest.raises(ServiceNotRunning, match="no stopframe runs on"):
        ControlClient(missing).__enter__()


async def test_a_service_that_hangs_is_said_to_hang(tmp_path: Path) -> None:
    """A command does not wait for ever, and does not claim that nothing runs."""
    view = View()
    view.delay_seconds = 30
    async with _running(tmp_path, view):
        with pytest.raises(ControlError, match="did not answer within") as error:
            await _ask(tmp_path, lambda client: client.cut(STREAM), 0.2)

    assert not isinstance(error.value, ServiceNotRunning)


async def test_an_answer_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    """An answer that does not fit is a sentence, not a validation report."""
    view = View()
    view.streams = lambda: [{"unknown": 1}]  # type: ignore[method-assign, list-item]
    app = create_control_app(view)
    app.router.routes.clear()
    app.add_api_route("/streams", view.streams, response_model=None)
    async with UnixServer(app, tmp_path / SOCKET_NAME):
        with pytest.raises(ControlError, match="service's own version"):
            await _ask(tmp_path, lambda client: client.streams(keys=True))


def test_an_exact_identifier_wins_over_longer_ones() -> None:
    """A whole identifier is never ambiguous."""
    assert pick("abcd", ["abcd", "abcdef"], NoSuchStream) == "abcd"
    with pytest.raises(Ambiguous):
        pick("abcd", ["abcde", "abcdf"], NoSuchStream)
    with pytest.raises(NoSuchStream):
        pick("abc", ["abcde"], NoSuchStream)

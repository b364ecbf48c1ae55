"""What the service manager hears, on sockets of the test's own."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.notify import Notifier
from tests.waiting import until


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as systemd writes it, and the manager's end."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@stopframe-test-{os.getpid()}-{id(request)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        ear.setblocking(False)
        yield name, ear


def heard(ear: socket.socket) -> list[str]:
    """Every datagram that has come."""
    messages = []
    while True:
        try:
            messages.append(ear.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_the_environment_is_taken_and_left_without_it() -> None:
    """No child process finds the address; a watchdog meant for another process is none of ours."""
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert Notifier.from_environment(environment)._watchdog_seconds == 2.0
    assert environment == {"A": "b"}
    for other in (
        {"WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"NOTIFY_SOCKET": "vsock:2:1"},
    ):
        environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "2000000", **other}
        assert Notifier.from_environment(environment)._watchdog_seconds is None


async def test_ready_reload_and_end_are_told(manager: tuple[str, socket.socket]) -> None:
    """Each in its own words, over a path and over an abstract name; a status is one line whatever it holds."""
    address, ear = manager
    async with Notifier(address).watching() as notifier:
        assert heard(ear) == []
        notifier.ready(lambda: True, lambda: "2 streams\nSTOPPING=1")
        with notifier.reloading():
            pass
        notifier.stopping()

    ready, reloading, again, stopping = heard(ear)
    assert ready == "READY=1\nSTATUS=2 streams STOPPING=1"
    word, clock = reloading.split("\n")
    assert word == "RELOADING=1"
    assert 0 <= time.monotonic() - int(clock.removeprefix("MONOTONIC_USEC=")) / 1e6 < 5
    assert again == "READY=1"
    assert stopping.startswith("STOPPING=1\n")


async def test_signs_of_life_come_from_the_loop_and_from_a_whole_service(manager: tuple[str, socket.socket]) -> None:
    """None before it is ready, none while the loop hangs, none once a work has failed; else one each half time."""
    address, ear = manager
    is_well, halves, said = True, 0, list[str]()

    async def count_halves() -> None:  # as a machine without time for us gives them
        nonlocal halves
        while True:
            await asyncio.sleep(0.1)
            halves += 1

    def signs() -> int:
        said.extend(heard(ear))
        return said.count("WATCHDOG=1")

    async with Notifier(address, watchdog_seconds=0.2).watching() as notifier:
        await asyncio.sleep(0.25)
        assert heard(ear) == []
        notifier.ready(lambda: is_well, lambda: "")
        counting = asyncio.create_task(count_halves())
        await until(lambda: signs() >= 5)
        counting.cancel()
        assert abs(signs() - halves) <= 1

        time.sleep(0.6)  # the loop hangs
        assert heard(ear) == []
        await asyncio.sleep(0.15)
        assert set(heard(ear)) == {"WATCHDOG=1"}

        is_well = False
        await asyncio.sleep(0.3)
        assert heard(ear) == []


async def test_a_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    """No socket, no manager, no address: the service goes on."""
    for address in (str(tmp_path / "nobody"), "@stopframe-nobody", None):
        async with Notifier(address, watchdog_seconds=0.02).watching() as notifier:
            notifier.ready(lambda: True, lambda: "")
            await asyncio.sleep(0.05)
            notifier.stopping()

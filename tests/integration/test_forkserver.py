"""The forkserver: what its children have and have not, how fast they come, and what outlives what."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from streams import forkserver
from streams.nursery import Child, Nursery, NurseryBroken
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

CHILDREN = str(Path(__file__).with_name("children"))
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("simple:main", preload=["colorsys"], search_paths=[CHILDREN]) as nursery:
        yield nursery


async def ask(child: Child, do: str, **order: Any) -> Any:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(child.socket, json.dumps({"do": do, **order}).encode())
    async with asyncio.timeout(30):
        return json.loads(await loop.sock_recv(child.socket, 65536))


async def gone(*pids: int) -> bool:
    """Return whether all processes end within two seconds, or a little later where much else goes on."""
    deadline = time.monotonic() + 2.0 + SLACK_SECONDS
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_child_has_what_it_needs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are imported once, in the forkserver; no environment, one thread, its own descriptors, a session."""
    monkeypatch.setenv("SECRET", "hunter2")
    async with (
        Nursery("simple:main", preload=["colorsys"], search_paths=[CHILDREN], silences_children=True) as nursery,
        await nursery.spawn() as child,
    ):
        seen = await ask(child, "describe")

    assert seen["imported_by"] == seen["parent"]
    assert seen["modules"] == ["colorsys"]
    assert seen["environ"] == {}
    assert seen["threads"] == 1
    assert seen["descriptors"] == [0, 1, 2, forkserver.SOCKET_FD]
    assert set(seen["ignored"]) == {signal.SIGPIPE, signal.SIGXFSZ}
    assert seen["session"]
    assert seen["stderr"] == os.devnull


async def test_descriptors_arrive_at_their_numbers(nursery: Nursery, tmp_path: Path) -> None:
    """Media is 4 and extras are 5 and up, whichever numbers they had; the service keeps its own open."""
    files = []
    for name in ("media", "first", "second"):
        path = tmp_path / name
        path.write_text(name)
        files.append(os.open(path, os.O_RDONLY))
    try:
        media, first, second = files
        async with await nursery.spawn(media, extra_fds=[second, first]) as child:
            assert await ask(child, "read_all", descriptors=[4, 5, 6]) == ["media", "second", "first"]
        async with await nursery.spawn(extra_fds=[first]) as child:
            seen = await ask(child, "describe")
        assert [os.pread(descriptor, 10, 0) for descriptor in files] == [b"media", b"first", b"second"]
    finally:
        for descriptor in files:
            os.close(descriptor)

    assert seen["descriptors"] == [0, 1, 2, 3, 5]


async def test_siblings_draw_other_numbers(nursery: Nursery) -> None:
    """Each child's random generator is seeded anew by the kernel: what one draws says nothing of another."""
    drawn = set()
    for _ in range(5):
        async with await nursery.spawn() as child:
            drawn.add(await ask(child, "draw"))

    assert len(drawn) == 5


async def test_exit_status_is_reported(nursery: Nursery) -> None:
    """`wait` gives the wait status of an exit and of a signal, and no zombie is left."""
    loop = asyncio.get_running_loop()
    async with await nursery.spawn() as leaving, await nursery.spawn() as killed:
        await loop.sock_sendall(leaving.socket, json.dumps({"do": "leave", "status": 7}).encode())
        killed.kill()

        assert os.waitstatus_to_exitcode(await killed.wait()) == -signal.SIGKILL
        assert os.waitstatus_to_exitcode(await leaving.wait()) == 7
        assert not psutil.pid_exists(leaving.pid)
        assert not psutil.pid_exists(killed.pid)
    assert nursery.live_children == 0


async def test_a_child_starts_in_milliseconds(nursery: Nursery) -> None:
    """From the request to the first answer of a child: 10 ms on an idle machine, here with room for a busy one."""
    spans = []
    for _ in range(20):
        began = time.perf_counter()
        async with await nursery.spawn() as child:
            await ask(child, "draw")
            spans.append(time.perf_counter() - began)

    assert sorted(spans)[2] < 0.05


async def test_many_at_once(nursery: Nursery) -> None:
    """Forty children asked for at the same moment all come, and all go when the nursery closes."""
    children = await asyncio.gather(*(nursery.spawn() for _ in range(40)))

    assert len({child.pid for child in children}) == nursery.live_children == 40
    await asyncio.gather(*(child.close() for child in children))
    assert nursery.live_children == 0


async def test_cancelled_spawn_leaves_nothing(nursery: Nursery) -> None:
    """Whoever is cancelled while waiting for a child, at whichever moment, leaves no child and no descriptor."""
    async with await nursery.spawn():
        pass
    before = psutil.Process().num_fds()
    for turns in range(12):
        task = asyncio.create_task(nursery.spawn())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        try:
            child = await task
        except asyncio.CancelledError:
            continue
        await child.close()
    deadline = time.monotonic() + 2.0 + SLACK_SECONDS
    while nursery.live_children and time.monotonic() < deadline:
        await asyncio.sleep(0.01)

    assert nursery.live_children == 0
    assert psutil.Process().num_fds() == before


async def test_a_child_that_died_before_its_cancelled_birth_was_told_leaves_nothing(nursery: Nursery) -> None:
    """A busy service may hear of a child that nobody wants any more when that has ended already."""
    async with await nursery.spawn():
        pass
    before = psutil.Process().num_fds()
    for _ in range(3):
        task = asyncio.create_task(nursery.spawn())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        time.sleep(0.2)  # the service is busy: meanwhile the child reads the end of its socket and ends
        async with asyncio.timeout(30):
            while nursery.live_children or psutil.Process().num_fds() > before:
                await asyncio.sleep(0.01)

    assert psutil.Process().num_fds() == before


async def test_leaving_the_nursery_ends_the_children() -> None:
    """Children that nobody closed end with their nursery, the forkserver too."""
    async with Nursery("simple:main", search_paths=[CHILDREN]) as nursery:
        child = await nursery.spawn()
        server = (await ask(child, "describe"))["parent"]
        hanging = await nursery.spawn()

    assert await gone(child.pid, hanging.pid, server)
    assert await hanging.wait() == signal.SIGKILL
    child.release()
    hanging.release()


async def test_dead_forkserver_takes_its_children_along_and_is_replaced(nursery: Nursery) -> None:
    """When the forkserver is killed its children die with it, and the next spawn works."""
    async with await nursery.spawn() as child:
        server = psutil.Process(child.pid).parent()
        assert server is not None
        server.kill()

        assert await child.wait() == signal.SIGKILL
        assert await gone(child.pid)
    async with await nursery.spawn() as child:
        assert await ask(child, "draw")
    assert nursery.restarts == 1


async def test_service_killed_leaves_no_process(tmp_path: Path) -> None:
    """When the service itself is killed, forkserver and children are gone within two seconds."""
    script = (
        f"import asyncio, sys, psutil; sys.path[:0] = [{ROOT!r}]\n"
        "from streams.nursery import Nursery\n"
        "async def main():\n"
        f"    async with Nursery('simple:main', search_paths=[{CHILDREN!r}]) as nursery:\n"
        "        child = await nursery.spawn()\n"
        "        print(child.pid, psutil.Process(child.pid).ppid(), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pids = [int(word) for word in service.stdout.readline().split()]
        service.kill()

    assert len(pids) == 2
    assert await gone(*pids)


@pytest.mark.parametrize("entry", ["failing_import:main", "no_such_module:main", "simple:no_such_function", "simple"])
async def test_entry_that_cannot_run_is_one_sentence(entry: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A forkserver that cannot start raises NurseryBroken at once and leaves no process."""
    before = len(psutil.Process().children())

    with pytest.raises(NurseryBroken, match=f"forkserver of {entry} does not start"):
        await Nursery(entry, search_paths=[CHILDREN]).__aenter__()

    assert len(psutil.Process().children()) == before
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert len(told) == (entry != "failing_import:main")  # which ends its process amid the import
    assert all(event["event"] == "child.fault" and event["detail"] for event in told)


async def test_stopped_forkserver_is_ended(nursery: Nursery) -> None:
    """A forkserver that does not react any more is killed when the nursery closes."""
    async with Nursery("simple:main", search_paths=[CHILDREN]) as own:
        async with await own.spawn() as child:
            server = psutil.Process(child.pid).parent()
        assert server is not None
        server.suspend()

    assert await gone(server.pid)


@pytest.mark.parametrize("turns", [0, 1], ids=["before the request", "before the reply"])
async def test_service_out_of_descriptors_hears_so_and_recovers(nursery: Nursery, turns: int) -> None:
    """Without a free descriptor a spawn fails in one sentence; the forkserver and its other children live on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with await nursery.spawn() as child:
        spawn = asyncio.create_task(nursery.spawn())
        for _ in range(turns):
            await asyncio.sleep(0)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(NurseryBroken, match="raise the limits"):
                await spawn
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await ask(child, "draw")
    async with await nursery.spawn() as child:
        assert await ask(child, "draw")
    assert nursery.restarts == 0


async def test_a_childs_fault_is_one_line_without_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    """A child that breaks says in one event what broke and where, and nothing that the error's text quotes."""
    async with Nursery("simple:main", search_paths=[CHILDREN]) as nursery, await nursery.spawn() as child:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(child.socket, json.dumps({"do": "rtmp://h/live/a-secret-key\n"}).encode())
        async with asyncio.timeout(30):
            assert await child.wait() != 0

    (line,) = capfd.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["error"]) == ("child.fault", "KeyError")
    assert event["at"][-1].startswith("simple.py:")
    assert "a-secret-key" not in line

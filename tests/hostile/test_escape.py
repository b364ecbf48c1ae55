"""What a decoder that was taken over would try from inside a reader's cage, and what it must still be able to do."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import serving
from streams.nursery import Nursery

pytestmark = [pytest.mark.needs_cage, pytest.mark.integration]

CHILDREN = Path(__file__).with_name("children")
REFUSALS = {"EPERM", "EACCES", "ENOSYS", "EMFILE", "MemoryError", "SIGSYS"}

_spec = importlib.util.spec_from_file_location("escaping", CHILDREN / "escaping.py")
assert _spec is not None
assert _spec.loader is not None
escaping = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(escaping)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("escaping:main", search_paths=[str(CHILDREN)]) as nursery:
        yield nursery


@pytest.fixture
def listeners() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ports on which somebody listens: the ingest server's and another."""
    with socket.create_server(("127.0.0.1", 0)) as allowed, socket.create_server(("127.0.0.1", 0)) as other:
        yield allowed, other


async def outcome(nursery: Nursery, order: dict[str, Any], media_fd: int | None = None) -> str:
    """Return the child's answer, or the name of the signal that ended it."""
    loop = asyncio.get_running_loop()
    async with await nursery.spawn(media_fd) as child:
        await loop.sock_sendall(child.socket, json.dumps({"caged": True, "port": None} | order).encode())
        async with asyncio.timeout(20):
            answer = await loop.sock_recv(child.socket, 4096)
            status = await child.wait()
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return answer.decode()


@pytest.mark.parametrize("has_network", [False, True], ids=["file", "network"])
async def test_every_escape_is_refused(
    nursery: Nursery, listeners: tuple[socket.socket, socket.socket], tmp_path: Path, *, has_network: bool
) -> None:
    """Each attempt, in a child of its own, ends in a refusal or in the child's death; none in success."""
    allowed, other = (listener.getsockname()[1] for listener in listeners)
    outside = tmp_path / "outside"
    outcomes = {}
    for probe in escaping.ESCAPES:
        outside.write_bytes(b"untouched")
        order = {"probe": probe, "port": allowed if has_network else None, "other_port": other, "path": str(outside)}
        outcomes[probe] = await outcome(nursery, order)
        assert outside.read_bytes() == b"untouched"

    assert {probe: word for probe, word in outcomes.items() if word not in REFUSALS} == {}
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert outcomes["exec"] == outcomes["fork"] == outcomes["ptrace the parent"] == outcomes["32-bit entry"] == "SIGSYS"
    assert nursery.restarts == 0


CLASSICAL = {
    "open a file": "read a file",
    "write a file": "write a file",
    "list /proc": "list processes",
    "read /proc/1/environ": "read environment of 1",
    "execute a program": "exec",
    "fork": "fork",
    "open a socket": "UDP socket",
    "connect to another port": "connect elsewhere",
    "listen": "listen",
    "trace the parent": "ptrace the parent",
    "kill the parent": "kill the parent",
    "read the parent's memory": "read the parent's memory",
    "map code": "map code",
    "take all memory": "3 GB",
}
"""What everybody tries first, by the names of the probes."""


@pytest.mark.parametrize("port", [None, 1935], ids=["file", "network"])
async def test_none_of_the_classical_escapes_succeeds(
    nursery: Nursery,
    listeners: tuple[socket.socket, socket.socket],
    tmp_path: Path,
    port: int | None,
) -> None:
    """The fourteen attempts that everybody thinks of first, in both kinds of cage: 0 succeed, and the test says so."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    order = {"port": port, "other_port": listeners[1].getsockname()[1], "path": str(outside)}
    outcomes = {name: await outcome(nursery, order | {"probe": probe}) for name, probe in CLASSICAL.items()}

    succeeded = [name for name, word in outcomes.items() if word not in REFUSALS]
    print(f"in-cage escapes: {len(succeeded)} of {len(CLASSICAL)}")  # noqa: T201 - the figure to show
    assert len(CLASSICAL) == 14
    assert succeeded == []
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize(
    "probe",
    [
        "read a file", "list processes", "read own environment", "stat", "fork", "UDP socket", "bind", "map code",
        "shared memory", "32-bit entry", "become dumpable", "outlive the parent",
    ],
)  # fmt: skip
async def test_the_same_attempts_succeed_without_the_cage(nursery: Nursery, probe: str) -> None:
    """The probes are no blanks: with the sandbox off they get through."""
    assert await outcome(nursery, {"probe": probe, "caged": False}) == "done"


async def test_limits_hold_without_the_cage(nursery: Nursery) -> None:
    """With the sandbox off the resource limits are still in force."""
    assert await outcome(nursery, {"probe": "3 GB", "caged": False}) == "MemoryError"
    assert await outcome(nursery, {"probe": "descriptors", "caged": False}) == "EMFILE"


@pytest.mark.parametrize("port", [None, 1935], ids=["file", "network"])
async def test_decoding_and_threads_still_work(nursery: Nursery, tmp_path: Path, port: int | None) -> None:
    """In the cage a decoder decodes what it was handed, threads start, and a crash is an ordinary crash."""
    path = tmp_path / "clip.ts"
    path.write_bytes(escaping.clip(frames=12).read())
    with path.open("rb") as media:
        assert await outcome(nursery, {"probe": "decode", "port": port}, media.fileno()) == "frames: 12"
    assert await outcome(nursery, {"probe": "threads", "port": port}) == "threads: 4"
    assert await outcome(nursery, {"probe": "own limits", "port": port}) == "core: (0, 0)"
    assert await outcome(nursery, {"probe": "abort", "port": port}) == "SIGABRT"


async def test_the_one_port_can_be_reached(nursery: Nursery) -> None:
    """In the cage with a port, a stream comes in over TCP from that port."""
    body = escaping.clip(frames=12).read()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with serving(serve) as port:
        order = {"probe": "decode from the network", "port": port, "url": f"http://127.0.0.1:{port}/live.ts"}

        assert await outcome(nursery, order) == "frames: 12"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_port_limit_knows_both_families(nursery: Nursery, family: socket.AddressFamily) -> None:
    """A connection to the allowed port is made, whichever probe stands next to it is refused."""
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with (
        socket.create_server((host, 0), family=family) as allowed,
        socket.create_server((host, 0), family=family) as other,
    ):
        ports = {"port": allowed.getsockname()[1], "other_port": other.getsockname()[1], "host": host}

        assert await outcome(nursery, {"probe": "connect", **ports}) == "done"
        assert await outcome(nursery, {"probe": "connect elsewhere", **ports}) in {"EPERM", "EACCES"}


async def test_readable_paths_are_readable_and_nothing_beside_them(nursery: Nursery, tmp_path: Path) -> None:
    """A cage with paths, as analysis has it, reads them, writes nothing, and sees nothing else."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    (inside / "model").write_text("weights")
    outside.write_text("secret")
    cage = {"readable": [str(inside)]}

    assert await outcome(nursery, {"probe": "read a path", "path": str(inside / "model"), **cage}) == "weights"
    assert await outcome(nursery, {"probe": "list a folder", "path": str(inside), **cage}) == "model"
    for probe, path in (
        ("read a path", outside),
        ("read a path", inside / ".." / "outside"),
        ("list a folder", tmp_path),
        ("write a file", inside / "model"),
        ("unlink", inside / "model"),
        ("read own environment", outside),
    ):
        assert await outcome(nursery, {"probe": probe, "path": str(path), **cage}) in {"EACCES", "EPERM"}
    assert await outcome(nursery, {"probe": "UDP socket", **cage}) == "SIGSYS"
    assert (inside / "model").read_text() == "weights"


async def test_nothing_of_the_service_is_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has no environment, no descriptor but its own, no terminal, and a session of its own."""
    monkeypatch.setenv("SECRET", "hunter2")

    secret = os.memfd_create("secret", 0)  # inheritable
    try:
        async with Nursery("escaping:main", search_paths=[str(CHILDREN)]) as nursery:
            seen = json.loads(await outcome(nursery, {"probe": "look outward", "caged": False}))
    finally:
        os.close(secret)

    assert seen == {
        "environ": {},
        "libc_environ": False,
        "kernel_environ": "",
        "descriptors": [0, 1, 2, 3],
        "stdin": "/dev/null",
        "stdout": "/dev/null",
        "session": True,
    }

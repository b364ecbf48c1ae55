"""A child that enters a reader's cage and then tries what a decoder that was taken over would try.

It is told what to try in one line of JSON on descriptor 3 and answers with one: `done` if it got through, else the
name of the error. What the cage kills does not answer.
"""

import ctypes
import errno
import fcntl
import io
import json
import mmap
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from streams.job import SandboxMode
from streams.sandbox import CagePolicy, enter

_libc = ctypes.CDLL(None, use_errno=True)
_MEMORY_LIMIT_BYTES = 2 << 30
_REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EMFILE}


def main(fd: int) -> None:
    """Warm up, enter the cage, try, tell."""
    order = json.loads(os.read(fd, 4096))
    _warm_up()
    trial = PROBES[order["probe"]](order)
    mode = SandboxMode.REQUIRE if order["caged"] else SandboxMode.OFF
    enter(CagePolicy(order["port"], tuple(order.get("readable", ())), _MEMORY_LIMIT_BYTES, 32, mode))
    try:
        answer = trial() or "done"
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        answer = name if error.errno in _REFUSALS else f"broken: {name}"
    except MemoryError:
        answer = "MemoryError"
    os.write(fd, str(answer).encode())


def _warm_up() -> None:
    """PyAV imports parts of itself at the first decoded frame."""
    decode(clip(frames=2), "mpegts")


def clip(frames: int) -> io.BytesIO:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return buffer


def decode(source: Any, container_format: str) -> int:
    with av.open(source, format=container_format) as container:
        return sum(1 for _ in container.decode(video=0))


def _call(number: int, *arguments: Any) -> int:
    """A raw system call; the numbers are those of x86_64."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _connect(order: dict[str, Any], port: str) -> None:
    host = order.get("host", "127.0.0.1")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
        connection.settimeout(5)
        connection.connect((host, order[port]))


def _connect_fast(port: int) -> None:
    """TCP fast open connects within sendto, without a connect()."""
    with socket.socket() as connection:
        connection.sendto(b"x", 0x20000000, ("127.0.0.1", port))


def _connect_fast_by_message(port: int) -> None:
    with socket.socket() as connection:
        connection.sendmsg([b"x"], (), 0x20000000, ("127.0.0.1", port))


def _bind() -> None:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))


def _listen() -> None:
    with socket.socket() as connection:
        connection.listen()


def _read_parents_memory() -> None:
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(8)
    vector = Vector(ctypes.addressof(buffer), 8)
    _call(310, os.getppid(), ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)


def _exec_memory_file() -> None:
    descriptor = os.memfd_create("x")
    os.write(descriptor, b"#!/bin/true\n")
    os.execve(descriptor, ["x"], {})


def _set_limit(what: int, value: int) -> None:
    resource.prlimit(0, what, (value, value))


def _exhaust_descriptors() -> None:
    for _ in range(64):
        os.dup(3)


def _map_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def _old_interface(_: dict[str, Any]) -> Callable[[], None]:
    """`mov eax, 20; int 0x80; ret`: getpid through the 32-bit entry, whose numbers mean other calls."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address)

    def run() -> None:
        function()
        assert len(page) == 4096  # and with it the code is still mapped

    return run


def _threads() -> str:
    results: list[int] = []
    threads = [threading.Thread(target=results.append, args=(number,), name=f"t{number}") for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"threads: {len(results)}"


def _abort() -> None:
    os.abort()


def _look_outward() -> str:
    """Everything that a child should not have got from the service."""
    environ = ctypes.POINTER(ctypes.c_char_p).in_dll(_libc, "environ")
    descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]  # noqa: PTH208 - the last one is the listing's own
    return json.dumps(
        {
            "environ": dict(os.environ),
            "libc_environ": bool(environ) and environ[0] is not None,
            "kernel_environ": Path("/proc/self/environ").read_text(),
            "descriptors": descriptors,
            "stdin": str(Path("/proc/self/fd/0").readlink()),
            "stdout": str(Path("/proc/self/fd/1").readlink()),
            "session": os.getsid(0) == os.getpid(),
        }
    )


def _plain(trial: Callable[[], Any]) -> Callable[[dict[str, Any]], Callable[[], Any]]:
    return lambda _: trial


def _ignoring(trial: Callable[[], Any]) -> Callable[[dict[str, Any]], Callable[[], None]]:
    def run() -> None:
        trial()

    return lambda _: run


ESCAPES: dict[str, Callable[[dict[str, Any]], Callable[[], Any]]] = {
    "read a file": _ignoring(lambda: Path("/etc/passwd").read_bytes()),
    "write a file": lambda order: lambda: Path(order["path"]).write_bytes(b"x") and None,
    "list processes": _ignoring(lambda: list(Path("/proc").iterdir())),
    "read own environment": _ignoring(lambda: Path("/proc/self/environ").read_bytes()),
    "read environment of 1": _ignoring(lambda: Path("/proc/1/environ").read_bytes()),
    "read own memory map": _ignoring(lambda: Path("/proc/self/maps").read_bytes()),
    "stat": _ignoring(lambda: Path("/etc/passwd").stat()),
    "unlink": lambda order: lambda: Path(order["path"]).unlink(),
    "truncate": lambda order: lambda: os.truncate(order["path"], 0),
    "chmod": lambda order: lambda: Path(order["path"]).chmod(0o777),
    "symlink": lambda order: lambda: Path(order["path"] + ".link").symlink_to("/etc/passwd"),
    "chdir": _plain(lambda: os.chdir("/tmp")),
    "exec": _plain(lambda: os.execve("/bin/true", ["true"], {})),
    "fork": _plain(_fork),
    "vfork": _ignoring(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    "clone3": _ignoring(lambda: _call(435, ctypes.create_string_buffer(88), 88)),
    "clone a user namespace": _ignoring(lambda: _call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)),
    "unshare": _ignoring(lambda: _call(272, 0x10000000)),
    "setns": _ignoring(lambda: _call(308, 3, 0)),
    "UDP socket": _ignoring(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "unix socket": _ignoring(lambda: socket.socket(socket.AF_UNIX)),
    "raw socket": _ignoring(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet socket": _ignoring(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink socket": _ignoring(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "MPTCP socket": _ignoring(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
    "socket pair": _ignoring(socket.socketpair),
    "connect elsewhere": lambda order: lambda: _connect(order, "other_port"),
    "connect elsewhere by fast open": lambda order: lambda: _connect_fast(order["other_port"]),
    "connect elsewhere by fast open message": lambda order: lambda: _connect_fast_by_message(order["other_port"]),
    "bind": _plain(_bind),
    "listen": _plain(_listen),
    "ptrace the parent": _ignoring(lambda: _call(101, 16, os.getppid(), 0, 0)),
    "read the parent's memory": _plain(_read_parents_memory),
    "kill the parent": _plain(lambda: os.kill(os.getppid(), signal.SIGKILL)),
    "signal the parent's thread": _ignoring(lambda: _call(234, os.getppid(), os.getppid(), signal.SIGKILL)),
    "kill everybody": _plain(lambda: os.kill(-1, signal.SIGCONT)),
    "open a pidfd": _ignoring(lambda: os.pidfd_open(os.getppid())),
    "take a descriptor": _ignoring(lambda: _call(438, 3, 0, 0)),
    "3 GB": _ignoring(lambda: bytearray(3 << 30)),
    "descriptors": _plain(_exhaust_descriptors),
    "raise own limit": _plain(lambda: _set_limit(resource.RLIMIT_NOFILE, 16)),
    "limit the parent": _ignoring(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)),
    "setuid": _plain(lambda: os.setuid(65534)),
    "chroot": _plain(lambda: os.chroot("/")),
    "mount": _ignoring(lambda: _call(165, b"none", b"/mnt", b"tmpfs", 0, 0)),
    "memory file": _plain(_exec_memory_file),
    "map code": _plain(_map_code),
    "bpf": _ignoring(lambda: _call(321, 0, 0, 0)),
    "io_uring": _ignoring(lambda: _call(425, 1, ctypes.create_string_buffer(120))),
    "perf_event_open": _ignoring(lambda: _call(298, 0, 0, -1, -1, 0)),
    "userfaultfd": _ignoring(lambda: _call(323, 0)),
    "keyctl": _ignoring(lambda: _call(250, 0, -3, 0)),
    "shared memory": _ignoring(lambda: _call(29, 0, 4096, 0o1600)),
    "type into a terminal": _ignoring(lambda: fcntl.ioctl(0, 0x5412, b"x")),
    "signals by descriptor": _ignoring(lambda: fcntl.fcntl(3, 8, os.getppid())),
    "outlive the parent": _ignoring(lambda: _call(157, 1, 0, 0, 0, 0)),
    "become dumpable": _ignoring(lambda: _call(157, 4, 1, 0, 0, 0)),
    "priority": _plain(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
    "32-bit entry": _old_interface,
    "x32 entry": _ignoring(lambda: _call(0x40000000 | 39)),
}

DUTIES: dict[str, Callable[[dict[str, Any]], Callable[[], Any]]] = {
    "decode": _plain(lambda: f"frames: {decode(os.fdopen(4, 'rb'), 'mpegts')}"),
    "decode from the network": lambda order: lambda: f"frames: {decode(order['url'], 'mpegts')}",
    "read a path": lambda order: lambda: Path(order["path"]).read_text(),
    "list a folder": lambda order: lambda: ",".join(path.name for path in Path(order["path"]).iterdir()),
    "threads": _plain(_threads),
    "connect": lambda order: lambda: _connect(order, "port"),
    "abort": _plain(_abort),
    "look outward": _plain(_look_outward),
    "own limits": _plain(lambda: f"core: {resource.getrlimit(resource.RLIMIT_CORE)}"),
}

PROBES = ESCAPES | DUTIES

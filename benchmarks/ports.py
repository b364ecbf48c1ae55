"""Ports for servers that a test or a benchmark starts: none that the kernel gives to somebody else meanwhile."""

import contextlib
import random
import socket
from pathlib import Path

_LOWEST, _HIGHEST = 10_000, 60_999
_DRAW = random.Random()
_given: set[int] = set()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of 127.0.0.1 that nobody has now, and that was not returned before.

    It lies outside the range from which the kernel gives ports to whoever asks for any: such a port may be another
    program's before the server that it is for listens. Raises `OSError` where none is left.
    """
    ours = _ports()
    for _ in range(1000):
        port = _DRAW.choice(ours)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    raise OSError("no port of 127.0.0.1 is free")


def _ports() -> range:
    """The larger part of what the kernel gives nobody by itself; everything, where it keeps next to nothing back."""
    kernels = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    begin, end = map(int, kernels)
    ours = max((range(_LOWEST, begin), range(end + 1, 65_536)), key=len)
    return ours if len(ours) > 1000 else range(_LOWEST, _HIGHEST)

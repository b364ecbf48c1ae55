"""Ports for servers that are started later."""

import socket
from pathlib import Path

from benchmarks.ports import free_port


def test_a_port_is_nobodys_and_stays_so_until_its_server_listens() -> None:
    """No port comes twice, each can be had, and none lies where the kernel takes ports for whoever asks for any."""
    begin, end = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    ports = [free_port(kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for _ in range(100)]

    assert len(set(ports)) == len(ports)
    assert end - begin > 60_000 or not any(begin <= port <= end for port in ports)
    for port in ports[:100]:
        with socket.create_server(("127.0.0.1", port)):
            pass

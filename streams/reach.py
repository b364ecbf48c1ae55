"""What a caged reader cannot do for itself, done while it lives: names, TLS, the way out, sockets that listen."""

import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from streams.address import Place, SourceUnreachable, locate
from streams.gate import Gate, Route, tls_context
from streams.job import Job, SourceKind
from streams.renditions import Renditions

_PROXIED = frozenset({SourceKind.HLS})  # its playlists name further URLs
_GATED = frozenset({SourceKind.HLS, SourceKind.RTSP})  # RTSP has redirects that libav follows to any address

_UDP_BUFFER_BYTES = 8 * 1024 * 1024
"""Two seconds of 32 Mbit/s; the kernel gives at most its `net.core.rmem_max`."""

_UDP_WAIT = struct.pack("ll", 0, 200_000)
"""`struct timeval`: how long one read may block, so that the reader's own timeout is looked at in between."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A source within a reader's reach: the Job as the reader gets it, and what it finds open on descriptor 4."""

    job: Job
    media_fd: int | None


@asynccontextmanager
async def reach(
    job: Job, refused: Callable[[], None] = lambda: None, renditions: Renditions | None = None
) -> AsyncIterator[Reached]:
    """Bring the source of `job` within a reader's reach, for as long as the reader lives.

    `job.url` is as an operator wrote it; of a file it is the path, or empty where the caller has it open. `refused` is
    called for each request of the reader that was for another server than the source's own. `renditions` remembers
    which variant of an HLS playlist earlier readers of the source had; without it nothing is remembered, and with
    `job.all_renditions` there is no choice. Raises `SourceUnreachable`, whose text never holds the URL.
    """
    told = replace(job, url="", port=0, ca_file="")
    if job.kind is SourceKind.FILE and not job.url:
        yield Reached(told, None)
        return
    if job.kind is SourceKind.FILE:
        with _opened(job.url) as descriptor:
            yield Reached(told, descriptor)
        return
    if job.kind is SourceKind.RTSP and not job.allow_rtsp:
        raise SourceUnreachable("RTSP is off: set reader.allow_rtsp to true after reading docs/sources.md on its risk")
    place = await locate(job.url, job.kind)
    if job.kind is SourceKind.UDP:
        with _bound(place) as descriptor:
            yield Reached(told, descriptor)
        return
    if not place.has_tls and job.kind not in _GATED:
        url = place.url_at(place.address, place.parts.port)
        yield Reached(replace(told, url=url, port=place.port, origin=place.origin if place.has_name else ""), None)
        return
    tls = tls_context(job.ca_file) if place.has_tls else None
    chosen_from = (renditions or Renditions()) if job.kind is SourceKind.HLS and not job.all_renditions else None
    async with Gate(Route(place, tls, job.kind in _PROXIED, chosen_from), refused) as gate:
        url = place.url_at(place.host, place.port) if job.kind in _PROXIED else place.url_at("127.0.0.1", gate.port)
        yield Reached(replace(told, url=url, port=gate.port, origin=place.origin), None)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file to read; yields the descriptor."""
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed below; only the opening is guarded
    except OSError as error:
        raise SourceUnreachable(f"the file cannot be read ({error.strerror}): name a readable file") from None
    with file:
        yield file.fileno()


@contextmanager
def _bound(place: Place) -> Iterator[int]:
    """Bind the UDP port, join the group if the address is one; yields the descriptor."""
    address = ipaddress.ip_address(place.address)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as undo:
        try:
            receiver = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _UDP_WAIT)
            if address.is_multicast:  # several receivers of one group may share the port
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            receiver.bind((place.address, place.port))
            if address.is_multicast:
                _join(receiver, address)
        except OSError as error:
            raise SourceUnreachable(
                f"the UDP address cannot be listened on ({error.strerror}): "
                "write an address of this machine, or a multicast group, and a port that is free"
            ) from None
        yield receiver.fileno()


def _join(receiver: socket.socket, group: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Join `group` on the interface that the routing table names."""
    if group.version == 4:
        request = group.packed + struct.pack("=I", socket.INADDR_ANY)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        # Without this a socket gets the groups that other processes of this machine joined.
        receiver.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_MULTICAST_ALL", 49), 0)
    else:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("=I", 0))

"""From a configured URL to one that a caged reader can use: it cannot ask a name server."""

import asyncio
import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from streams.job import SourceKind

_SCHEMES = {
    SourceKind.RTMP: ("rtmp", 1935),
    SourceKind.HTTP_TS: ("http", 80),
    SourceKind.HTTP_FLV: ("http", 80),
}
_RESOLVE_SECONDS = 5.0
_PROBE_SECONDS = 1.0


class SourceUnreachable(Exception):
    """Raised by `resolve`: the URL cannot be read or its host has no address. Never quotes the URL: keys are in it."""


async def resolve(url: str, kind: SourceKind) -> tuple[str, int]:
    """Return `url` with an IP literal in place of its host name, and its port; credentials and path stay as they are.

    A host with several addresses (`localhost` has two) is tried on each, and the first that accepts is taken. A file
    has no address: it gives an empty URL and port 0. Raises `SourceUnreachable`.
    """
    if kind is SourceKind.FILE:
        return "", 0
    parts, host, port = _split(url, kind)
    addresses = await _addresses(host, port)
    address = addresses[0] if len(addresses) == 1 else await _first_that_accepts(addresses, port)
    literal = f"[{address}]" if ":" in address else address
    credentials, separator, _ = parts.netloc.rpartition("@")
    explicit_port = f":{port}" if parts.port is not None else ""
    return parts._replace(netloc=f"{credentials}{separator}{literal}{explicit_port}").geturl(), port


def _split(url: str, kind: SourceKind) -> tuple[SplitResult, str, int]:
    scheme, default_port = _SCHEMES[kind]
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # the reason is not chained: its text quotes what may be a part of a password
        raise SourceUnreachable(
            f"the source's URL has no valid host and port: write {scheme}://HOST:PORT/PATH and percent-encode the rest"
        ) from None
    if parts.scheme != scheme:
        raise SourceUnreachable(f"a source of kind {kind} needs a URL that begins with {scheme}://")
    if not parts.hostname:
        raise SourceUnreachable(f"the source's URL names no host: write {scheme}://HOST:PORT/PATH")
    if port == 0:
        raise SourceUnreachable("the source's URL names port 0: write the port that the ingest server listens on")
    return parts, parts.hostname, port or default_port


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:  # a name
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        raise SourceUnreachable(
            f"the host name of the source does not resolve ({reason}): check its spelling and this machine's DNS"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _first_that_accepts(addresses: list[str], port: int) -> str:
    """Return the first address on which somebody listens, or the first of all: the reader then says what is wrong."""
    for address in addresses:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):  # the next one may do
            continue
        writer.close()
        return address
    return addresses[0]

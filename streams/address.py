"""From a configured URL to an address: a caged reader cannot ask a name server."""

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from streams.job import SourceKind

TLS_SCHEMES = {"rtmps": "rtmp", "https": "http"}
"""What runs over TLS, and what it is without."""

_HTTP = {"http": 80, "https": 443}
_SCHEMES: dict[SourceKind, dict[str, int | None]] = {
    SourceKind.RTMP: {"rtmp": 1935, "rtmps": 443},
    SourceKind.HTTP_TS: {**_HTTP},
    SourceKind.HTTP_FLV: {**_HTTP},
    SourceKind.HLS: {**_HTTP},
    SourceKind.RTSP: {"rtsp": 554},
    SourceKind.UDP: {"udp": None},
}
_RESOLVE_SECONDS = 5.0
_PROBE_SECONDS = 1.0


class SourceUnreachable(Exception):
    """The URL cannot be read or its server cannot be reached. Never quotes the URL: keys are in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source is. `host` is the name or address in its URL, `address` the IP address to go to."""

    parts: SplitResult = field(repr=False)
    host: str
    port: int
    address: str

    @property
    def has_tls(self) -> bool:
        """Whether the server must prove that it is `host`."""
        return self.parts.scheme in TLS_SCHEMES

    @property
    def authority(self) -> str:
        """`HOST[:PORT]` as written, without credentials."""
        return self.parts.netloc.rpartition("@")[2]

    @property
    def origin(self) -> str:
        """`scheme://HOST[:PORT]` as written, without credentials."""
        return f"{self.parts.scheme}://{self.authority}"

    @property
    def has_name(self) -> bool:
        """Whether the host is a name, which the server may go by."""
        return self.host != self.address

    def url_at(self, host: str, port: int | None) -> str:
        """The URL with another host and port and without TLS; credentials, path and query stay as they are."""
        literal = f"[{host}]" if ":" in host else host
        credentials, separator, _ = self.parts.netloc.rpartition("@")
        where = literal if port is None else f"{literal}:{port}"
        scheme = TLS_SCHEMES.get(self.parts.scheme, self.parts.scheme)
        return self.parts._replace(scheme=scheme, netloc=f"{credentials}{separator}{where}").geturl()


async def locate(url: str, kind: SourceKind) -> Place:
    """Return where the source of `url` is; `kind` must be one that has a URL.

    A host with several addresses (`localhost` has two) is tried on each, and the first that accepts is taken. Raises
    `SourceUnreachable`.
    """
    parts, host, port = _split(url, kind)
    addresses = await _addresses(host, port)
    is_tried = len(addresses) > 1 and kind is not SourceKind.UDP
    address = await _first_that_accepts(addresses, port) if is_tried else addresses[0]
    return Place(parts, host, port, address)


async def resolve(url: str, kind: SourceKind) -> tuple[str, int]:
    """Return `url` with an IP literal in place of its host name, and its port; credentials and path stay as they are.

    A file has no address: it gives an empty URL and port 0. Raises `SourceUnreachable`.
    """
    if kind is SourceKind.FILE:
        return "", 0
    place = await locate(url, kind)
    return place.url_at(place.address, place.parts.port), place.port


def _split(url: str, kind: SourceKind) -> tuple[SplitResult, str, int]:
    schemes = _SCHEMES[kind]
    written = " or ".join(f"{scheme}://" for scheme in schemes)
    usual = next(iter(schemes))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # the reason is not chained: its text quotes what may be a part of a password
        raise SourceUnreachable(
            f"the source's URL has no valid host and port: write {usual}://HOST:PORT/PATH and percent-encode the rest"
        ) from None
    if parts.scheme not in schemes:
        raise SourceUnreachable(f"a source of kind {kind} needs a URL that begins with {written}")
    if not parts.hostname:
        raise SourceUnreachable(f"the source's URL names no host: write {usual}://HOST:PORT/PATH")
    if re.search(r"[^\x21-\x7e]", parts.netloc):
        raise SourceUnreachable("the source's URL has a host with strange characters: write a name or an IP address")
    if port == 0:
        raise SourceUnreachable("the source's URL names port 0: write the port that the ingest server listens on")
    port = port or schemes[parts.scheme]
    if port is None:
        raise SourceUnreachable(f"the source's URL names no port: write {usual}://HOST:PORT")
    return parts, parts.hostname, port


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

"""HTTP to servers that the config names: verified, never redirected, without proxies of the environment, bounded.

Whoever answers may be hostile or broken: no compression is asked for, since it could unfold to any size, and a body is
read up to its bound. Errors say what happened without what httpx quotes, as URLs hold secrets.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import httpx

Fault = TypeVar("Fault", bound=BaseException)

TRY_AGAIN: Final = frozenset({408, 425, 429})
"""Beside 500 and above: what passes by itself (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4)."""
DENIED: Final = frozenset({401, 403})


class TooLong(Exception):
    """Raised by `read_body`: it is longer than it may be; what was read is dropped."""


def client(
    timeout_seconds: float, *, ca_file: object = None, headers: Mapping[str, str] | None = None, **more: Any
) -> httpx.AsyncClient:
    """A client that trusts the system's authorities, or those in `ca_file` alone; `more` goes to httpx as it is.

    httpx limits each read: whoever sends a byte now and then is bounded by the caller's own timeout.

    Raises:
        OSError: `ca_file` is no readable PEM file.
    """
    return httpx.AsyncClient(
        verify=ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)),
        timeout=timeout_seconds,
        headers={"accept-encoding": "identity", **(headers or {})},
        follow_redirects=False,
        trust_env=False,
        **more,
    )


async def read_body(response: httpx.Response, most_bytes: int) -> bytes:
    """The body as it comes. Raises TooLong, and what httpx raises."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most_bytes:
            raise TooLong(f"longer than {most_bytes} bytes")
    return bytes(body)


def certificate_fault(error: BaseException) -> str | None:
    """What OpenSSL says of a certificate that is not trusted; None where the error is about something else."""
    found = _cause(error, ssl.SSLCertVerificationError)
    return None if found is None else str(found.verify_message)


def why_unreached(error: BaseException) -> str:
    """A clause such as `nothing answers there`; the remedy is the caller's."""
    if (distrusted := certificate_fault(error)) is not None:
        return f"its certificate is not trusted ({distrusted})"
    if _cause(error, socket.gaierror) is not None:
        return "the name of its host is not known"
    if isinstance(error, httpx.ConnectError | ConnectionRefusedError):
        return "nothing answers there"
    if isinstance(error, httpx.RemoteProtocolError):
        return "it speaks no HTTP, or broke off"
    if isinstance(error, httpx.NetworkError | OSError):
        return "the connection broke off"
    return type(error).__name__


def _cause(error: BaseException, kind: type[Fault]) -> Fault | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause

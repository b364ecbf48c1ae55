"""Why a server could not be asked: errors of httpx in words, without what they quote, as URLs hold secrets."""

import socket
import ssl

import httpx


def why_unreached(error: BaseException) -> str:
    """A clause such as `nothing answers there`; the remedy is the caller's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, socket.gaierror):
            return "the name of its host is not known"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | ConnectionRefusedError):
        return "nothing answers there"
    if isinstance(error, httpx.RemoteProtocolError):
        return "it speaks no HTTP, or broke off"
    if isinstance(error, httpx.NetworkError | OSError):
        return "the connection broke off"
    return type(error).__name__

"""The door of what takes no token: for programs beside the service, never for a page in somebody's browser."""

import ipaddress
import re
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_SENTENCE: Final = (
    "without a token this is asked by programs, by an address or by a name that no stranger can own; "
    "set hma.needs_token and send http.token."
)
_INNER: Final = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test")
"""Names that nobody outside can register (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`); `ip6.arpa` has owners."""
_BRACKETED: Final = re.compile(r"\[([0-9a-fA-F:.]+)\](?::\d+)?")


class InsideDoor:
    """An ASGI app that passes on to `app` what no page in a browser can have sent.

    A page says its origin where it asks another one for what it may read; for pictures and the like browsers say that a
    page asks (`Sec-Fetch-Site`, to this machine and over TLS). Where its name is made to lead here ("DNS rebinding")
    neither need be there, but then the name that it asks for is its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = Headers(scope=scope)
        is_page = "origin" in headers or headers.get("sec-fetch-site", "none") != "none"
        if is_page or not is_inner(headers.get("host", "")):
            await JSONResponse({"message": _SENTENCE}, HTTPStatus.FORBIDDEN)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_inner(host: str) -> bool:
    """Whether a Host header is empty, an address, a name of one label, or one that is nobody's on the internet."""
    bracketed = _BRACKETED.fullmatch(host)
    name = bracketed[1] if bracketed else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        plain = name.lower().rstrip(".")
        return "[" not in name and ("." not in plain or plain.endswith(_INNER))
    return True

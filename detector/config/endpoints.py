"""Where one page of a server beside us is: an HTTP address with its path."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from detector.config.servers import HttpServerUrl
from detector.config.units import Unit


@dataclass(frozen=True, slots=True)
class EndpointUrl(Unit):
    """A page of an HTTP server, written `http://HOST:PORT/PATH`."""

    server: HttpServerUrl
    path: str

    pattern: ClassVar[str] = r"https?://[^/@?#\s]+:[0-9]{1,5}/[A-Za-z0-9._/-]*"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `http://HOST:PORT/PATH`. Raises ValueError with a sentence that holds nothing of the text."""
        match = re.fullmatch(r"([a-z]+://[^/@?#\s]+)(/[A-Za-z0-9._/-]{0,500})", text)
        try:
            server = HttpServerUrl.parse(match[1] if match else "")
        except ValueError:
            match = None
        if match is None:
            raise ValueError("is no page of an HTTP server; write http://HOST:PORT/PATH, without query or credentials")
        return cls(server, match[2].rstrip("/") or "/")

    def __str__(self) -> str:
        return f"{self.server}{self.path}"

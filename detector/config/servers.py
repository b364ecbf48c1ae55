"""Where the servers beside us are reached, and the hooks of others."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from detector.config.addresses import ListenAddress, SourceUrl
from detector.config.units import Unit
from detector.config.wording import listed
from streams.job import SourceKind


@dataclass(frozen=True, slots=True)
class ServerUrl(Unit):
    """A server's address, written `SCHEME://HOST:PORT`; the subclasses say which schemes there are."""

    scheme: str
    host: str
    port: int

    schemes: ClassVar[tuple[str, ...]] = ()
    pattern: ClassVar[str] = r"[a-z]+://[^/@?#\s]+:[0-9]{1,5}/?"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `SCHEME://HOST:PORT`. Raises ValueError with a sentence that holds nothing of the text."""
        match = re.fullmatch(r"([a-z]+)://([^/@?#\s]+)/?", text)
        try:
            address = ListenAddress.parse(match[2] if match else "")
        except ValueError:
            address = None
        if match is None or address is None or not address.port or match[1] not in cls.schemes:
            forms = listed(f"{scheme}://HOST:PORT" for scheme in cls.schemes)
            raise ValueError(f"is no address of a server; write {forms}, without path or credentials")
        return cls(match[1], address.host, address.port)

    def __str__(self) -> str:
        return f"{self.scheme}://{ListenAddress(self.host, self.port)}"


class HttpServerUrl(ServerUrl):
    """A server that speaks HTTP: `http://HOST:PORT` or `https://HOST:PORT`."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    pattern: ClassVar[str] = r"https?://[^/@?#\s]+:[0-9]{1,5}/?"


class PlainHttpServerUrl(ServerUrl):
    """A server whose media is read over HTTP: `http://HOST:PORT`."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]] = ("http",)
    pattern: ClassVar[str] = r"http://[^/@?#\s]+:[0-9]{1,5}/?"


class RtmpServerUrl(ServerUrl):
    """A server that speaks RTMP: `rtmp://HOST:PORT`."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]] = ("rtmp",)
    pattern: ClassVar[str] = r"rtmp://[^/@?#\s]+:[0-9]{1,5}/?"


class HookUrl(SourceUrl):
    """The URL of somebody's HTTP hook. Its path and query may be secret, so printing shows scheme and host alone."""

    __slots__ = ()
    kinds: ClassVar[Mapping[str, SourceKind | None]] = {"http": None, "https": None}

    @classmethod
    def parse(cls, url: object) -> Self:
        """Read an http or https URL without credentials. Raises ValueError with a sentence that holds nothing of it."""
        try:
            read = super().parse(url)
        except ValueError:
            read = None
        if read is None or "@" in urlsplit(read.reveal()).netloc:
            raise ValueError("is no URL of a hook; write http:// or https:// with host and path, without credentials")
        return read

    @property
    def is_safe(self) -> bool:
        """Whether nobody on the way can read it: TLS, or this machine. Raises LookupError as `reveal` does."""
        host = urlsplit(self.reveal()).hostname or ""
        try:
            is_here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_here = host == "localhost"
        return self.has_tls or is_here

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """An http or https URL, or the name of a variable."""
        return {"type": "string", "pattern": r"^(?:https?://|\$\{[A-Za-z_])\S+$"}


class ReadUrl(SourceUrl):
    """Where streams of a server are read: a URL with `{name}` in it, and `{app}` where there are several.

    Printing shows scheme and host alone.
    """

    __slots__ = ()
    kinds: ClassVar[Mapping[str, SourceKind | None]] = {
        "http": SourceKind.HTTP_TS,
        "https": SourceKind.HTTP_TS,
        "rtmp": SourceKind.RTMP,
        "rtmps": SourceKind.RTMP,
    }

    @classmethod
    def parse(cls, url: object) -> Self:
        """Read such a URL. Raises ValueError with a sentence that holds nothing of it."""
        try:
            read = super().parse(url)
        except ValueError:
            read = None
        if read is None or "{name}" not in urlsplit(read.reveal()).path:
            raise ValueError("is no URL of streams; write http(s):// or rtmp(s):// with host and a path with {name}")
        return read

    def for_stream(self, app: str, name: str) -> tuple[SourceKind, str]:
        """How one stream is read: names are percent-encoded into their places."""
        url = self.reveal().replace("{app}", quote(app, safe="")).replace("{name}", quote(name, safe=""))
        return self.kind_as(), url

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A URL with `{name}`, or the name of a variable."""
        return {"type": "string", "pattern": r"^(?:(?:https?|rtmps?)://\S*\{name\}\S*|\$\{[A-Za-z_]\S+)$"}

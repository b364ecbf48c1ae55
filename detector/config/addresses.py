"""Where we listen and what we connect to: listen addresses, the broker's URL, the URLs of watched sources."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from detector.config.references import variable_name, variable_value
from detector.config.units import Unit
from detector.config.wording import listed, shown
from detector.redaction import hide_url
from streams.job import SourceKind

_URL_CHARACTERS = 4096
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,9}")


def _is_host(host: str) -> bool:
    """Whether the text is an IP address or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # Digits and dots that are no address are a mistyped address, not a name.
        return _HOST_NAME.fullmatch(host) is not None and not re.fullmatch(r"[0-9.]+", host)
    return "%" not in host


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ListenAddress(Unit):
    """Where a server of ours listens, written `127.0.0.1:8936` or `"[::1]:8936"`; port 0 takes any free port."""

    host: str
    port: int

    pattern: ClassVar[str] = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`, an IPv6 host in brackets."""
        match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})", text)
        host = (match[1] or match[2]) if match else ""
        if match is None or not _is_host(host) or (":" in host) != bool(match[1]):
            raise ValueError(
                f'{shown(text)} is no address to listen on; write host:port, such as 127.0.0.1:8936 or "[::1]:8936"'
            )
        if int(match[3]) > 65535:
            raise ValueError(f"{shown(text)} has no valid port; write 0 (any free port) to 65535")
        return cls(host, int(match[3]))

    def __str__(self) -> str:
        return _joined(self.host, self.port)


def _split(url: object, *, lowest_port: int = 1) -> SplitResult | None:
    """The URL's parts, or None where it is none. Its text never enters an error: it may hold a stream's key."""
    if not isinstance(url, str) or len(url) > _URL_CHARACTERS or not re.fullmatch(r"[\x21-\x7e]+", url):
        return None
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port >= lowest_port
        return parts if has_port and parts.hostname and _is_host(parts.hostname) else None
    except ValueError:
        return None


_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class MqttUrl(Unit):
    """The broker, written `mqtt://host:port`, or `mqtts://host:port` for TLS.

    Without a port it is the one registered for the scheme: 1883 or 8883. Port 0 stands for a free one that is chosen.
    """

    host: str
    port: int = _MQTT_PORTS["mqtt"]
    has_tls: bool = False

    pattern: ClassVar[str] = r"mqtts?://[^/@?#\s]+"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `mqtt://host:port` or `mqtts://host:port`."""
        parts = _split(text, lowest_port=0)
        if parts is None or parts.scheme not in _MQTT_PORTS:
            raise ValueError(
                "is no URL of a broker; write mqtt://HOST:PORT, such as mqtt://127.0.0.1:1883, or mqtts:// for TLS"
            )
        if "@" in parts.netloc:
            raise ValueError("holds credentials; write them under username and password, and the URL without them")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("has more than host and port; write mqtt://HOST:PORT and the topics' start under prefix")
        port = _MQTT_PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(str(parts.hostname), port, parts.scheme == "mqtts")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        """Host and port, an IPv6 host in brackets."""
        return _joined(self.host, self.port)

    def __str__(self) -> str:
        return f"{'mqtts' if self.has_tls else 'mqtt'}://{self.address}"


_FORMS = {"ts": SourceKind.HTTP_TS, "flv": SourceKind.HTTP_FLV, "hls": SourceKind.HLS}
_ENDINGS = {".flv": "flv", ".m3u8": "hls"}


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A stream's URL. Its path and query may be the publisher's key, so printing shows scheme and host alone."""

    kinds: ClassVar[Mapping[str, SourceKind | None]] = {
        "http": SourceKind.HTTP_TS,
        "https": SourceKind.HTTP_TS,
        "rtmp": SourceKind.RTMP,
        "rtmps": SourceKind.RTMP,
        "rtsp": SourceKind.RTSP,
        "udp": SourceKind.UDP,
    }
    origin: str
    kind: SourceKind | None = None
    value: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Whatever may be secret in it is hidden from now on in what this process logs or shows."""
        if self.value is not None:
            hide_url(self.value)

    def reveal(self) -> str:
        """The whole URL. Raises LookupError when it is an environment variable and the config was only checked."""
        if self.value is None:
            raise LookupError(f"the URL from {self.origin} was not read; load the config instead of checking it")
        return self.value

    def __str__(self) -> str:
        return self.origin

    @property
    def has_tls(self) -> bool:
        """Whether it is read over TLS."""
        return self.origin.startswith(("https://", "rtmps://"))

    def kind_as(self, form: str = "auto") -> SourceKind:
        """How it is read. `form` says what comes over http: ts, flv, hls, or `auto`, by the ending of the path.

        Raises LookupError as `reveal` does.
        """
        path = urlsplit(self.reveal()).path.lower()
        if self.kind is not SourceKind.HTTP_TS:
            assert self.kind is not None
            return self.kind
        if form == "auto":
            form = next((form for ending, form in _ENDINGS.items() if path.endswith(ending)), "ts")
        return _FORMS[form]

    @classmethod
    def parse(cls, url: object) -> Self:
        """Read the URL of a stream. Raises ValueError with a sentence that holds nothing of it."""
        unread = (
            re.match(r"(srt|rist|wheps?|webrtc|rtsps|rtp)://", url, re.IGNORECASE) if isinstance(url, str) else None
        )
        if unread is not None:
            raise ValueError(
                f"is a URL of {unread[1].lower()}, which the media library here cannot read; have a relay send it on "
                "as MPEG-TS to a udp:// source (docs/sources.md shows how)"
            )
        parts = _split(url)
        if parts is None or parts.scheme not in cls.kinds or parts.fragment:
            schemes = listed(f"{scheme}://" for scheme in cls.kinds)
            raise ValueError(f"is no URL of a stream; write {schemes} with host and path (docs/sources.md lists them)")
        host = str(parts.hostname)
        if parts.scheme == "udp" and (
            parts.port is None or parts.netloc != _joined(host, parts.port) or parts[2:] != ("", "", "")
        ):
            raise ValueError(
                "is no UDP address to listen on; write udp://HOST:PORT alone, with an address of this machine, such as "
                "udp://127.0.0.1:5000, or a multicast group"
            )
        where = _joined(host, parts.port) if parts.port else f"[{host}]" if ":" in host else host
        return cls(f"{parts.scheme}://{where}", cls.kinds[parts.scheme], str(url))

    @classmethod
    def from_yaml(cls, value: object, info: ValidationInfo) -> Self:
        """Read a URL, or `${NAME}` for one in the environment."""
        if isinstance(value, cls):
            return value
        name = variable_name(value)
        if name is None:
            return cls.parse(value)
        text = variable_value(name, info.context)
        return cls(f"${{{name}}}") if text is None else cls.parse(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `from_yaml`, serialize without path and query."""
        return core_schema.with_info_plain_validator_function(
            cls.from_yaml, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A URL of one of the schemes, or the name of a variable."""
        return {"type": "string", "pattern": r"^(?:https?://|rtmps?://|rtsp://|udp://|\$\{[A-Za-z_])\S+$"}

"""What a reader is told to do: the one message from the service to a new reader."""

from dataclasses import dataclass, field
from enum import StrEnum, unique

from streams.sampling import SamplingSettings


@unique
class SourceKind(StrEnum):
    """How a reader gets its bytes, and so what its cage must let through."""

    RTMP = "rtmp"
    HTTP_TS = "http_ts"
    HTTP_FLV = "http_flv"
    FILE = "file"


@unique
class SandboxMode(StrEnum):
    """What happens on a kernel that cannot give the whole cage."""

    REQUIRE = "require"
    PREFER = "prefer"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Job:
    """One stream to read.

    `url` has an IP address that the service resolved in place of the host name; for `FILE` it is empty and the
    reader finds the open file on descriptor 4. `port` is the only TCP port the cage lets through.
    `live` is False for a file that is scanned as fast as it decodes: then no sample is dropped (the reader waits)
    and the clock is the media's own. `until_end` is True where the end of input is expected (files).
    """

    kind: SourceKind
    url: str = field(repr=False)
    port: int
    live: bool
    sampling: SamplingSettings
    sandbox: SandboxMode
    max_pixels: int = 4096 * 2304
    open_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 5.0
    ring_limit_bytes: int = 16 * 1024 * 1024
    memory_limit_bytes: int = 2048 * 1024 * 1024

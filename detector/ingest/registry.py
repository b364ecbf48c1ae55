"""Every ingest server by the name that configs use: one line each."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from detector.config.sections import IngestSection
from detector.ingest.adapter import IngestServer
from detector.ingest.ant_media import AntMedia, AntMediaSettings
from detector.ingest.aws_ivs import AwsIvs, AwsIvsSettings
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.livekit import LiveKit, LiveKitSettings
from detector.ingest.mediamtx import MediaMtx, MediaMtxSettings
from detector.ingest.nginx_rtmp import NginxRtmp
from detector.ingest.nginx_settings import NginxRtmpSettings
from detector.ingest.node_media_server import NodeMediaServer, NodeMediaServerSettings
from detector.ingest.none import NoIngest, NoIngestSettings
from detector.ingest.ovenmediaengine import OvenMediaEngine, OvenMediaEngineSettings
from detector.ingest.platform import Platform, PlatformSettings
from detector.ingest.revocations import Revocations
from detector.ingest.srs import Srs, SrsSettings

ENTRY_POINT_GROUP = "stopframe.ingest"
"""Out-of-tree servers: an entry point that names an `IngestKind`."""


@dataclass(frozen=True, slots=True)
class IngestKind:
    """One kind of ingest server: its config section, whose `kind` is the word for it, and how to make one from it.

    `make(settings, revocations, name)`; `name` is what stands in `StreamKey.server`.
    """

    settings: type[IngestSection]
    make: Callable[[Any, Revocations, str], IngestServer]


INGEST_SERVERS: dict[str, IngestKind] = {
    "none": IngestKind(NoIngestSettings, lambda _settings, _revocations, name: NoIngest(name)),
    "embedded": IngestKind(EmbeddedSettings, EmbeddedIngest),
    "nginx-rtmp": IngestKind(NginxRtmpSettings, NginxRtmp),
    "mediamtx": IngestKind(MediaMtxSettings, MediaMtx),
    "node-media-server": IngestKind(NodeMediaServerSettings, NodeMediaServer),
    "srs": IngestKind(SrsSettings, Srs),
    "ovenmediaengine": IngestKind(OvenMediaEngineSettings, OvenMediaEngine),
    "ant-media": IngestKind(AntMediaSettings, AntMedia),
    "livekit": IngestKind(LiveKitSettings, LiveKit),
    "aws-ivs": IngestKind(AwsIvsSettings, AwsIvs),
    "platform": IngestKind(PlatformSettings, Platform),
}


def ingest_kinds() -> list[str]:
    """The words for every kind that there is, those of other packages included."""
    return sorted({*INGEST_SERVERS, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def ingest_kind(kind: str) -> IngestKind:
    """The kind of ingest server that a config calls `kind`. Raises `LookupError` with the names that exist."""
    found = INGEST_SERVERS.get(kind)
    if found is not None:
        return found
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == kind:
            loaded: IngestKind = point.load()
            return loaded
    raise LookupError(f"there is no ingest server {kind!r}: use one of {', '.join(ingest_kinds())}")

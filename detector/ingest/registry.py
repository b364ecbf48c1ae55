"""Every ingest server by the name that configs use: one line each."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from detector.ingest.adapter import IngestServer
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.none import NoIngest, NoIngestSettings
from detector.ingest.revocations import Revocations

ENTRY_POINT_GROUP = "stopframe.ingest"
"""Out-of-tree servers: an entry point that names an `IngestKind`."""


@dataclass(frozen=True, slots=True)
class IngestKind:
    """One kind of ingest server: its config section, and how to make one from it.

    `make(settings, revocations, name)`; `name` is what stands in `StreamKey.server`.
    """

    settings: type[BaseModel]
    make: Callable[[Any, Revocations, str], IngestServer]


INGEST_SERVERS: dict[str, IngestKind] = {
    "none": IngestKind(NoIngestSettings, lambda _settings, _revocations, name: NoIngest(name)),
    "embedded": IngestKind(EmbeddedSettings, EmbeddedIngest),
}


def ingest_kind(kind: str) -> IngestKind:
    """The kind of ingest server that a config calls `kind`. Raises `LookupError` with the names that exist."""
    found = INGEST_SERVERS.get(kind)
    if found is not None:
        return found
    outside = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind in outside:
        loaded: IngestKind = outside[kind].load()
        return loaded
    names = ", ".join(sorted({*INGEST_SERVERS, *outside}))
    raise LookupError(f"there is no ingest server {kind!r}: use one of {names}")

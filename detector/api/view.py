"""What the HTTP side may see and ask of the running service: a protocol, its rows, and its refusals."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from detector.events import CutState
from detector.redaction import without_secrets

PREFIX_LENGTH = 4
"""Fewest characters of an identifier that may stand for the whole."""


class ViewError(Exception):
    """Raised by a `ServiceView`: the request cannot be met and nothing was done. The text is one sentence."""


class NoSuchStream(ViewError):
    """Raised where an identifier names no live stream."""


class NoSuchIncident(ViewError):
    """Raised where an identifier names no incident."""


class NotNow(ViewError):
    """Raised where there is no room for what is asked."""


class Ambiguous(ViewError):
    """Raised where the first characters of an identifier fit more than one."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service does its job. `problems` make `ok` False; `notes` are worth knowing and turn nothing red.

    Neither holds a secret in force, whoever wrote the sentence. `signing` holds the `key_id` and the `public_key` that
    the node's messages are verified with. `models` says of each model in use what runs it and when it is asked. `load`
    holds CPU seconds a second (`readers`, `analysis`, `service`, and the `budget` of all), how many frames are
    `waiting` and were `dropped`, how many streams are `refused`, and how often each model was asked.
    """

    ok: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)
    sandbox: dict[str, Any] = field(default_factory=dict)
    signing: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hide secrets that a server's answer or a library's error brought into a sentence."""
        object.__setattr__(self, "problems", tuple(without_secrets(one) for one in self.problems))
        object.__setattr__(self, "notes", tuple(without_secrets(one) for one in self.notes))


@dataclass(frozen=True, slots=True)
class HintRow:
    """One risk hint that holds now. `score` is 0-1; `is_looked_at`: whether the stream is decoded through for it."""

    source: str
    reason: str
    score: float
    left_seconds: float
    is_looked_at: bool = False


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One live stream. `path` holds the publisher's key: whole it is shown on the control socket alone, when asked for.

    `since` is RFC 3339 UTC. `sampling` is the mode's word, `decision` the last decision's action.
    `codec`, `width`, `height` and `last_sample_age_seconds` are None until known. `judged` counts the frames that were
    decided about; `decision_seconds` is how long after its arrival that was with the last one.
    `blind_cause` says why nothing can be seen now. `bursts` and `spikes` count the GOPs that were decoded whole, by
    chance and because of packet sizes; with `is_spikes_blind` sizes could not show a scene change now.

    `risk` is low, normal or high, hints included. `ration` is full, bursts_reduced, slowed or refused; while slowed a
    frame is analysed every `slowed_to_seconds`, else that is 0. `burst_share` (0-1) is in force now. `reader_cores` and
    `analysis_cores` are CPU seconds per second, over the last seconds.

    `tracks` are the video tracks looked at, None until known; `rendition` says which of an HLS playlist's variants that
    is (empty where there was no choice), `rendition_switches` how often it became another. `time_skew_seconds` is how
    far the publisher's times are ahead of arrival (negative: behind), `time_jumps` how often they jumped.
    `gop_seconds` is the longest of the last GOPs, 0 until known, `max_gap_seconds` the longest time without a sample.
    """

    stream_id: str
    path: str = field(repr=False)
    state: str
    since: str
    codec: str | None
    width: int | None
    height: int | None
    sampling: str
    last_sample_age_seconds: float | None
    seen_seconds: float
    skipped_seconds: float
    blind_seconds: float
    cpu_seconds: float
    decision: str | None
    judged: int = 0
    decision_seconds: float | None = None
    blind_cause: str | None = None
    bursts: int = 0
    spikes: int = 0
    is_spikes_blind: bool = False
    risk: str = "normal"
    ration: str = "full"
    slowed_to_seconds: float = 0.0
    burst_share: float = 0.0
    reader_cores: float = 0.0
    analysis_cores: float = 0.0
    tracks: int | None = None
    rendition: str = ""
    rendition_switches: int = 0
    time_skew_seconds: float = 0.0
    time_jumps: int = 0
    gop_seconds: float = 0.0
    max_gap_seconds: float = 0.0
    hints: tuple[HintRow, ...] = ()


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """One incident. `action` is the ladder word, `mode` shadow or live, `signals` a summary for reading."""

    incident_id: str
    stream_id: str
    opened_at: str
    action: str
    mode: str
    signals: str
    cut_state: CutState
    time_to_cut_ms: int | None = None
    refused_by: str | None = None


@dataclass(frozen=True, slots=True)
class CutReport:
    """What an operator's cut came to. `count` is how many publishers the ingest server dropped."""

    stream_id: str
    incident_id: str | None
    cut_state: CutState
    count: int = 0
    time_to_cut_ms: int | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        """Hide secrets in what an ingest server or an error said."""
        object.__setattr__(self, "detail", without_secrets(self.detail))


@dataclass(frozen=True, slots=True)
class HintRequest:
    """Somebody's word that a stream deserves a closer look: `score` is 0-1, `source` and `reason` are short words."""

    score: float
    source: str
    reason: str
    lasts_seconds: float


@dataclass(frozen=True, slots=True)
class HintReport:
    """A risk hint that was taken in."""

    stream_id: str
    score: float
    lasts_seconds: float


@dataclass(frozen=True, slots=True)
class UndoReport:
    """What an undo came to. `is_restored` says that the key may publish again."""

    incident_id: str
    stream_id: str
    is_restored: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload came to: the keys that took effect, those that wait for a restart, or every fault and no effect.

    Where nothing was left to do, `earlier` says what took effect before, and `earlier_seconds` how long ago.
    """

    file: str
    applied: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    earlier_seconds: float | None = None
    waiting: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


class ServiceView(Protocol):
    """The running service as the HTTP side sees it. All methods run on the service's event loop."""

    def health(self) -> Health:
        """Return the state of the service now, from memory."""
        ...

    def streams(self) -> list[StreamRow]:
        """Return every live stream now, from memory."""
        ...

    async def incidents(self, limit: int) -> list[IncidentRow]:
        """Return the newest `limit` incidents, newest first."""
        ...

    async def cut(self, stream: str) -> CutReport:
        """Cut a live stream by hand; raise `NoSuchStream` or `Ambiguous`."""
        ...

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        """Take in a risk hint for a live stream; raise `NoSuchStream`, `Ambiguous`, or `NotNow` for one too many."""
        ...

    async def undo(self, incident: str) -> UndoReport:
        """Restore the key that an incident revoked; raise `NoSuchIncident` or `Ambiguous`."""
        ...

    async def release(self, source: str) -> bool:
        """Let `source` cut again after the breaker held it; False where nothing was held."""
        ...

    async def reload(self, file: str | None) -> ReloadReport:
        """Take up the config file as it is now; `file` must be the one that the service runs from, if it is given.

        Raises `ViewError` where it is another one, or where the service runs without a file.
        """
        ...


def pick(wanted: str, identifiers: Iterable[str], missing: type[ViewError]) -> str:
    """Return the identifier that `wanted` is, or begins (from `PREFIX_LENGTH` characters on).

    Raises `missing` where none fits and `Ambiguous` where several do.
    """
    word = "stream" if missing is NoSuchStream else "incident"
    fitting = {one for one in identifiers if one == wanted or (len(wanted) >= PREFIX_LENGTH and one.startswith(wanted))}
    if wanted in fitting:
        return wanted
    if not fitting and len(wanted) < PREFIX_LENGTH:
        raise missing(f"give at least {PREFIX_LENGTH} characters of the identifier; 'stopframe {word}s' lists them.")
    if not fitting:
        raise missing(f"no {word} has this identifier; 'stopframe {word}s' lists them.")
    if len(fitting) > 1:
        raise Ambiguous(f"{len(fitting)} {word}s begin like this; give more characters of the identifier.")
    return fitting.pop()

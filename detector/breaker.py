"""The brake on cutting: one bad list entry or class must not take a platform off the air. Pure; time is passed in."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from detector.events import Decision, Signal, Step
from models.bank_store import INCIDENT_BANK

REFUSALS_KEPT = 1000
"""Refusals listed per source; beyond that the oldest are only counted."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """How much one source may cut.

    A source may cut as many streams in `window_seconds` as the larger of `cuts` and `share` (0-1) of the live streams.
    Generations of a list younger than `young_seconds` are sources of their own, beside their entries. What was just cut
    is streamed again by many: an entry of the incident bank may cut `incident_cuts` streams in all, and no more.
    """

    cuts: int = 5
    share: float = 0.02
    window_seconds: float = 60.0
    young_seconds: float = 24 * 3600.0
    incident_cuts: int = 50

    def limit(self, live_streams: int) -> float:
        """How many streams one source may cut within the window."""
        return max(self.cuts, self.share * live_streams)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cut that became a review because of `source`."""

    source: str
    stream_id: str
    session: str
    refused_at: float


@dataclass(frozen=True, slots=True)
class Tripped:
    """A source that may cut nothing more until it is released."""

    source: str
    tripped_at: float
    refused_total: int
    refusals: tuple[Refusal, ...]


@dataclass(slots=True)
class _Source:
    """`cut_at` maps a stream to when this source first cut it, oldest first; streams in `approved` do not count."""

    cut_at: dict[str, float] = field(default_factory=dict)
    approved: set[str] = field(default_factory=set)
    tripped_at: float | None = None
    refused: dict[str, Refusal] = field(default_factory=dict)
    refused_total: int = 0


class Breaker:
    """Counts what each source cuts. Sources are `BANK/entry`, `model/label` and `BANK@generation`."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._sources: dict[str, _Source] = {}

    def reconfigure(self, settings: BreakerSettings) -> None:
        """Count by other limits from now on. What was counted stays; a source that is stopped stays stopped."""
        self._settings = settings

    def judge(
        self,
        decision: Decision,
        *,
        now: float,
        live_streams: int,
        generation_age_seconds: Mapping[str, float] | Callable[[str], float | None] | None = None,
    ) -> Decision:
        """The decision as it stands, or as a review with `refused_by` set: a review of the highest severity.

        Only a live cut is judged. It stands if any one of its signals may still cut: what two sources say does not
        hang on the worse of them. It counts for all of those: one picture under many names cuts no more streams than
        under one. Only an incident does not count what others cut as well. `now` is any clock in seconds that does not
        run backwards; `generation_age_seconds` says how old a generation is, and one of unknown age counts as young. A
        stream counts once for each source.
        """
        if decision.action is not Step.CUT or not decision.is_live:
            return decision
        self._forget_before(now - self._settings.window_seconds)
        refusers: list[str] = []
        having_room: list[str] = []
        for signal in decision.signals:
            if signal.step is not Step.CUT:
                continue
            sources = self._sources_of(signal, generation_age_seconds)
            full = next((name for name in sources if not self._has_room(name, decision.stream_id, live_streams)), None)
            if full is not None:
                refusers.append(full)
            elif not (having_room and _is_incident(signal.source)):
                having_room += sources
        if having_room:
            for name in having_room:
                self._count(name, decision.stream_id, now)
            return decision
        if not refusers:
            return decision
        for name in dict.fromkeys(refusers):
            self._refuse(name, decision, now)
        return replace(decision, action=Step.REVIEW, refused_by=refusers[0])

    def release(self, source: str) -> tuple[Refusal, ...]:
        """An operator says yes: what `source` was refused may be cut now, and counting starts anew.

        Returns what was refused, for the caller to act on; empty where nothing was.
        """
        state = self._sources.get(source)
        if state is None or state.tripped_at is None:
            return ()
        refusals = tuple(state.refused.values())
        self._sources[source] = _Source(approved=set(state.refused))
        return refusals

    def forget(self, source: str) -> None:
        """An entry is gone for good, and what it did with it."""
        self._sources.pop(source, None)

    def tripped(self) -> tuple[Tripped, ...]:
        """Every source that is stopped now, the longest first, with what it was refused."""
        stopped = [
            Tripped(name, state.tripped_at, state.refused_total, tuple(state.refused.values()))
            for name, state in self._sources.items()
            if state.tripped_at is not None
        ]
        return tuple(sorted(stopped, key=lambda one: one.tripped_at))

    def _sources_of(
        self, signal: Signal, ages: Mapping[str, float] | Callable[[str], float | None] | None
    ) -> tuple[str, ...]:
        if signal.generation is None or ages is None:
            return (signal.source,)
        age = ages(signal.generation) if callable(ages) else ages.get(signal.generation)
        if age is not None and age >= self._settings.young_seconds:
            return (signal.source,)
        return signal.source, f"{signal.bank}@{signal.generation}"

    def _has_room(self, name: str, stream_id: str, live_streams: int) -> bool:
        limit = self._settings.incident_cuts if _is_incident(name) else self._settings.limit(live_streams)
        state = self._sources.get(name)
        if state is None:
            return limit >= 1
        if stream_id in state.cut_at or stream_id in state.approved:
            return True
        return state.tripped_at is None and len(state.cut_at) + 1 <= limit

    def _count(self, name: str, stream_id: str, now: float) -> None:
        state = self._sources.setdefault(name, _Source())
        if stream_id not in state.approved:
            state.cut_at.setdefault(stream_id, now)

    def _refuse(self, name: str, decision: Decision, now: float) -> None:
        state = self._sources.setdefault(name, _Source())
        if state.tripped_at is None:
            state.tripped_at = now
        if decision.stream_id in state.refused:
            return
        state.refused_total += 1
        state.refused[decision.stream_id] = Refusal(name, decision.stream_id, decision.session, now)
        if len(state.refused) > REFUSALS_KEPT:
            del state.refused[next(iter(state.refused))]

    def _forget_before(self, earliest: float) -> None:
        for name, state in list(self._sources.items()):
            if _is_incident(name):
                continue
            old = deque[str]()
            for stream_id, cut_at in state.cut_at.items():
                if cut_at > earliest:
                    break
                old.append(stream_id)
            for stream_id in old:
                del state.cut_at[stream_id]
            if not state.cut_at and not state.approved and state.tripped_at is None:
                del self._sources[name]


def _is_incident(source: str) -> bool:
    return source.startswith(f"{INCIDENT_BANK}/")

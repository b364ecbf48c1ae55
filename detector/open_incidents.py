"""Incidents that are not over: what was asked for in each, and what is told of it in words."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from detector.cut_journal import CutOutcome
from detector.events import Decision, Signal, Step, StreamKey

BLIND = "blind/"
"""What sources begin with where a stream cannot be seen."""

_SUMMARISED = 4
"""Signals that a log line and the list of incidents name."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What the response needs to know of the stream beside the decision.

    `last_packet_at` is the monotonic time of the last media byte that our reader saw, for the proof of the cut.
    """

    stream_id: str
    session: str
    key: StreamKey
    connection: str
    coverage: Mapping[str, float | Mapping[str, float]]
    last_packet_at: Callable[[], float | None]
    account: str = ""
    """Under which name its incident goes on in another session; empty: in none."""


@dataclass(slots=True)
class OpenIncident:
    """One that is not over. `stream` is where it began, `sessions` how many of its account's it went through.

    `outcome` is how its cut ended, None while there is none, `told` the latest alert on its way to the disk.
    """

    incident_id: str
    action: Step
    sources: dict[str, Step]
    first_arrived_at: float
    updates: int = 0
    is_cutting: bool = False
    stream: StreamFacts | None = None
    opened_at_ms: int = 0
    is_live: bool = False
    refused_by: str | None = None
    sessions: int = 1
    outcome: CutOutcome | None = None
    told: asyncio.Task[None] | None = None

    @property
    def is_being_cut(self) -> bool:
        """Whether a cut has begun, however it ended."""
        return self.is_cutting or self.outcome is not None

    def is_news(self, decision: Decision) -> bool:
        """Whether the decision asks for more than was asked for, or names something new."""
        if decision.action is Step.CUT and decision.is_live and not self.is_cutting:
            return True
        if decision.action > self.action or any(one.source not in self.sources for one in decision.signals):
            return True
        # Where nobody is cut, what each source called for at most is written down: a report asks what would have been.
        return not decision.is_live and any(one.step > self.sources[one.source] for one in decision.signals)

    def note(self, decision: Decision) -> None:
        """Remember what the decision asked for."""
        self.action = max(self.action, decision.action)
        for signal in decision.signals:
            self.sources[signal.source] = max(signal.step, self.sources.get(signal.source, Step.OFF))
        self.is_live = decision.is_live and decision.action > Step.SHADOW
        self.refused_by = decision.refused_by or self.refused_by


def is_blind(decision: Decision) -> bool:
    """Whether it is about a stream that cannot be seen."""
    return decision.observation is None


def thread(session: str, *, is_blind: bool) -> str:
    """What a session's open incident is found by: one for what it shows, one for what cannot be seen."""
    return f"{BLIND}{session}" if is_blind else session


def _words(signal: Signal) -> str:
    if signal.kind == "hash":
        return f"{signal.source} at distance {signal.distance} through {signal.view}"
    if signal.kind == "sequence":
        return f"{signal.source} in {signal.frames} frames up to distance {signal.distance}"
    if signal.score is not None:
        return f"{signal.source} {signal.score:.2f}"
    return signal.source


def summary(signals: Sequence[Signal]) -> str:
    """The first few in words and the number of the others: a picture may be on many lists."""
    told = list(dict.fromkeys(_words(signal) for signal in signals))
    more = len(told) - _SUMMARISED
    return "; ".join([*told[:_SUMMARISED], *([f"and {more} more"] if more > 0 else [])])[:500]

"""Entries that match many streams at once: more likely a bad entry than so many copies. Pure; time is passed in."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from detector.events import Decision, Signal, Step
from models.bank_store import INCIDENT_BANK

_MOST_ENTRIES: Final = 10_000
"""Entries whose streams are counted; beyond that those that matched longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class FloodSettings:
    """How many streams one entry may match: the larger of `streams` and `share` (0-1) of the live ones, in a window."""

    streams: int = 20
    share: float = 0.05
    window_seconds: float = 600.0

    def limit(self, live_streams: int) -> float:
        """How many streams one entry may match within the window."""
        return max(self.streams, self.share * live_streams)


class Floods:
    """Counts the streams that each entry matches, and holds what is in quarantine to reviews.

    `quarantined` are the entries, as `BANK/entry`, whose matches are for people to look at until one of them says
    that they are right; `trusted` are those of which one has said so. Both are kept with the banks; whoever reads
    those sets them here. What was just cut is meant to match whoever streams it again: those entries do not count.
    """

    def __init__(self, settings: FloodSettings) -> None:
        self.settings = settings
        self.quarantined: frozenset[str] = frozenset()
        self.trusted: frozenset[str] = frozenset()
        self._matched: OrderedDict[str, dict[str, float]] = OrderedDict()

    def note(self, decision: Decision, *, now: float, live_streams: int) -> list[Signal]:
        """Count a decision's matches; gives the signals of entries that have just matched more than they may.

        `now` is any clock in seconds that does not run backwards. Each such entry is named once until it is released.
        """
        flooding = []
        for signal in decision.signals:
            if signal.entry is None or signal.bank == INCIDENT_BANK or signal.step < Step.REVIEW:
                continue
            if signal.source in self.quarantined or signal.source in self.trusted:
                continue
            streams = self._matched.pop(signal.source, {})
            streams.pop(decision.stream_id, None)
            streams[decision.stream_id] = now
            streams = {stream: at for stream, at in streams.items() if at > now - self.settings.window_seconds}
            self._matched[signal.source] = streams
            if len(streams) > self.settings.limit(live_streams):
                flooding.append(signal)
        while len(self._matched) > _MOST_ENTRIES:
            self._matched.popitem(last=False)
        self.quarantined |= {signal.source for signal in flooding}
        return flooding

    def judge(self, decision: Decision) -> Decision:
        """The decision as it stands; as a review with `refused_by` where only entries in quarantine ask for it.

        Such a review is of the highest severity, as one that the breaker made of a cut.
        """
        held = {signal.source for signal in decision.signals} & self.quarantined
        if not held or decision.action < Step.REVIEW:
            return decision
        others = [signal.step for signal in decision.signals if signal.source not in held]
        if max(others, default=Step.OFF) >= decision.action:
            return decision
        refused_by = next(signal.source for signal in decision.signals if signal.source in held)
        action = Step.REVIEW if decision.action is Step.CUT else decision.action
        return replace(decision, action=action, refused_by=refused_by)

    def hold(self, quarantined: Collection[str], trusted: Collection[str] | None = None) -> None:
        """Go by what the banks say is in quarantine, and trusted; an entry that was released begins anew."""
        for source in self.quarantined.difference(quarantined):
            self._matched.pop(source, None)
        self.quarantined = frozenset(quarantined)
        if trusted is not None:
            self.trusted = frozenset(trusted)

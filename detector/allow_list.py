"""Streams that nobody is cut from until a time: `enforcement.allow`. What would cut them asks for a review."""

import fnmatch
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from detector.config.sections import AllowSection
from detector.events import Decision, Step

REFUSED_BY = "enforcement.allow"
"""What stands in an alert and an incident in place of the cut; not the pattern, which may hold a key."""


class AllowList:
    """The entries of the config in force, and the time until which each holds; `wall_clock` in Unix seconds."""

    def __init__(
        self, entries: Callable[[], Sequence[AllowSection]], *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.softened_total = 0
        """Decisions that would have cut."""
        self._entries = entries
        self._wall_clock = wall_clock

    def covers(self, path: str) -> bool:
        """Whether nobody is cut from `app/name` now."""
        now = self._wall_clock()
        return any(now < entry.until.unix_seconds and _matches(entry, path) for entry in self._entries())

    def soften(self, decision: Decision, path: str) -> Decision:
        """The decision as it stands, or as a review where it would cut a stream that an entry covers."""
        if decision.action is not Step.CUT or not self.covers(path):
            return decision
        self.softened_total += 1
        return replace(decision, action=Step.REVIEW, refused_by=REFUSED_BY)

    def notes(self, live_paths: Iterable[str]) -> list[str]:
        """One sentence for each entry, those that have run out among them."""
        entries, now = self._entries(), self._wall_clock()
        if not entries:
            return []
        paths = list(live_paths)
        found = []
        for place, entry in enumerate(entries):
            where = f"{REFUSED_BY}[{place}] ({entry.reason})"
            if now >= entry.until.unix_seconds:
                found.append(f"{where} ran out at {entry.until} and holds no more: take it out")
                continue
            count = sum(_matches(entry, path) for path in paths)
            found.append(f"{where} keeps {count} live streams from being cut until {entry.until}")
        return found


def _matches(entry: AllowSection, path: str) -> bool:
    return fnmatch.fnmatchcase(path, entry.match)

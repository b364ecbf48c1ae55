"""Risk hints from outside: which hold for which stream, and what they ask for. Pure, on a passed-in clock.

A hint only ever raises: it never cuts, it never lowers what another hint or the config asks for, and it ends by
itself. What it costs is bounded by how many hold at once, and by the CPU budget.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from detector.cpu.rationing import Risk

CLOSER_FROM = 0.5
"""From this score on a stream is decoded through; below it only stands one step higher when CPU time is short."""

LONGEST_SECONDS = 3600.0
"""A hint that should hold for longer is to be given again."""

MOST_OF_ONE_STREAM = 8

MOST_IN_ALL = 4096

_ENDINGS_SPARE = 64


class TooManyHints(Exception):
    """Raised by `Hints.add`: nothing was taken in; one sentence."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Somebody's word that a stream deserves a closer look: `score` is 0-1, `until` on the clock of `Hints`."""

    score: float
    source: str
    reason: str
    until: float

    def adds_nothing_to(self, other: "Hint") -> bool:
        """Whether the other, of the same source, is as strong and holds as long."""
        return self.source == other.source and self.score <= other.score and self.until <= other.until


class Hints:
    """The hints that hold; streams are told apart by `stream_id`."""

    def __init__(self) -> None:
        self._hints: dict[str, list[Hint]] = {}
        self._endings: list[tuple[float, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, stream: str, hint: Hint, now: float) -> None:
        """Take one in; a stream that has as many as it may loses its weakest for a stronger one.

        Raises:
            TooManyHints: the stream's are all at least as strong, or there is no room at all.
        """
        self.end(now)
        before = self._hints.get(stream, [])
        if any(hint.adds_nothing_to(each) for each in before):
            return
        kept = [each for each in before if not each.adds_nothing_to(hint)]
        if len(kept) >= MOST_OF_ONE_STREAM:
            weakest = min(kept, key=lambda each: (each.score, each.until))
            if (weakest.score, weakest.until) >= (hint.score, hint.until):
                raise TooManyHints(f"{MOST_OF_ONE_STREAM} stronger hints hold for this stream already; nothing to add.")
            kept.remove(weakest)
        if self._count - len(before) + len(kept) + 1 > MOST_IN_ALL:
            raise TooManyHints(f"{MOST_IN_ALL} hints hold already; find out who gives so many, or wait until they end.")
        self._put(stream, [*kept, hint])
        heapq.heappush(self._endings, (hint.until, stream))
        if len(self._endings) > 2 * self._count + _ENDINGS_SPARE:  # those of hints that others took the place of
            self._endings = sorted((each.until, name) for name, hints in self._hints.items() for each in hints)

    def end(self, now: float) -> None:
        """Forget what holds no longer."""
        while self._endings and self._endings[0][0] <= now:
            _, stream = heapq.heappop(self._endings)
            self._put(stream, [each for each in self._hints.get(stream, []) if each.until > now])

    def keep_only(self, streams: Iterable[str]) -> None:
        """Forget those of streams that are gone."""
        for stream in self._hints.keys() - set(streams):
            self._put(stream, [])

    def of(self, stream: str) -> tuple[Hint, ...]:
        """Those that hold for one stream, the strongest first."""
        hints = self._hints.get(stream)
        return () if hints is None else tuple(sorted(hints, key=lambda each: (-each.score, -each.until)))

    def _put(self, stream: str, hints: list[Hint]) -> None:
        self._count += len(hints) - len(self._hints.get(stream, []))
        if hints:
            self._hints[stream] = hints
        else:
            self._hints.pop(stream, None)


def raised(risk: Risk, hints: tuple[Hint, ...]) -> Risk:
    """Where a stream stands with the hints that hold for it."""
    if not hints:
        return risk
    return Risk.HIGH if hints[0].score >= CLOSER_FROM else risk.raised()


def closer_until(hints: tuple[Hint, ...]) -> float | None:
    """Until when hints have the stream decoded through; None where none is strong enough."""
    return max((each.until for each in hints if each.score >= CLOSER_FROM), default=None)

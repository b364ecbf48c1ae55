"""Which list each bank was filled from, and which version of it: what an alert says of a match."""

import asyncio
from dataclasses import replace
from pathlib import Path

from detector.events import Decision, Signal
from detector.exchanges.records import SOURCE, Source, read_source
from detector.works import Work
from models.bank_store import bank_names

_LOOK_EVERY_SECONDS = 0.5


class BankSources:
    """The records of one folder of banks, by bank: read before a changed bank is, and twice a second besides."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[tuple[int, int], Source]] = {}
        self.look()

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (Work("bank_sources", self.run),)

    async def run(self) -> None:
        """Read the records anew whenever they change, for ever."""
        while True:
            await asyncio.to_thread(self.look)  # a mount that hangs must not hold up the service
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def look(self) -> None:
        """Read what has changed; what cannot be read now stays known."""
        found = {}
        try:
            for name in bank_names(self._folder):
                path = self._folder / name / SOURCE
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                mark, known = (status.st_ino, status.st_mtime_ns), self._seen.get(name)
                source = known[1] if known is not None and known[0] == mark else read_source(path.parent)
                if source is not None:
                    found[name] = (mark, source)
        except OSError:
            return
        self._seen = found

    def told(self, decision: Decision) -> Decision:
        """The decision with the list and its version beside each signal of a bank that a list fills."""
        if not any(signal.bank in self._seen for signal in decision.signals):
            return decision
        return replace(decision, signals=tuple(map(self._named, decision.signals)))

    def _named(self, signal: Signal) -> Signal:
        if signal.bank not in self._seen:
            return signal
        _, source = self._seen[signal.bank]
        return replace(signal, exchange=source.exchange, version=source.version or None)

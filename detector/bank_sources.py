"""Which list each bank was filled from, and which version of it: what an alert says of a match."""

import asyncio
from dataclasses import replace
from pathlib import Path

from detector.events import Decision
from detector.exchanges.records import SOURCE, Source, read_source
from detector.works import Work
from models.bank_store import bank_names

_LOOK_EVERY_SECONDS = 0.5


class BankSources:
    """The records of one folder of banks, by bank. A version is known half a second after it came into force."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[tuple[int, int], Source]] = {}

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
        signals = []
        for signal in decision.signals:
            known = self._seen.get(signal.bank or "")
            if known is not None:
                signal = replace(signal, exchange=known[1].exchange, version=known[1].version or None)
            signals.append(signal)
        return replace(decision, signals=tuple(signals))

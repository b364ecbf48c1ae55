"""Puts entries that match many streams at once into quarantine, on disk with their bank, and says so."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from detector.banks.flood import Floods, FloodSettings
from detector.events import Decision, Signal
from detector.metrics import Metrics
from models.annotations import EntryNote
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, BankNameError, EntryMissing, annotate, bank_names, notes

log = structlog.get_logger()

_NAMED = 5
"""Entries that health names; the others are counted."""


class Quarantine:
    """The entries of one folder of banks that are for people to look at.

    An entry that people have confirmed more often than disputed is never put there.
    """

    def __init__(self, banks_dir: Path, metrics: Metrics, settings: Callable[[], FloodSettings]) -> None:
        self._banks_dir = banks_dir
        self._metrics = metrics
        self._settings = settings
        self._floods = Floods(settings())
        self._pending: dict[str, Signal] = {}
        self._has_work = asyncio.Event()
        self._saving: set[str] = set()
        self._unsaved: set[str] = set()

    def judge(self, decision: Decision, *, now: float, live_streams: int) -> Decision:
        """Count what a decision matches, and hold what is in quarantine to reviews."""
        if not decision.signals:
            return decision
        self._floods.settings = self._settings()
        for signal in self._floods.note(decision, now=now, live_streams=live_streams):
            log.warning("entry.quarantined", bank=signal.bank, entry=signal.entry)
            self._metrics.quarantined()
            self._pending[signal.source] = signal
            self._has_work.set()
        return self._floods.judge(decision)

    def holds(self, source: str) -> bool:
        """Whether the matches of an entry, `BANK/entry`, may only ask for reviews."""
        return source in self._floods.quarantined

    async def run(self) -> None:
        """Write down what is put into quarantine, for ever."""
        await self.look()
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._pending:
                source, signal = self._pending.popitem()
                self._saving.add(source)
                await self._save(source, signal)
                self._saving.discard(source)
            await self.look()

    async def look(self) -> None:
        """Go by what the banks say now."""
        found, trusted = await asyncio.to_thread(_held_and_trusted, self._banks_dir)
        self._unsaved &= self._floods.quarantined - found
        self._floods.hold(found | self._unsaved | self._saving | self._pending.keys(), trusted)

    async def release(self, source: str) -> bool:
        """Take an entry, `BANK/entry`, out of quarantine; False if it was not in it."""
        if source not in self._floods.quarantined:
            return False
        bank, _, entry = source.partition("/")
        self._pending.pop(source, None)
        self._unsaved.discard(source)
        try:
            await asyncio.to_thread(annotate, self._banks_dir / bank, entry, _released)
        except (BankMissing, BankNameError, EntryMissing):  # removed meanwhile: nothing is left to hold
            pass
        except (IndexCorrupt, OSError) as error:
            log.warning("quarantine.unsaved", bank=bank, entry=entry, why=str(error))
        self._floods.hold(self._floods.quarantined - {source})
        return True

    def problems(self) -> list[str]:
        """One sentence on what is in quarantine: people have to say what is to become of it."""
        held = sorted(self._floods.quarantined)
        if not held:
            return []
        named = ", ".join(held[:_NAMED]) + (f" and {len(held) - _NAMED} more" if len(held) > _NAMED else "")
        remedy = "look at them ('stopframe incidents'), then 'stopframe hashes confirm BANK ENTRY', release or remove"
        return [f"{named} matched many streams at once, or harmless pictures, and may only ask for reviews; {remedy}"]

    async def _save(self, source: str, signal: Signal) -> None:
        assert signal.bank is not None
        assert signal.entry is not None
        try:
            await asyncio.to_thread(annotate, self._banks_dir / signal.bank, signal.entry, _quarantine)
        except (BankMissing, BankNameError, EntryMissing):  # removed meanwhile, or a bank that is not the operator's
            self._floods.hold(self._floods.quarantined - {source})
        except (IndexCorrupt, OSError) as error:
            # It stays in quarantine until the service ends.
            self._unsaved.add(source)
            log.warning("quarantine.unsaved", bank=signal.bank, entry=signal.entry, why=str(error))


def _quarantine(noted: EntryNote) -> EntryNote:
    return noted if noted.confirmations > noted.objections else replace(noted, quarantined=True)


def _released(noted: EntryNote) -> EntryNote:
    return replace(noted, quarantined=False)


def _held_and_trusted(banks_dir: Path) -> tuple[frozenset[str], frozenset[str]]:
    held, trusted = set(), set()
    for name in bank_names(banks_dir):
        try:
            noted = notes(banks_dir / name)
        except (BankMissing, IndexCorrupt, OSError):  # the analysis processes tell of banks that cannot be read
            continue
        held |= {f"{name}/{entry}" for entry, note in noted.items() if note.quarantined}
        trusted |= {f"{name}/{entry}" for entry, note in noted.items() if note.confirmations > note.objections}
    return frozenset(held), frozenset(trusted)

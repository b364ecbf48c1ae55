"""Reads long banks whole, once for all analysis processes: they would answer nothing for seconds if each did.

A process of its own reads and verifies each base that is new, so that damaged files endanger nobody. Until it has, the
analysis processes stay with the generation that they have; short bases they read themselves.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from detector.banks.rebuilding import bank_process, lines_of
from models.arrays import IndexCorrupt
from models.bank_store import BankMissing, bank_names, open_bank
from models.generations import read_pointer
from models.shelves import is_long, state_of
from streams.sandbox import die_with_parent

log = structlog.get_logger()

_PRIORITY = 5
"""Below the analysis of frames; not the lowest, since a list waits for it."""
_LOOK_EVERY_SECONDS = 30.0
_TOLD_BYTES = 400
_MOST_STATES = 1024


class Readings:
    """Which long bases of one folder's banks were read and found sound."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sound: set[str] = set()
        self._refused: dict[str, tuple[frozenset[str], str]] = {}
        self._told: tuple[str, ...] = ()
        self._wanted = asyncio.Event()

    def states(self) -> tuple[str, ...]:
        """Those in force, by `models.shelves.state_of`, and what a rebuild is about to bring into force."""
        return tuple(sorted(self._sound))

    def problems(self) -> list[str]:
        """One sentence for each bank that was refused."""
        return [f"bank {name} stays as it was: {why}" for name, (_, why) in sorted(self._refused.items())]

    def confirm(self, state: str) -> None:
        """Count a base as read: who wrote it knows what is in it."""
        self._sound.add(state)
        self._wanted.set()

    def look_soon(self) -> None:
        """Look for new bases now: something has changed."""
        self._wanted.set()

    async def changes(self) -> AsyncIterator[None]:
        """Read what is new, for ever; yield whenever `states` has changed."""
        while True:
            found = await asyncio.to_thread(self._look)
            for name, states in found.items():
                if not states <= self._sound and self._refused.get(name, ((), ""))[0] != states:
                    await self._read(name, states)
            if len(self._sound) > _MOST_STATES:  # of bases that rebuilds have replaced
                self._sound &= frozenset().union(*found.values())
            self._refused = {name: one for name, one in self._refused.items() if found.get(name) == one[0]}
            if self.states() != self._told:
                self._told = self.states()
                yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()

    def _look(self) -> dict[str, frozenset[str]]:
        """The states of the long bases in force, by bank."""
        found = {}
        with contextlib.suppress(OSError):  # a folder that cannot be read for a while may be later
            for name in bank_names(self._folder, with_reserved=True):
                with contextlib.suppress(IndexCorrupt, OSError):  # the analysis processes tell of damaged pointers
                    folders = base_folders(self._folder / name)
                    found[name] = frozenset(state_of(folder) for folder in folders if is_long(folder))
        return found

    async def _read(self, name: str, states: frozenset[str]) -> None:
        async with bank_process("detector.banks.readings", self._folder / name) as process:
            read = {state async for state in lines_of(process)}
            _, told = await process.communicate()
        if process.returncode == 0:
            self._sound |= read
            log.info("bank.read", bank=name)
            return
        why = told[-_TOLD_BYTES:].decode("utf-8", "replace").strip()
        self._refused[name] = (states, why)
        log.warning("bank.refused", bank=name, why=why)


def base_folders(bank_dir: Path) -> list[Path]:
    """Where the bases lie that a bank's pointer names.

    Raises:
        IndexCorrupt, OSError: The pointer cannot be read.
    """
    pointer = read_pointer(bank_dir)
    layers = pointer.layers if pointer is not None else {}
    return [bank_dir / one.base / name for name, one in layers.items()]


def main(bank_dir: Path) -> None:
    """Read one bank whole and say which bases it has; for a process of its own."""
    die_with_parent()
    os.nice(_PRIORITY)
    try:
        # Before they are read: what changes meanwhile is not what was read.
        states = [state_of(folder) for folder in base_folders(bank_dir)]
        open_bank(bank_dir)
    except (IndexCorrupt, BankMissing, OSError) as error:
        sys.exit(str(error))
    for state in states:
        sys.stdout.write(f"{state}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

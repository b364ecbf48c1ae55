"""Folds what came into banks and left them into new bases: by the service, else by the command that changed them.

A rebuild of ten million rows takes a core for some seconds, so the service does it in a process of its own, of the
lowest priority, one bank at a time and for a tenth of the time at most.
"""

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog

from models.arrays import IndexCorrupt
from models.bank_store import bank_names, bank_stats
from models.rebuild import is_due, rebuild
from streams.sandbox import die_with_parent

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 5.0
_SHARE_OF_TIME = 0.1
_LOWEST_PRIORITY = 19
_SERVED = "rebuilds.lock"
_TOLD_BYTES = 4096


class Rebuilds:
    """The banks of one folder, rebuilt in the background whenever it is worth it.

    `tell` is given the state of each new base (`models.shelves.state_of`) before it comes into force.
    """

    def __init__(self, folder: Path, tell: Callable[[str], object] = str) -> None:
        self._folder = folder
        self._tell = tell
        self._refused: dict[str, str] = {}

    async def run(self) -> None:
        """Look after the banks for ever; what is under way when this is cancelled is killed and loses nothing."""
        with _served(self._folder):
            while True:
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
                due = await asyncio.to_thread(self._due)
                if due is not None:
                    began = asyncio.get_running_loop().time()
                    await self._rebuild(due)
                    took = asyncio.get_running_loop().time() - began
                    await asyncio.sleep(took / _SHARE_OF_TIME - took)

    def _due(self) -> Path | None:
        """The first bank that is worth a rebuild and was not refused one as it is."""
        with contextlib.suppress(OSError):  # a folder that cannot be read for a while may be later
            for name in bank_names(self._folder):
                with contextlib.suppress(IndexCorrupt, LookupError):  # the analysis processes tell of damaged banks
                    if is_due(self._folder / name) and self._generation(name) != self._refused.get(name):
                        return self._folder / name
        return None

    def _generation(self, name: str) -> str:
        return bank_stats(self._folder / name).generation

    async def _rebuild(self, bank_dir: Path) -> None:
        async with bank_process("detector.banks.rebuilding", bank_dir) as process:
            async for state in lines_of(process):
                self._tell(state)
            _, told = await process.communicate()
        if process.returncode == 0:
            log.info("bank.rebuilt", bank=bank_dir.name)
            return
        log.warning("bank.rebuild_failed", bank=bank_dir.name, why=told[-_TOLD_BYTES:].decode("utf-8", "replace"))
        with contextlib.suppress(IndexCorrupt, LookupError, OSError):
            self._refused[bank_dir.name] = await asyncio.to_thread(self._generation, bank_dir.name)


@contextlib.asynccontextmanager
async def module_process(
    module: str, *arguments: str, has_input: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs a module; it ends with the block, and with the service. `has_input`: it is told something."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},  # and no secret
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def bank_process(module: str, bank_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs a module on one bank; it ends with the block, and with the service."""
    async with module_process(module, str(bank_dir)) as process:
        yield process


async def lines_of(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    """What a process says, line by line, as it says it."""
    while process.stdout is not None and (line := await process.stdout.readline()):
        yield line.decode("ascii", "replace").strip()


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[None]:
    """Say, for as long as the block lasts and this process lives, that a service rebuilds these banks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / _SERVED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_served(folder: Path) -> bool:
    """Tell whether a running service rebuilds the banks of a folder."""
    try:
        descriptor = os.open(folder / _SERVED, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def rebuild_unless_served(bank_dir: Path) -> bool:
    """Rebuild a bank that a command changed, if it is worth it and no service will; tell whether it was.

    Raises:
        IndexCorrupt, OSError: as `models.rebuild.rebuild`. The change itself is in force.
    """
    return is_due(bank_dir) and not is_served(bank_dir.parent) and rebuild(bank_dir)


def main(bank_dir: Path) -> None:
    """Rebuild one bank at the lowest priority; for a process of its own."""
    die_with_parent()
    os.nice(_LOWEST_PRIORITY)
    try:
        rebuild(bank_dir, tell=lambda state: sys.stdout.write(f"{state}\n") and sys.stdout.flush())
    except (IndexCorrupt, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The running service as the kernel sees it: its forkservers, its readers, its analysis processes, and what they cost.

Everything is read from /proc (proc(5)): nothing is asked of the service, so that a service that lies or hangs is seen.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READER_ENTRY = "streams.reader:main"
ANALYSIS_ENTRY = "detector.analysis.worker:main"

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SCHEDULED = 2  # which of a process' clocks: all the time it was run


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `started_ticks` tells it from another that got the same number later."""

    pid: int
    parent: int
    started_ticks: int
    is_zombie: bool
    own_cpu_seconds: float
    ended_children_cpu_seconds: float

    @property
    def cpu_seconds(self) -> float:
        """User and system time, with that of the children it has waited for."""
        return self.own_cpu_seconds + self.ended_children_cpu_seconds

    def is_running(self) -> bool:
        """Whether this very process still runs."""
        now = look(self.pid)
        return now is not None and now.started_ticks == self.started_ticks and not now.is_zombie


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """CPU time used up to an instant, by part of the service."""

    service: float
    readers: float
    analysis: float

    def __sub__(self, other: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.service - other.service, self.readers - other.readers, self.analysis - other.analysis)

    @property
    def total(self) -> float:
        """All parts together."""
        return self.service + self.readers + self.analysis


class ServiceTree:
    """The processes of the service whose main process is `pid`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def forkserver(self, entry: str) -> Process | None:
        """Return the process that forks the children of `entry`, None while there is none."""
        return next((child for child in children(self.pid) if entry in _arguments(child.pid)), None)

    def readers(self) -> list[Process]:
        """Return the readers that run now, the oldest first."""
        return self._forked(READER_ENTRY)

    def analysts(self) -> list[Process]:
        """Return the analysis processes that run now, the oldest first."""
        return self._forked(ANALYSIS_ENTRY)

    def everyone(self) -> list[Process]:
        """Return the main process and everything below it."""
        found = [one for one in [look(self.pid)] if one is not None]
        for process in found:
            found += children(process.pid)
        return found

    def cpu_seconds(self) -> CpuSeconds:
        """Return what every part used so far; a forkserver counts with what it forked, also with what has ended."""
        return CpuSeconds(
            service=own_cpu_seconds(self.pid),
            readers=self._family_cpu_seconds(READER_ENTRY),
            analysis=self._family_cpu_seconds(ANALYSIS_ENTRY),
        )

    def _forked(self, entry: str) -> list[Process]:
        server = self.forkserver(entry)
        if server is None:
            return []
        living = (child for child in children(server.pid) if not child.is_zombie)
        return sorted(living, key=lambda child: (child.started_ticks, child.pid))

    def _family_cpu_seconds(self, entry: str) -> float:
        server = self.forkserver(entry)
        if server is None:
            return 0.0
        family = [server, *children(server.pid)]
        return sum(own_cpu_seconds(one.pid) + one.ended_children_cpu_seconds for one in family)


def own_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process to the nanosecond; 0 where it is gone. /proc counts in hundredths of a second.

    A process' clock has its number in it (clock_getcpuclockid(3), and CLOCK_PROCESS_CPUTIME_ID of the kernel).
    """
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | _SCHEDULED)
    process = look(pid)  # its own clock stops when it has ended and is not waited for yet
    return process.own_cpu_seconds if process else 0.0


def look(pid: int) -> Process | None:
    """Return what runs as `pid`, None where nothing does."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    user, system, waited_user, waited_system = (int(field) / _TICKS_PER_SECOND for field in fields[11:15])
    return Process(pid, int(fields[1]), int(fields[19]), fields[0] in "ZX", user + system, waited_user + waited_system)


def children(parent: int) -> list[Process]:
    """Return the processes whose parent is `parent`."""
    return [process for process in _all() if process.parent == parent]


def pss_bytes(pid: int) -> int | None:
    """Return the proportional set size of a process, None where the kernel does not show it to this user.

    Memory that several processes share counts in equal parts for each, so that the sum is what they really take.
    """
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def memory_peak_bytes(pid: int) -> int:
    """Return the most memory a process ever had resident, shared pages included; 0 where it is gone."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def resident_bytes(pid: int) -> int:
    """Return the memory a process has resident, shared pages included; 0 where it is gone."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def descriptor_count(pid: int) -> int:
    """Return how many descriptors a process has open; 0 where it is gone or hides them."""
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0


def thread_count(pid: int) -> int:
    """Return how many threads a process has; 0 where it is gone."""
    try:
        return sum(1 for _ in (_PROC / str(pid) / "task").iterdir())
    except OSError:
        return 0


def busy_seconds() -> float:
    """Return the CPU time that all cores of the machine have used for anything but idling, since it started."""
    user, nice, system, _, _, *rest = (int(word) for word in (_PROC / "stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / _TICKS_PER_SECOND  # what guests used is in `user` already


def forked_pids(service_pid: int, entry: str) -> list[int]:
    """Return what the forkserver of `entry` has forked, zombies included, at the price of a few small reads.

    For who looks many times a second; the kernel's list of a thread's children is exact while none comes or goes.
    """
    for server in _listed_children(service_pid):
        if entry in _arguments(server):
            return _listed_children(server)
    return []


def _listed_children(pid: int) -> list[int]:
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []


def _all() -> Iterator[Process]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (process := look(int(folder.name))) is not None:
            yield process


def _arguments(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []

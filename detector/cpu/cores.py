"""How much CPU time this process may use: the cores it is let on, and the quota of its control groups."""

import contextlib
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores(groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> float:
    """CPU seconds a second: the least of what affinity and `cpu.max` of each control group (version 2) allow.

    Linux, Documentation/admin-guide/cgroup-v2.rst: `cpu.max` holds a quota, or `max`, and a period in microseconds.
    """
    cores = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError):
        for line in own_group.read_text(encoding="utf-8").splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                group = groups / path.lstrip("/")
                cores = min([cores, *(_quota(each) for each in (group, *group.parents) if each.is_relative_to(groups))])
    return cores


def _quota(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file in the root group; `max` is no number
        return float("inf")

"""One sync in a process of its own: `python -m detector.exchanges`, the job on standard input, the state on stdout.

A list of strangers is parsed here, at a low priority and without the service's memory: what breaks or swells
takes this process along and nothing else.
"""

import asyncio
import json
import os
import resource
import sys
import time
from dataclasses import asdict

from detector.exchanges.job import SyncJob
from detector.exchanges.sync import sync
from streams.sandbox import die_with_parent

_MOST_JOB_BYTES = 1 << 20
_LOW_PRIORITY = 10
"""Below all that looks at streams, above what folds banks: a withdrawal is waited for."""
_MEMORY_BYTES = 12 << 30
"""Fifty million rows take a part of it; a reply that unfolds without end takes no more."""


def main() -> None:
    """Run the sync that standard input names; its state is one line of JSON."""
    die_with_parent()
    os.nice(_LOW_PRIORITY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold every secret
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    job = SyncJob.decode(sys.stdin.buffer.read(_MOST_JOB_BYTES))
    state = asyncio.run(sync(job.client(), job.adoption(), time.time))
    sys.stdout.write(json.dumps(asdict(state)) + "\n")


if __name__ == "__main__":
    main()

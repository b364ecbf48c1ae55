"""What opening a source may cost in memory: libav decodes while it looks, and then nobody has limited a picture's size.

The formats of live streams name their tracks only as packets come, and the binding hands `max_pixels` to libav's look
before that. A picture of 16000x16000 in FLV then took 1.1 GB; with the process's address space held down its decoder is
refused the memory, and the size is known all the same.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from streams.job import Job

_BYTES_PER_PIXEL = 16
"""Eight tracks of 1920x1080 are looked into with 12, and 8192x8192 pixels find no room below 20."""

_LEAST_BYTES = 64 * 1024 * 1024


class OpeningMemory:
    """How far this process may grow while it opens the source of `job`. Make it before the cage shuts off /proc."""

    def __init__(self, job: Job) -> None:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - no pathlib in the cage
            mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
        self._limit_bytes = mapped_bytes + max(_LEAST_BYTES, _BYTES_PER_PIXEL * job.max_pixels)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Hold the process down, and let it go again."""
        before, hard = resource.getrlimit(resource.RLIMIT_AS)
        limits = [limit for limit in (self._limit_bytes, before) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (before, hard))

"""The threads that the event loop lends for what may wait for a disk: as many at the start as there will ever be."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

THREADS: Final = 8
"""More than there are works that wait for a disk at once (configs, banks, lists, denials); by default there would be as
many as cores and four more, each begun when all others are busy for the first time."""


def lend_threads() -> None:
    """Give the running event loop its threads for `asyncio.to_thread`, all of them begun."""
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="stopframe-disk")
    everyone = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        executor.submit(everyone.wait)
    everyone.wait()  # else the first would be idle again, and take the second's work
    asyncio.get_running_loop().set_default_executor(executor)

"""The event loop's threads for what waits for a disk."""

import asyncio
import threading

from detector.threads import THREADS, lend_threads


async def test_no_thread_begins_after_the_start() -> None:
    """However much waits at once, the threads that were there at the start do it, each of them at work."""
    lend_threads()
    begun = {thread for thread in threading.enumerate() if thread.name.startswith("stopframe-disk")}
    everyone = threading.Barrier(THREADS)

    def wait() -> threading.Thread:
        everyone.wait(30)
        return threading.current_thread()

    at_work = await asyncio.gather(*(asyncio.to_thread(wait) for _ in range(3 * THREADS)))

    assert len(begun) == THREADS
    assert set(at_work) == begun
    await asyncio.get_running_loop().shutdown_default_executor()
    assert not any(thread.is_alive() for thread in begun)

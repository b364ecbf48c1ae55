"""What the service does with memory that it no longer needs: it gives it back."""

import ctypes
import gc
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # malloc.h of the GNU C library
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 128 * 1024
"""A sample with its picture is some 200 kB: every copy of it is larger than this."""


def return_large_blocks() -> bool:
    """Have every large block given back to the kernel when it is freed; False where the C library knows no such thing.

    The GNU C library begins like that, but learns from the first such block to keep the next ones in its heap, which
    then stays as large as the busiest moment ever made it (mallopt(3), M_MMAP_THRESHOLD; setting it ends the learning).
    For the calling process alone: a reader, whose decoder takes and frees pictures all the time, is faster as it is.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def share_one_heap() -> bool:
    """Have all threads take from one heap; False where the C library knows no such thing. To be called before any is.

    Else each has one of its own (mallopt(3), M_ARENA_MAX), which never gets smaller, and what one thread leaves free no
    other takes. Threads that hold Python's lock to take memory do not wait for each other here.
    """
    return _set(_M_ARENA_MAX, 1)


def return_freed() -> bool:
    """Give back at once what was freed so far, wherever in the heap it lies; False where the C library cannot.

    For the moment after something large was loaded: a model leaves 30 to 40 MB behind of what it was read into
    (malloc_trim(3)). It looks through the whole heap, so it is nothing for every frame.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(malloc_trim(0))


def keep_what_is_loaded() -> None:
    """Take everything that is there now as never garbage, and give back what loading left behind.

    For the moment when a long-lived process is ready. Every full collection else goes through all that was imported,
    for a tenth of a second and more in which nothing else happens, and so is put off until there is a quarter as much
    garbage (gc.freeze of the standard library): hundreds of streams that have ended, with their buffers.
    """
    gc.freeze()
    gc.collect()  # nothing is left to look through; how much there was decides when the next one is due
    return_freed()


def return_garbage() -> None:
    """Give back what is free, and before that what is garbage where `keep_what_is_loaded` made looking for it cheap."""
    if gc.get_freeze_count():
        gc.collect()
    return_freed()


def _set(option: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(option, value))

"""What the service does with memory that it no longer needs: it gives it back."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # malloc.h of the GNU C library
_LARGE_BYTES: Final = 128 * 1024
"""A sample with its picture is some 200 kB: every copy of it is larger than this."""


def return_large_blocks() -> bool:
    """Have every large block given back to the kernel when it is freed; False where the C library knows no such thing.

    The GNU C library begins like that, but learns from the first such block to keep the next ones in its heap, which
    then stays as large as the busiest moment ever made it (mallopt(3), M_MMAP_THRESHOLD; setting it ends the learning).
    For the calling process alone: a reader, whose decoder takes and frees pictures all the time, is faster as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))


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

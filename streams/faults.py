"""Why a source cannot be read (on): libav's many errors as one code and a sentence of our own words."""

import errno
import math

import av.error

from streams.messages import EndCode

_Faults = tuple[tuple[tuple[type[BaseException], ...], EndCode, str], ...]
_SLOW = (av.error.ExitError, TimeoutError)  # ExitError is how the binding's own timeout shows, and no TimeoutError
_OPENING_FAULTS: _Faults = (
    (_SLOW, EndCode.TIMEOUT, "nothing that could be opened came in time"),
    ((MemoryError,), EndCode.OUT_OF_MEMORY, "the source needs more memory than its reader may take"),
    (
        (av.error.HTTPNotFoundError,),
        EndCode.NOT_FOUND,
        "the server has no such stream: check the path, or wait until it is published",
    ),
    ((av.error.HTTPError, av.error.HTTPClientError), EndCode.REFUSED, "the server answered with an error"),
    ((ConnectionError,), EndCode.REFUSED, "the server refused the connection: start it, or correct the port"),
    # nginx-rtmp's answer for a stream that nobody publishes
    ((PermissionError,), EndCode.NOT_FOUND, "the server does not let this stream be played"),
    ((EOFError,), EndCode.END_OF_STREAM, "it ended before anything could be opened"),
)
_READING_FAULTS: _Faults = (
    (_SLOW, EndCode.TIMEOUT, "no bytes came in time"),
    ((MemoryError,), EndCode.OUT_OF_MEMORY, "the stream needs more memory than its reader may take"),
    ((EOFError, ConnectionError), EndCode.END_OF_STREAM, "the server closed the connection"),
)


class SourceError(Exception):
    """Raised by `open_source` and `Source.packets`: nothing (more) can be read; the source is closed.

    `detail` is made of our own words: what a server or a file said could hold a key, or lines for a log.
    `media_seconds` is how long a file that is media, but not for us, says that it is; NaN where it does not say.
    """

    def __init__(self, code: EndCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.media_seconds = math.nan


def while_opening(error: Exception) -> SourceError:
    """Return what a failure to open means to an operator."""
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return SourceError(
            EndCode.REFUSED,
            "the server closed the connection, redirected it or sent nothing of this kind: check the URL",
        )
    for kinds, code, detail in _OPENING_FAULTS:
        if isinstance(error, kinds):
            return SourceError(code, detail)
    # Broken files also end in IndexError, AttributeError and UnicodeDecodeError from the binding.
    return SourceError(EndCode.NOT_MEDIA, f"no media that can be opened ({type(error).__name__})")


def while_reading(error: Exception) -> SourceError:
    """Return what a failure after the first packet means to an operator."""
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return SourceError(EndCode.END_OF_STREAM, "the server closed the connection")
    for kinds, code, detail in _READING_FAULTS:
        if isinstance(error, kinds):
            return SourceError(code, detail)
    return SourceError(EndCode.NOT_MEDIA, f"what came is no media any more ({type(error).__name__})")

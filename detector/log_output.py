"""The log's way out: a full disk, a closed pipe or a lost terminal costs log lines, never the service."""

import os
import sys
from io import TextIOBase
from typing import TextIO, cast


class LogOutput(TextIOBase):
    """stderr, as a text stream that never raises; what could not be written is counted in `lines_lost_total`.

    stderr may be a file on a full disk (ENOSPC), a pipe that nobody reads any more (EPIPE), a terminal that is gone
    (EIO). A log call in the middle of a cut must not fail for that. Nothing is buffered: Python's own streams keep
    what they could not write, and raise for it again at every later write.
    """

    lines_lost_total = 0
    """Of this process."""

    def write(self, text: str) -> int:
        """Write at once; what is refused is lost and counted."""
        try:
            descriptor = _descriptor(sys.stderr)
            if descriptor is None:
                sys.stderr.write(text)
            else:
                left = text.encode("utf-8", "backslashreplace")
                while left:
                    left = left[os.write(descriptor, left) :]
        except (OSError, ValueError, AttributeError):  # it was closed, or this process never had one
            LogOutput.lines_lost_total += text.count("\n")
        return len(text)


def log_output() -> TextIO:
    """Return a `LogOutput` as the type that logging libraries ask for."""
    return cast("TextIO", LogOutput())


def _descriptor(stream: TextIO) -> int | None:
    """The file behind a stream; None where there is only memory, as in a test that captures it."""
    try:
        return stream.fileno()
    except OSError:
        return None

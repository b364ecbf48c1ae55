"""The log's way out: a full disk, a closed pipe or a lost terminal costs log lines, never the service."""

import os
import select
import sys
from io import TextIOBase
from typing import Final, TextIO, cast

_PATIENCE_SECONDS: Final = 0.1
_AT_ONCE_BYTES: Final = 4096
"""What a pipe that is called writable takes without blocking (PIPE_BUF; poll(2), pipe(7))."""


class LogOutput(TextIOBase):
    """stderr, as a text stream that never raises; what could not be written is counted in `lines_lost_total`.

    stderr may be a file on a full disk (ENOSPC), a pipe that nobody reads any more (EPIPE), a terminal that is gone
    (EIO). A log call in the middle of a cut must not fail for that. Nothing is buffered: Python's own streams keep
    what they could not write, and raise for it again at every later write. Nobody waits for a reader that stopped
    reading: a pipe, socket or terminal that stays full for `_PATIENCE_SECONDS` loses lines until there is room again.
    """

    lines_lost_total = 0
    """Of this process."""
    _is_stuck = False

    @staticmethod
    def _wait_for_room(descriptor: int) -> None:
        """Raise `OSError` where a write would block; where it did before, at once."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        is_writable = bool(poll.poll(0 if LogOutput._is_stuck else _PATIENCE_SECONDS * 1000))
        LogOutput._is_stuck = not is_writable
        if not is_writable:
            raise BlockingIOError("nobody reads stderr")

    def write(self, text: str) -> int:
        """Write at once; what is refused is lost and counted."""
        try:
            descriptor = _descriptor(sys.stderr)
            if descriptor is None:
                sys.stderr.write(text)
            else:
                left = text.encode("utf-8", "backslashreplace")
                while left:
                    self._wait_for_room(descriptor)
                    left = left[os.write(descriptor, left[:_AT_ONCE_BYTES]) :]
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

"""What a reader's CPU time goes into, beside reading: pictures, by why they are decoded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum, unique


@unique
class Purpose(StrEnum):
    """Why pictures are decoded."""

    KEYFRAME = "keyframe"
    THROUGH = "through"
    WHOLE = "whole"


class Costs:
    """CPU seconds of decoding and scaling by purpose, and how many keyframes were decoded alone.

    They are those of the calling thread: two threads may take turns, and never overlap.
    """

    def __init__(self) -> None:
        self.keyframes = 0
        self.cpu_seconds = dict.fromkeys(Purpose, 0.0)
        self._is_charged = False

    @contextmanager
    def of(self, purpose: Purpose) -> Iterator[None]:
        """Charge what is used inside to `purpose`; within another one's it is that one's."""
        if self._is_charged:
            yield
            return
        self._is_charged = True
        begun = time.thread_time()
        try:
            yield
        finally:
            self.cpu_seconds[purpose] += time.thread_time() - begun
            self._is_charged = False

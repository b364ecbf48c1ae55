"""A GOP that is decoded whole: a few frames stand for it, and are handed over together. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.distinct import DistinctFrames
from streams.frame import SampleReason
from streams.sampling import SCENE_CHANGE_GREY_LEVELS

LONGEST_SECONDS = 10.0
"""So much of a GOP is decoded as one at most: what it gives is told while it matters."""

_SPIKE_PATIENCE_SECONDS = 1.0
"""Decoders hold back 16 frames at most; whoever writes the times must not hold back more."""

FedT_contra = TypeVar("FedT_contra", contravariant=True)
PacketT = TypeVar("PacketT")
FrameT = TypeVar("FrameT")
FrameT_contra = TypeVar("FrameT_contra", contravariant=True)
SampleT = TypeVar("SampleT")


class FrameReader(Protocol[FedT_contra, FrameT_contra]):
    """What is asked about frames; see `streams.decoder.Decoder`."""

    def is_shown_from(self, packet: FedT_contra, frame: FrameT_contra) -> bool:
        """Say whether the frame is the one in the packet, or is shown after it."""

    def plane(self, frame: FrameT_contra) -> NDArray[np.uint8] | None:
        """Return the frame's hash plane."""


@dataclass(frozen=True, slots=True)
class Output(Generic[FrameT, SampleT]):
    """Where frames go: `emit` sends one for analysis, `keep` makes a sample for later, `hand_over` sends such ones.

    `moved` marks a sample of which another one shows the same, but for movement.
    """

    emit: Callable[[FrameT, float, SampleReason], object]
    keep: Callable[[FrameT, float, SampleReason], SampleT | None]
    hand_over: Callable[[list[SampleT]], None]
    moved: Callable[[SampleT], SampleT] = lambda sample: sample


class WholeGop(Generic[PacketT, FrameT, SampleT]):
    """Looks at each frame of a GOP, or of its first `LONGEST_SECONDS`, and keeps a few that differ.

    With `spike`, the packet because of which that is done, what stands for the GOP so far is handed over as soon as
    that packet's frame came out of the decoder, and the rest at the end. `analysed` is the plane of its keyframe,
    if that was sent for analysis by itself.
    """

    def __init__(
        self,
        reader: FrameReader[PacketT, FrameT],
        output: Output[FrameT, SampleT],
        begun_at: float,
        spike: PacketT | None = None,
        analysed: NDArray[np.uint8] | None = None,
    ) -> None:
        self.ends_at = begun_at + LONGEST_SECONDS
        self._reader = reader
        self._output = output
        self._begun_at = begun_at
        self._spike = spike
        self._reason = SampleReason.BURST if spike is None else SampleReason.SPIKE
        self._distinct: DistinctFrames[SampleT] = DistinctFrames(SCENE_CHANGE_GREY_LEVELS)
        if analysed is not None:
            self._distinct.analysed(analysed)

    @property
    def is_spike(self) -> bool:
        """Whether a spike is the reason, and not chance."""
        return self._reason is SampleReason.SPIKE

    def show(self, frames: Sequence[FrameT], arrived_at: float) -> None:
        """Look at frames that came out of the decoder when the packet of `arrived_at` went in."""
        for frame in frames:
            plane = self._reader.plane(frame)
            if plane is not None:
                self._distinct.show(plane, partial(self._output.keep, frame, arrived_at, self._reason))
        if self._spike is None:
            return
        is_out = any(self._reader.is_shown_from(self._spike, frame) for frame in frames)
        if is_out or arrived_at > self._begun_at + _SPIKE_PATIENCE_SECONDS:
            self._spike = None
            self.hand_over()

    def hand_over(self) -> None:
        """Send what stands for the GOP, as far as it was not sent before."""
        samples = self._distinct.take(self._output.moved)
        if samples:
            self._output.hand_over(samples)

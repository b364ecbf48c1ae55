"""What each track of a stream was looked at lately, and what lies over its picture: told with its next frame."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.cascade import ModelRule, TrackModels
from models.evidence import Inspection
from models.hashing.algorithm import PLANE_SIDE
from models.hashing.scenes import Look, SceneWatch
from models.hashing.view_table import Tier
from models.hashing.viewing import packed
from models.shapes.overlay import OverlayMask
from streams.frame import OF_BURSTS, Frame

_KERNEL = random.SystemRandom()


class TrackLooks:
    """Follows one track of one stream; some 30 kB where the picture stays, 70 kB where all of it moves."""

    def __init__(self, rules: Sequence[ModelRule] = ()) -> None:
        self.models = TrackModels(rules, lambda: _KERNEL.getrandbits(32))
        """Which models its frames are shown to."""
        self._scenes = SceneWatch(random.random)
        self._banks = 0
        self._overlay = OverlayMask()

    def look(self, frame: Frame, banks: int = 0) -> Look:
        """What the analysis of this frame is to know. Call it once for each, in their order.

        `banks` is a number that changes with what is in the banks: looks at others than these were good for nothing.
        """
        if banks != self._banks:
            self._banks = banks
            self._scenes.forget()
        if frame.reason not in OF_BURSTS:  # frames a few milliseconds apart would make a still picture of anything
            self._overlay.seen(np.frombuffer(frame.plane, dtype=np.uint8).reshape(PLANE_SIDE, PLANE_SIDE))
        return replace(self._scenes.look(), overlay=packed(self._overlay.mask()))

    def heard(self, inspection: Inspection) -> None:
        """Take in what the analysis of a frame found."""
        tiers = (Tier(tier) for tier in inspection.tier_seconds)
        self._scenes.heard(inspection.fingerprint, tiers, inspection.saved_seconds)

"""What has been looked at of a stream already, so that what does not change is not looked at for ever."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from models.hashing.view_table import TURNS, Tier

SCENE_BITS: Final = 24
"""A frame whose hash differs by more than this from that of the frame on which a scene's views were run is another
scene. The sample before it would not do: a picture that drifts slowly never differs from that by so much."""

STILL_BITS: Final = 8
"""Up to this many bits the picture is called still: noise and re-encoding move no more of a hash that is any good."""

_STILL_SAMPLES: Final = 4
_SCENE_SAMPLES: Final = 64
"""How long a look at a still picture, and at a scene, is good for: the banks change although the picture does not."""

_SHORTEST_SCENE: Final = 4
"""Samples: a picture that differs each time moves, and is not a new scene each time."""

_SCENE_JITTER: Final = 3
"""A shortest scene lasts so many different numbers of samples, around the usual one: who shows two pictures by turns is
not to know which of them is the one that is looked at in every way."""

_NEVER: Final = 1 << 62

LONGEST_AGO: Final = 255
"""Samples; what was longer ago is told as this."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a track of a stream when one of its frames is looked at.

    `turn` says which quarter of the views in turn is next. `rested` tiers were run lately, each on a frame of this PDQ
    hash: they need not be run again unless the frame turns out to be another scene, or not still. `waited` tiers were
    due for so many samples and had no room. `scene_age` is about how many samples ago a scene's views were run, 255 at
    most. `overlay` is a packed (64, 64) mask of 512 bytes, or empty. `saved_seconds` is what the track has saved of the
    CPU time that its views may cost; None for a track that is new, infinite for frames at nobody's expense.
    """

    turn: int = 0
    rested: Mapping[Tier, bytes] = field(default_factory=dict)
    scene_age: int = LONGEST_AGO
    overlay: bytes = b""
    saved_seconds: float | None = None
    waited: Mapping[Tier, int] = field(default_factory=dict)

    @property
    def is_paid(self) -> bool:
        """Whether the frame's views go by a budget."""
        return self.saved_seconds != math.inf


def tiers_due(look: Look, identity: bytes) -> frozenset[Tier]:
    """The tiers that a frame with the PDQ hash `identity` deserves."""
    due = {Tier.EVERY_SAMPLE}
    for tier, most in _GOOD_WITHIN.items():
        if tier not in look.rested or _distance(look.rested[tier], identity) > most:
            due.add(tier)
    if look.scene_age < _SHORTEST_SCENE:
        due.discard(Tier.PER_SCENE)
    return frozenset(due)


_GOOD_WITHIN: Final = {Tier.EDGES: STILL_BITS, Tier.IN_TURN: STILL_BITS, Tier.PER_SCENE: SCENE_BITS}


class SceneWatch:
    """Follows one track of one stream by what was found in its samples. Some 2 kB.

    Args:
        draw: Gives numbers of [0, 1) that nobody else can know: the order of the views in turn and the lengths of the
            shortest scenes go by it. A constant leaves the order as it is.
    """

    def __init__(self, draw: Callable[[], float] = lambda: 0.5) -> None:
        self._draw = draw
        self._turns: list[int] = []
        self._run_on: dict[Tier, bytes] = {}
        self._since: dict[Tier, int] = {}
        self._still_turns = 0
        self._scene_age = LONGEST_AGO
        self._waited = dict.fromkeys(_GOOD_WITHIN, 0)
        self._saved_seconds: float | None = None
        self._plan_turns()

    def look(self) -> Look:
        """What the next sample's look is to know; the overlay is somebody else's."""
        rested = {tier: found for tier, found in self._run_on.items() if self._since[tier] < _LASTS[tier]}
        if self._still_turns < len(TURNS):
            rested.pop(Tier.IN_TURN, None)
        waited = {tier: samples for tier, samples in self._waited.items() if samples}
        return Look(self._turns[0], rested, self._scene_age, saved_seconds=self._saved_seconds, waited=waited)

    def heard(self, fingerprint: bytes, tiers: Iterable[Tier], saved_seconds: float | None = None) -> None:
        """Take in the hash of a sample, the tiers that were run on it, and what the track has saved after it."""
        self._saved_seconds = saved_seconds
        run, due = set(tiers), tiers_due(self.look(), fingerprint)
        self._scene_age = min(self._scene_age + 1, LONGEST_AGO)
        for tier, most in _GOOD_WITHIN.items():
            self._waited[tier] = 0 if tier in run or tier not in due else min(self._waited[tier] + 1, LONGEST_AGO)
            if tier in self._run_on:
                self._since[tier] += 1
                if _distance(self._run_on[tier], fingerprint) > most:
                    self._drop(tier)
            if tier in run:
                self._note(tier, fingerprint)

    def forget(self) -> None:
        """Let everything be due again: the banks are others than those that the looks so far asked."""
        for tier in tuple(self._run_on):
            self._drop(tier)
        self._scene_age = LONGEST_AGO

    def _drop(self, tier: Tier) -> None:
        del self._run_on[tier], self._since[tier]
        if tier is Tier.IN_TURN:
            self._still_turns = 0

    def _note(self, tier: Tier, fingerprint: bytes) -> None:
        self._since[tier] = 1  # at the next sample
        if tier is Tier.IN_TURN:
            # All quarters are to be of one picture: what is still goes by the first of them.
            self._run_on.setdefault(tier, fingerprint)
            self._still_turns += 1
            self._turns.pop(0)
            self._plan_turns()
            return
        self._run_on[tier] = fingerprint
        if tier is Tier.PER_SCENE:
            self._scene_age = int(self._draw() * _SCENE_JITTER)

    def _plan_turns(self) -> None:
        if not self._turns:
            self._turns = sorted(range(len(TURNS)), key=lambda _: self._draw())


_LASTS: Final = {Tier.EDGES: _STILL_SAMPLES, Tier.IN_TURN: _STILL_SAMPLES, Tier.PER_SCENE: _SCENE_SAMPLES}


def _distance(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return _NEVER
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()

"""What has been looked at of a stream already, so that what does not change is not looked at for ever."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from models.hashing.view_table import TURNS, Tier

SCENE_BITS: Final = 24
"""A frame whose hash differs from that of the sample before it by more than this begins a scene."""

STILL_BITS: Final = 8
"""Up to this many bits the picture is called still: noise and re-encoding move no more of a hash that is any good."""

_STILL_SAMPLES: Final = 4
_SCENE_SAMPLES: Final = 64
"""How long a look at a still picture, and at a scene, is good for: the banks change although the picture does not."""

_SHORTEST_SCENE: Final = 4
"""Samples: a picture that differs each time moves, and is not a new scene each time."""

_NEVER: Final = 1 << 62

LONGEST_AGO: Final = 255
"""Samples; what was longer ago is told as this."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a track of a stream when one of its frames is looked at.

    `turn` counts the looks at views in turn so far. `previous` is the PDQ hash of the sample before it, empty where
    there is none. `rested` tiers were run on this very scene, or still picture, lately: they need not be run again
    unless the frame turns out to be another. `scene_age` is how many samples ago a scene's views were run, 255 at most.
    `overlay` is a packed (64, 64) mask of 512 bytes, or empty.
    """

    turn: int = 0
    previous: bytes = b""
    rested: frozenset[Tier] = frozenset()
    scene_age: int = LONGEST_AGO
    overlay: bytes = b""


def tiers_due(look: Look, identity: bytes) -> frozenset[Tier]:
    """The tiers that a frame with the PDQ hash `identity` deserves."""
    moved = _distance(look.previous, identity)
    due = {Tier.EVERY_SAMPLE}
    for tier, most in _GOOD_WITHIN.items():
        if tier not in look.rested or moved > most:
            due.add(tier)
    if look.scene_age < _SHORTEST_SCENE:
        due.discard(Tier.PER_SCENE)
    return frozenset(due)


_GOOD_WITHIN: Final = {Tier.EDGES: STILL_BITS, Tier.IN_TURN: STILL_BITS, Tier.PER_SCENE: SCENE_BITS}


class SceneWatch:
    """Follows one track of one stream by what was found in its samples. A few hundred bytes."""

    def __init__(self) -> None:
        self._turn = 0
        self._previous = b""
        self._since = dict.fromkeys(_GOOD_WITHIN, _NEVER)
        self._still_turns = 0
        self._scene_age = LONGEST_AGO

    def look(self) -> Look:
        """What the next sample's look is to know; the overlay is somebody else's."""
        rested = {tier for tier, since in self._since.items() if since < _LASTS[tier]}
        if self._still_turns < len(TURNS):
            rested.discard(Tier.IN_TURN)
        return Look(self._turn, self._previous, frozenset(rested), self._scene_age)

    def heard(self, fingerprint: bytes, tiers: Iterable[Tier]) -> None:
        """Take in the hash of a sample and the tiers that were run on it."""
        moved = _distance(self._previous, fingerprint)
        self._previous = fingerprint
        for tier, most in _GOOD_WITHIN.items():
            self._since[tier] = _NEVER if moved > most else self._since[tier] + 1
        if moved > STILL_BITS:
            self._still_turns = 0
        self._scene_age = min(self._scene_age + 1, LONGEST_AGO)
        for tier in self._since.keys() & set(tiers):
            self._since[tier] = 1  # at the next sample
            if tier is Tier.IN_TURN:
                self._turn += 1
                self._still_turns += 1
            elif tier is Tier.PER_SCENE:
                self._scene_age = 1


_LASTS: Final = {Tier.EDGES: _STILL_SAMPLES, Tier.IN_TURN: _STILL_SAMPLES, Tier.PER_SCENE: _SCENE_SAMPLES}


def _distance(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return _NEVER
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()

"""Which model is asked about which frame of a track: dear ones on suspicion only, none twice about the same picture.

What is known of a track lies with the service (`TrackModels`) and travels with each frame (`Asking`), since any process
may get the next one. Nothing here reads a clock or draws a number: both are passed in.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.evidence import ClassScore, Inspection

SUSPICION_SECONDS: Final = 10.0
"""A dearer model that was called for is asked for so long: its own votes need several frames."""

MOST_MODELS: Final = 32

SAME_BLOCK_LEVELS: Final = 4
"""Mean difference, of 256 levels and in each block of 8x8 pixels and each colour, up to which a picture is the same.

Still scenes of 720p that x264 encoded at 0.5-4 Mbit/s stay within 4, with camera noise of 4 levels nearly always; with
10 levels they differ by up to 8 and are looked at again. A pattern that the block's mean does not show counts in full:
differences are averaged, not pixels.
"""

SAME_PIXEL_LEVELS: Final = 24
"""No pixel of the same picture differs by more: those still scenes stay within 17, a new letter does not."""

_SIDE: Final = 256
_BLOCKS: Final = _SIDE // 8
_TURNS: Final = 256


@dataclass(frozen=True, slots=True)
class ModelRule:
    """When one model is asked, and how.

    `after` maps `model/label` to the score from which on this model is asked; without any it is asked about each frame.
    `reuse_seconds`: so long an unchanged picture keeps its scores; 0 for never. `has_tiles`: parts of frames are shown
    to it as well. `jitter` (0-0.2) is the share of each side that is cut off at random before it looks.
    """

    name: str
    after: Mapping[str, float] = field(default_factory=dict)
    reuse_seconds: float = 0.0
    has_tiles: bool = False
    jitter: float = 0.0

    def is_called(self, scores: Mapping[str, float], heard: Collection[str] | None = None) -> bool:
        """Whether one of these scores, by `model/label`, calls for the model.

        With `heard`, the names of the models of which something is known, a model that is not among them calls as well:
        what it would have said is not known, and a model that fails must switch no other off.
        """
        if not self.after or any(scores.get(name, -1.0) >= least for name, least in self.after.items()):
            return True
        return heard is not None and any(name.partition("/")[0] not in heard for name in self.after)


@dataclass(frozen=True, slots=True)
class Asking:
    """What is known of a track when one of its frames is shown to models. Bits stand for models in their order.

    `awake`: asked whatever the others say. `rested`: not asked, since their scores of this picture are known.
    `is_suspicious`: parts of the frame are worth a look. `has_room` is False while frames wait: no parts then.
    `turn` (0-255) says which parts come first, `draw` (32 bits) is random. `is_test`: every model once, at the frame as
    it is, whatever it shows. `shows_check`: the one model that is not rested sees its own check picture instead.
    `spares_all`: nobody is asked, since a frame beside it shows the same.
    """

    awake: int = 0
    rested: int = 0
    is_suspicious: bool = False
    has_room: bool = True
    turn: int = 0
    draw: int = 0
    is_test: bool = False
    shows_check: bool = False
    spares_all: bool = False

    @property
    def lone_place(self) -> int:
        """The place of the first model that is not rested."""
        return (~self.rested & self.rested + 1).bit_length() - 1


TEST: Final = Asking(awake=(1 << MOST_MODELS) - 1, is_test=True)
"""For the self-test's frames."""


@dataclass(frozen=True, slots=True)
class _Scored:
    picture: bytes | memoryview
    size: tuple[int, int]
    at: float
    scores: tuple[ClassScore, ...]


class TrackModels:
    """Follows one track of one stream; keeps one picture of 200 kB while its scores may be reused, else nothing much.

    Args:
        rules: Of all models, in their order.
        draw: Gives 32 random bits that nobody outside can know.
    """

    def __init__(self, rules: Sequence[ModelRule], draw: Callable[[], int] = lambda: 0) -> None:
        self._rules = tuple(rules)
        self._draw = draw
        self._scored: dict[int, _Scored] = {}
        self._awake_until: dict[int, float] = {}
        self._suspicious_until = -np.inf
        self._turn = 0
        self._rested = 0

    def ask(self, picture: bytes | memoryview, size: tuple[int, int], now: float, *, is_moved: bool = False) -> Asking:
        """What to ask about the track's next frame: 256x256 RGB of a frame of `size` (width, height), at `now` (s).

        One that `is_moved` shows what a frame beside it shows: it is shown to models only on suspicion.
        """
        self._turn = (self._turn + 1) % _TURNS
        self._rested = self._known(picture, size, now)
        return Asking(
            awake=sum(1 << place for place, until in self._awake_until.items() if now < until),
            rested=self._rested,
            is_suspicious=now < self._suspicious_until,
            turn=self._turn,
            draw=self._draw() & 0xFFFFFFFF,
            spares_all=is_moved and now >= self._suspicious_until,
        )

    def heard(
        self, picture: bytes | memoryview, size: tuple[int, int], inspection: Inspection, now: float
    ) -> Inspection:
        """Take in the answer to the last `ask`, and return it with the scores that were known already."""
        reused: list[ClassScore] = []
        for place, rule in enumerate(self._rules):
            use = next((one for one in inspection.model_uses if one.model == rule.name), None)
            if use is None:
                continue
            if use.is_reused and self._rested >> place & 1:
                reused += [replace(score, is_reused=True) for score in self._scored[place].scores]
            elif use.looks and rule.reuse_seconds > 0:
                scores = tuple(score for score in inspection.scores if score.model == rule.name)
                self._scored.pop(place, None)
                if scores and not use.left_out:  # what was not looked at whole is no answer to stand by
                    self._scored[place] = _Scored(picture, size, now, scores)
        self._rested = 0
        found = replace(inspection, scores=(*inspection.scores, *reused)) if reused else inspection
        self._take_calls(found.scores, now)
        return found

    def suspect(self, now: float) -> None:
        """Something speaks against the stream, a score that voted perhaps.

        Parts of its frames are worth a look for a while, and no score is used again: votes are looks of their own.
        """
        self._suspicious_until = now + SUSPICION_SECONDS
        self._scored.clear()

    def _known(self, picture: bytes | memoryview, size: tuple[int, int], now: float) -> int:
        """The models whose scores this picture has, as bits. Those that are too old to be any good are dropped."""
        known = 0
        same: dict[int, bool] = {}
        for place, scored in tuple(self._scored.items()):
            # Counted from when it was scored, and against what was scored then: a reuse prolongs and moves nothing.
            if not 0 <= now - scored.at < self._rules[place].reuse_seconds or scored.size != size:
                del self._scored[place]
                continue
            key = id(scored.picture)
            if key not in same:
                same[key] = is_same_picture(scored.picture, picture)
            if same[key]:
                known |= 1 << place
        return known

    def _take_calls(self, scores: Iterable[ClassScore], now: float) -> None:
        highest: dict[str, float] = {}
        for score in scores:
            name = f"{score.model}/{score.label}"
            highest[name] = max(score.score, highest.get(name, 0.0))
        for place, rule in enumerate(self._rules):
            if rule.after and rule.is_called(highest):
                self._awake_until[place] = now + SUSPICION_SECONDS
                self._suspicious_until = now + SUSPICION_SECONDS


def is_same_picture(scored: bytes | memoryview, picture: bytes | memoryview) -> bool:
    """Whether a picture shows what the one that was scored shows; both 256x256 RGB, uint8.

    True means: nowhere more than 4 levels from it on average over 8x8 pixels, and no pixel more than 24. Whoever fades
    in slowly or changes a corner leaves these bounds, since the picture that was scored stays where it was.
    """
    steps = cv2.absdiff(_rows(scored), _rows(picture))
    if int(steps.max()) > SAME_PIXEL_LEVELS:
        return False
    means = cv2.resize(steps, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
    return int(means.max()) <= SAME_BLOCK_LEVELS


def _rows(picture: bytes | memoryview) -> NDArray[np.uint8]:
    return np.frombuffer(picture, dtype=np.uint8).reshape(_SIDE, _SIDE, 3)


def in_order(rules: Sequence[ModelRule]) -> tuple[ModelRule, ...]:
    """The rules with every model behind those that it waits for, else as they were.

    Raises:
        ValueError: Two models wait for each other, or one for a model that is not there. One sentence.
    """
    names = {rule.name for rule in rules}
    for rule in rules:
        for name in rule.after:
            if name.partition("/")[0] not in names:
                raise ValueError(f"{rule.name} waits for {name}, and no such model is configured; name one that is")
    left, placed = list(rules), dict[str, ModelRule]()
    while left:
        ready = next((one for one in left if all(name.partition("/")[0] in placed for name in one.after)), None)
        if ready is None:
            stuck = " and ".join(rule.name for rule in left[:4])
            if len(left) == 1:
                raise ValueError(f"{stuck} waits for its own score and would never be asked; name another model's")
            raise ValueError(f"{stuck} would wait for each other for ever; let one of them look at every frame")
        placed[ready.name] = ready
        left.remove(ready)
    return tuple(placed.values())

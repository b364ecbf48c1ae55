"""Which GOPs are decoded whole though nothing about them is suspicious: pure. Randomness is passed in.

A publisher who knows this code can show something between two keyframes, and keep the sizes of his packets so even
that nothing points there. He cannot know where this looks.
"""

from collections.abc import Callable

_LEAST_SHARE = 1e-6
"""One GOP in a million is as good as none."""


class Bursts:
    """Chooses one GOP in each block of 1 / `share`, at a random place in it.

    A share that is not one over a whole number has blocks of two lengths, which average out. Drawing anew for each GOP
    would leave gaps of any length; this leaves none of two blocks or more, and whoever knows every choice so far knows
    no more of the next one than that it falls into what is left of its block.

    `draw` gives uniform numbers in [0, 1) that a publisher cannot foresee.
    """

    def __init__(self, share: float, draw: Callable[[], float]) -> None:
        self._share = share
        self._draw = draw
        self._to_come = 0
        self._place = 0
        self._owed = 0.0

    @property
    def share(self) -> float:
        """The share of GOPs that is chosen, 0 to 1."""
        return self._share

    def adjust(self, share: float) -> None:
        """Choose another share from the next GOP on: its first block begins there, so that a larger one acts at once.

        However often it changes, each GOP is chosen with the probability of the share then in force.
        """
        if share != self._share:
            self._share = share
            self._to_come, self._owed = 0, 0.0

    def chooses_next(self) -> bool:
        """Whether the GOP that begins now is decoded whole; to be asked once for each."""
        if self._share <= 0.0:
            return False
        if not self._to_come:
            self._begin_block()
        self._to_come -= 1
        return self._to_come == self._place

    def _begin_block(self) -> None:
        self._owed += 1.0 / max(self._share, _LEAST_SHARE)
        self._to_come = max(1, round(self._owed))
        self._owed -= self._to_come
        self._place = min(int(self._draw() * self._to_come), self._to_come - 1)

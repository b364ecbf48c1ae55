"""A wall clock that somebody sets."""

from detector.config.units import Duration
from detector.simulation.fault import Fault


class ClockStep(Fault):
    """The wall clock of alerts, incidents and delivery stands ahead by the amount, or behind; no other clock does."""

    name = "clock-step"
    usual = "1h"

    def take_amount(self, amount: str) -> None:
        """As `Fault.take_amount`; `-1h` sets the clock back."""
        is_back = amount.startswith("-")
        ms = Duration.parse(amount.removeprefix("-")).ms
        self._step_ms = -ms if is_back else ms

    def wall_step_ms(self) -> int:
        """As `Fault.wall_step_ms`."""
        return self._step_ms if self.is_on else 0

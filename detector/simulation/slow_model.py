"""Models that take their time."""

from dataclasses import asdict

from detector.analysis.pool import AnalysisPool
from detector.analysis.slowness import Slowness
from detector.config.config import Config
from detector.config.units import Duration
from detector.simulation.fault import Fault


class SlowModel(Fault):
    """Every look of every model takes longer by the amount."""

    name = "slow-model"
    usual = "500ms"

    def take_amount(self, amount: str) -> None:
        """As `Fault.take_amount`."""
        self._seconds = Duration.parse(amount).seconds

    def objection(self, config: Config) -> str | None:
        """As `Fault.objection`."""
        return None if config.models else "the config has no models; name one under models"

    def pool(self, pool: AnalysisPool) -> None:
        """As `Fault.pool`."""
        pool.slowness = asdict(Slowness(self._seconds, self.begins_at, self.ends_at))

"""The banks of a running service: what changes on disk is taken up, held to its budget, rebuilt, watched for floods."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from detector.analysis.pool import AnalysisPool, PoolSettings
from detector.analysis.setup import BANKS_FOLDER
from detector.banks.budget import BudgetWatch
from detector.banks.quarantine import Quarantine
from detector.banks.readings import Readings
from detector.banks.rebuilding import Rebuilds
from detector.banks.sources import BankSources
from detector.banks.watch import BankWatch
from detector.config.config import Config
from detector.events import Decision
from detector.exchanges.care import Exchanges
from detector.metrics import Metrics
from detector.settings import flood_settings
from detector.works import Work
from models.hashing.registry import refused_algorithms
from models.manifest import Manifest

log = structlog.get_logger()


class BankCare:
    """Looks after the banks in the `state_dir` of a config; `config` gives the one in force."""

    def __init__(
        self, pool: AnalysisPool, metrics: Metrics, manifests: Sequence[Manifest], config: Callable[[], Config]
    ) -> None:
        folder = config().state_dir / BANKS_FOLDER
        self._pool = pool
        self._manifests = tuple(manifests)
        self._config = config
        self._watch = BankWatch(folder)
        self._budget = BudgetWatch()
        self._quarantine = Quarantine(folder, metrics, lambda: flood_settings(config()))
        self._exchanges = Exchanges(config, metrics)
        self._sources = BankSources(folder)
        self._readings = Readings(folder)
        self._rebuilds = Rebuilds(folder, self._readings.confirm)

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (
            Work("banks", self._take_up),
            Work("bank_readings", self._take_up_read),
            Work("rebuilds", self._rebuilds.run),
            Work("quarantine", self._quarantine.run),
            *self._exchanges.works(),
            *self._sources.works(),
        )

    async def pool_settings(self, config: Config) -> PoolSettings:
        """What the analysis processes go by under a config, banks that have outgrown their budget held."""
        settings = await self._budget.pool_settings(config, self._manifests)
        return replace(settings, setup=replace(settings.setup, read_bases=self._readings.states()))

    def sound_bases(self) -> tuple[str, ...]:
        """Which long lists were read and found sound, by `models.shelves.state_of`."""
        return self._readings.states()

    def judge(self, decision: Decision, live_streams: int) -> Decision:
        """Hold entries that match many streams at once to reviews, and say from which lists the others come."""
        decision = self._quarantine.judge(decision, now=time.monotonic(), live_streams=live_streams)
        return self._sources.told(decision)

    def is_held(self, source: str) -> bool:
        """Whether `BANK/entry` is in quarantine, by what streams matched; other media count no streams."""
        return self._quarantine.holds(source)

    async def release(self, source: str) -> bool:
        """Take `BANK/entry` out of quarantine; False if it was not in it."""
        return await self._quarantine.release(source)

    def problems(self) -> list[str]:
        """One sentence for each bank, entry or hash that does not do what somebody expects."""
        return [
            *self._watch.problems(self._config().banks.keys() - self._exchanges.banks()),
            *self._exchanges.problems(),
            *self._readings.problems(),
            *self._quarantine.problems(),
            *refused_algorithms(),
        ]

    def notes(self) -> list[str]:
        """One sentence for each bank that is held to less than its config says, or whose list could not be had."""
        return [*self._budget.notes(), *self._exchanges.notes()]

    async def _take_up(self) -> None:
        async for _ in self._watch.changes():
            await asyncio.to_thread(self._sources.look)  # before the first match of what came
            self._pool.reconfigure(await self.pool_settings(self._config()))
            self._pool.reload_banks()
            self._readings.look_soon()
            await self._quarantine.look()
            log.info("banks.changed", banks=sorted(self._watch.names()))

    async def _take_up_read(self) -> None:
        async for _ in self._readings.changes():
            self._pool.reconfigure(await self.pool_settings(self._config()))

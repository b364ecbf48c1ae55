"""Hold before air: viewers get in only after so many clean samples of a publisher, or on the operator's written word.

Ingest servers ask `may_watch`, from memory, while a viewer waits; judges tell each sample that they looked at. What is
held is one publisher on one connection: whoever comes next under the same key is held anew.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from detector.config.config import Config
from detector.config.hold import HoldingSection
from detector.events import Observation, Step, StreamKey
from detector.policy import Verdict

log = structlog.get_logger()

Judged = Callable[[Observation, Verdict], None]

_SETTLE_SECONDS = 1.0
"""After somebody may have taken a key over, frames that arrive so soon may still be those of the publisher before."""


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """How many clean samples in a row clear a publisher, how long they may take, and what follows if they do not come.

    With `samples` 0 nobody waits; nor does anybody while `is_live` is False: then nothing is enforced.
    """

    samples: int = 0
    within_seconds: float = 10.0
    admits_on_doubt: bool = False
    is_live: bool = True


def hold_settings(config: Config) -> HoldSettings:
    """What a config says of holding; servers that ask nobody about viewers hold nobody."""
    section = config.ingest
    if not isinstance(section, HoldingSection):
        return HoldSettings()
    return HoldSettings(
        section.hold.samples, section.hold.within.seconds, section.hold.on_doubt == "admit", config.enforcement.live
    )


@dataclass(slots=True)
class _Held:
    """One publisher that was seen to begin."""

    connection: str
    since_at: float
    counts_from: float
    clean: int = 0
    is_cleared: bool = False


class Hold:
    """Who may be watched. A `ViewerGate`; `clock` is the one that frames arrive in, `name` a key's stream id."""

    def __init__(
        self,
        settings: HoldSettings,
        name: Callable[[StreamKey], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cleared_total = 0
        self.doubted_total = 0
        """Publishers that viewers were let in to without the clean samples, because `on_doubt` is `admit`."""
        self.settings = settings
        """In force; another one may be put in its place at any time."""
        self.is_exempt: Callable[[str], bool] = lambda _path: False
        """Whether viewers may watch `app/name` unseen: where nobody is cut either."""
        self._name = name
        self._clock = clock
        self._held: dict[StreamKey, _Held] = {}

    @property
    def is_shut(self) -> bool:
        """Whether viewers wait at all."""
        return self.settings.samples > 0 and self.settings.is_live

    def may_watch(self, key: StreamKey, connection: str | None = None) -> bool:
        """Whether viewers may see `key`: never while nobody is known to publish it, or somebody else does."""
        if not self.is_shut or self.is_exempt(key.path):
            return True
        held = self._held.get(key)
        if held is None or connection not in (None, held.connection):
            return False
        settings = self.settings
        is_late = self._clock() - held.since_at >= settings.within_seconds
        if not held.is_cleared and is_late and settings.admits_on_doubt:
            held.is_cleared = True
            self.doubted_total += 1
            log.warning("hold.doubted", stream=self._name(key), clean=held.clean, wanted=settings.samples)
        return held.is_cleared

    def publisher_comes(self, key: StreamKey) -> None:
        """Somebody is about to publish `key`: whoever is held or cleared now has to show clean samples anew."""
        held = self._held.get(key)
        if held is not None:
            now = self._clock()
            self._held[key] = _Held(held.connection, now, now + _SETTLE_SECONDS)

    def begin(self, key: StreamKey, connection: str) -> Judged:
        """A publisher is watched from now on; returns what hears of its judged samples."""
        held = self._held.get(key)
        if connection and (held is None or held.connection != connection):
            now = self._clock()
            self._held[key] = _Held(connection, now, now)
        return lambda observation, verdict: self._judged(key, connection, observation, verdict)

    def end(self, key: StreamKey, connection: str) -> None:
        """The publisher is not watched any more."""
        held = self._held.get(key)
        if held is not None and held.connection == connection:
            del self._held[key]

    def notes(self) -> list[str]:
        """What an operator should know, one sentence each."""
        settings, now = self.settings, self._clock()
        if settings.samples and not settings.is_live:
            return ["enforcement.live is false: ingest.hold keeps no viewer waiting"]
        held = [one for one in self._held.values() if not one.is_cleared]
        late = [one for one in held if now - one.since_at > settings.within_seconds]
        if not settings.samples or not late:
            return []
        sentence = (
            f"{len(late)} publishers have been held from viewers for more than {settings.within_seconds:g} s without "
            f"{settings.samples} clean samples in a row ('stopframe streams' shows what is seen of them)"
        )
        return [sentence]

    def _judged(self, key: StreamKey, connection: str, observation: Observation, verdict: Verdict) -> None:
        held = self._held.get(key)
        if held is None or held.is_cleared or held.connection != connection:
            return
        if observation.arrived_at < held.counts_from:
            return
        if verdict.weak_hit or any(signal.step >= Step.REVIEW for signal in verdict.signals):
            held.clean = 0
            return
        inspection = observation.inspection
        is_blank = verdict.is_low_information or not inspection.is_inspectable
        if is_blank or observation.is_corrupt or inspection.failed_models:
            return  # nothing was seen, which clears nobody and accuses nobody
        held.clean += 1
        if held.clean >= self.settings.samples > 0:
            held.is_cleared = True
            self.cleared_total += 1
            if self.is_shut:
                seconds = round(self._clock() - held.since_at, 3)
                log.info("hold.cleared", stream=self._name(key), seconds=seconds)

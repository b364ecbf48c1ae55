"""The self-test: once a minute a picture that must be found goes through every analysis process, and out over MQTT.

It fails where watching has silently ended: a process that answers nothing or always the same, a model that gives no
scores, always the same or others than its maker promised, a bank that is not in force, a policy that does not act, a
broker that takes no message.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from detector.alerts.clock import Clock
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.analysis.pool import AnalysisPool, FrameDropped
from detector.canary import SecretPicture, secret_picture
from detector.events import Observation, Step
from detector.instants import rfc3339
from detector.metrics import Metrics
from detector.model_check import CheckedModel, ModelChecks, ModelFault, told
from detector.policy import BankRule, History, PolicySettings, decide
from models.arrays import IndexCorrupt
from models.bank_store import CANARY_BANK, put_canary
from models.cascade import TEST, Asking
from models.evidence import Inspection

log = structlog.get_logger()

SCHEMA: Final = "stopframe/selftest/1"

_EVERY_SECONDS: Final = 60.0
_AFTER_MISS_SECONDS: Final = 15.0
"""A miss is tried again sooner: two of them are a problem, and both must lie within two minutes of the fault."""

_START_SECONDS: Final = 10.0
"""Of the first test: its processes may still be taking up large banks."""

_DISK_SECONDS: Final = 5.0
"""A disk that hangs holds a test up for so long; then the processes show whether the entry is in force."""

_LEAST_DEADLINE_SECONDS: Final = 2.0
_BROKER_SECONDS: Final = 10.0
_MISSES_TO_TELL: Final = 2

_POLICY: Final = PolicySettings(banks={CANARY_BANK: BankRule(step=Step.CUT)})


class SelfTestTopic(Protocol):
    """Where results go."""

    async def send_selftest(self, report: Mapping[str, Any]) -> Receipt:
        """Publish one result; raises `SinkUnavailable` where nobody answers."""


@dataclass(frozen=True, slots=True)
class Result:
    """One self-test: how many processes were asked, the slowest of them by stage (ms), and each fault in one clause.

    `model_faults` are those of models alone: the rest of the way is sound.
    """

    at_ms: int
    processes: int
    stages_ms: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    model_faults: tuple[ModelFault, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all was found that had to be found."""
        return not self.faults and not self.model_faults

    def message(self) -> dict[str, Any]:
        """As `selftest.schema.json` describes it."""
        return {
            "schema": SCHEMA,
            "at": rfc3339(self.at_ms),
            "ok": self.ok,
            "processes": self.processes,
            "stages_ms": dict(self.stages_ms),
            "why": "; ".join((*self.faults, *map(str, self.model_faults)))[:1000] or None,
        }


class SelfTest:
    """Tests the way of a frame at start and every minute, and says so when it is broken.

    Args:
        pool: Each of its processes is tested.
        secret: The deployment's; the pictures are derived from it.
        banks_dir: Where the canary's bank is put beside the users' banks.
        models: What each configured model must answer.
        topic: Where results go.
        metrics: Counts them.
        deadline_seconds: How long one frame may take, by the config in force; never less than 2 s.
    """

    def __init__(  # noqa: PLR0913 - by name; each is one thing that it tests or tells
        self,
        *,
        pool: AnalysisPool,
        secret: bytes,
        banks_dir: Path,
        models: Collection[CheckedModel],
        topic: SelfTestTopic,
        metrics: Metrics,
        deadline_seconds: Callable[[], float] = lambda: _LEAST_DEADLINE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self.last: Result | None = None
        self._pool = pool
        self._secret = hmac.digest(secret, b"stopframe self-test", "sha256")
        self._banks_dir = banks_dir
        self._checks = ModelChecks(models)
        self._topic = topic
        self._metrics = metrics
        self._deadline_seconds = deadline_seconds
        self._clock = clock or Clock()
        self._canary: SecretPicture | None = None
        self._putting: asyncio.Task[bool] | None = None
        self._entry_fault = ""
        self._is_told = False
        self._replaced: set[int] = set()
        self._misses = 0
        self._unsent = 0
        self._why_unsent = ""
        self._number = 0

    async def start(self) -> Result:
        """Put the canary's entry in force and test the processes that are warm. A failure is told at once."""
        self._canary = await asyncio.to_thread(secret_picture, self._secret, "canary")
        warm = [process for process in range(self._pool.workers) if self._pool.is_ready(process)]
        result = await self._test(warm, _START_SECONDS)
        self._note(result, is_start=True)
        return result

    async def run(self) -> None:
        """Publish the result of the start, then test every minute, for ever."""
        await self._send_first()
        while True:
            failed = self._misses or self._unsent
            await asyncio.sleep(_AFTER_MISS_SECONDS if failed else _EVERY_SECONDS)
            await self.test()

    async def test(self) -> Result:
        """Test every process once, note the result and publish it."""
        deadline_seconds = max(self._deadline_seconds(), _LEAST_DEADLINE_SECONDS)
        result = await self._test(range(self._pool.workers), deadline_seconds)
        self._note(result)
        await self._send(result)
        return result

    def problems(self) -> list[str]:
        """One sentence for each way that is broken."""
        found = []
        if self._is_told and self.last is not None:
            found += told(self.last.model_faults)
            why = "; ".join(self.last.faults)
            if why:
                what = f"the self-test fails: {why[:1000]}; streams may go unwatched"
                found.append(f"{what}, see the log and restart stopframe")
        if self._unsent >= _MISSES_TO_TELL:
            found.append(f"the self-test's result cannot be published: {self._why_unsent}; alerts go the same way")
        return found

    async def _test(self, processes: Iterable[int], deadline_seconds: float) -> Result:
        at_ms = self._clock.wall_ms()
        self._number += 1
        if self._canary is None:
            return Result(at_ms, 0, faults=("it has not been started",))
        await self._put_entry(self._canary)
        decoy = await asyncio.to_thread(secret_picture, self._secret, f"decoy {self._number}")
        asked = list(processes)
        answers = await asyncio.gather(
            *(self._ask(process, self._canary, decoy, deadline_seconds=deadline_seconds) for process in asked)
        )
        stages: dict[str, int] = {}
        faults = [] if asked else ["no analysis process is running"]
        of_models: list[ModelFault] = []
        for process, (seconds, found, broken) in zip(asked, answers, strict=True):
            faults += [f"analysis process {process} {fault}" for fault in found]
            of_models += broken
            for stage, taken in seconds.items():
                stages[stage] = max(stages.get(stage, 0), round(taken * 1000))
        if faults and self._entry_fault:  # alone it is none: what the processes took up before is in force
            faults.insert(0, f"the canary's bank cannot be written ({self._entry_fault}), see to its disk")
        return Result(at_ms, len(asked), stages, tuple(faults), tuple(of_models))

    async def _put_entry(self, canary: SecretPicture) -> None:
        """Have the canary's entry in force: a disk that was full at the start has room some day, and a bank is lost."""
        if self._putting is None:
            putting = asyncio.to_thread(put_canary, self._banks_dir, canary.fingerprint)
            self._putting = asyncio.create_task(putting, name="selftest.entry")
        done, _ = await asyncio.wait({self._putting}, timeout=_DISK_SECONDS)
        if not done:  # a thread that a disk holds cannot be ended: the next test looks at the same one
            self._note_entry("the disk does not answer")
            return
        ended, self._putting = self._putting, None
        had_fault = bool(self._entry_fault)
        try:
            is_new = ended.result()
        except (OSError, IndexCorrupt) as error:
            self._note_entry(getattr(error, "strerror", None) or type(error).__name__)
            return
        self._note_entry("")
        if is_new or had_fault:  # what failed may have got as far as the disk
            self._pool.reload_banks()

    def _note_entry(self, fault: str) -> None:
        if fault and not self._entry_fault:
            log.warning("selftest.no_entry", reason=fault)
        self._entry_fault = fault

    async def _ask(
        self, process: int, canary: SecretPicture, decoy: SecretPicture, *, deadline_seconds: float
    ) -> tuple[dict[str, float], list[str], list[ModelFault]]:
        """One process: it must find the canary, and must not find it in another picture of the same kind.

        Then each model must say of its own check picture what its maker promised. All of them go the way of a stream's
        frame, and each has the whole time of one: before each a stream's frame may be looked at.
        """
        began = time.monotonic()
        try:
            found = await self._show(canary, process, deadline_seconds)
            other = await self._show(decoy, process, deadline_seconds)
            checks = {
                model.name: await self._show(canary, process, deadline_seconds, model.asking)
                for model in self._checks.models
                if model.check is not None
            }
        except FrameDropped as dropped:
            why = "ended at the self-test's picture" if dropped.cause == "crash" else "did not answer in time"
            return {}, [why if self._pool.is_ready(process) or dropped.cause == "crash" else "is not running"], []
        faults = [*_canary_faults(canary, found), *_decoy_faults(decoy, other)]
        broken = list(self._checks.judge(process, found, other, checks))
        decided_at = time.monotonic()
        if not faults and not _acts_on(found, began):
            faults.append("found the canary, and the policy did not act on it")
        now = time.monotonic()
        looked = sum(sum(one.stage_seconds.values()) for one in (found, other, *checks.values()))
        seconds = dict(found.stage_seconds) | {"decide": now - decided_at, "total": now - began}
        return seconds | {"wait": max(0.0, decided_at - began - looked)}, faults, broken

    async def _show(
        self, picture: SecretPicture, process: int, deadline_seconds: float, asking: Asking = TEST
    ) -> Inspection:
        now = time.monotonic()
        return await self._pool.inspect_canary(
            picture.frame(now), process, deadline_at=now + deadline_seconds, asking=asking
        )

    def _note(self, result: Result, *, is_start: bool = False) -> None:
        self.last = result
        self._metrics.selftest(ok=result.ok, at_seconds=result.at_ms / 1000)
        self._misses = 0 if result.ok else self._misses + 1
        is_broken = not result.ok and (is_start or self._is_told or self._misses >= _MISSES_TO_TELL)
        if is_broken and not self._is_told:
            log.warning("selftest.failed", why=result.message()["why"])
        elif self._is_told and result.ok:
            log.info("selftest.recovered")
        self._is_told = is_broken
        self._replace({fault.process for fault in result.model_faults} if is_broken else set())

    def _replace(self, processes: set[int]) -> None:
        """Each once, until all is well: what memory spoiled, the file mends, which is read and verified anew."""
        for process in processes - self._replaced:
            self._pool.restart(process)
        self._replaced = self._replaced | processes if self._is_told else set()

    async def _send_first(self) -> None:
        """The broker's connection comes about while the service starts; from then on it has to be there."""
        if self.last is None:
            return
        give_up_at = time.monotonic() + _BROKER_SECONDS
        while True:
            await self._send(self.last, counts=time.monotonic() >= give_up_at)
            if not self._why_unsent or self._unsent:
                return
            await asyncio.sleep(0.25)

    async def _send(self, result: Result, *, counts: bool = True) -> None:
        try:
            receipt = await self._topic.send_selftest(result.message())
            # That nobody listens is no fault here: the message has been taken.
            self._why_unsent = "" if receipt in {Receipt.ACCEPTED, Receipt.NOBODY_LISTENS} else receipt.value
        except SinkUnavailable as error:
            self._why_unsent = str(error)
        if not self._why_unsent:
            self._unsent = 0
        elif counts:
            self._unsent += 1
            self._metrics.selftest_unsent()


def _canary_faults(canary: SecretPicture, inspection: Inspection) -> list[str]:
    if inspection.fingerprint != canary.fingerprint:
        return ["gave a wrong hash of the canary"]
    distances = [match.distance for match in inspection.matches if match.bank == CANARY_BANK]
    if not distances:
        return ["did not find the canary in its bank"]
    return [] if distances == [0] else [f"found the canary at a distance of {min(distances)} bits instead of 0"]


def _decoy_faults(decoy: SecretPicture, inspection: Inspection) -> list[str]:
    """A process that always gives one answer gives the right one for one picture at most."""
    if inspection.fingerprint != decoy.fingerprint:
        return ["gave a wrong hash of a second picture"]
    if any(match.bank == CANARY_BANK for match in inspection.matches):
        return ["found the canary in another picture"]
    return []


def _acts_on(inspection: Inspection, arrived_at: float) -> bool:
    observation = Observation("", "", 0, "", arrived_at, arrived_at, arrived_at, None, False, inspection)
    _, verdict = decide(_POLICY, History(), observation)
    return verdict.action is Step.CUT and verdict.signals[0].bank == CANARY_BANK

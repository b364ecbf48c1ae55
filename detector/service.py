"""The running service: what it does as long as it lives, and the view of it that HTTP and the socket show."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import structlog

from detector.allow_list import AllowList
from detector.analysis.setup import BANKS_FOLDER
from detector.api.view import (
    PREFIX_LENGTH,
    CutReport,
    Health,
    HintReport,
    HintRequest,
    IncidentRow,
    NoSuchIncident,
    NoSuchStream,
    NotNow,
    ReloadReport,
    StreamRow,
    UndoReport,
    ViewError,
    pick,
)
from detector.banks.care import BankCare
from detector.banks.incident import IncidentBank
from detector.config.config import Config
from detector.config.exposure import exposure_notes, warn_of_exposure
from detector.config_file import ConfigFile
from detector.events import Decision
from detector.exchanges.feedback_courier import FeedbackCourier
from detector.hints import TooManyHints
from detector.hold import hold_settings
from detector.ingest.adapter import IngestUnavailable
from detector.live_streams import Hearers, LiveStreams
from detector.model_check import checked_models
from detector.orphans import keep_reaping
from detector.overview import incident_row, load_state, model_state, sandbox_state, stream_row, versions
from detector.parts import Addresses, Parts
from detector.quiet_moments import keep_giving_back
from detector.reloader import Reloader
from detector.response import Responder
from detector.second_opinion import SecondOpinion, SecondOpinionParts
from detector.selftest import SelfTest
from detector.session import StreamSession
from detector.settings import (
    breaker_settings,
    enforcer_settings,
    incident_bank_settings,
    response_settings,
)
from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentNotFound, Incidents
from detector.store.retention import InUse
from detector.trust.commands import CommandDesk
from detector.trust.signing import public_key_text
from detector.upkeep import Upkeep
from detector.uploads.desk import Uploads
from detector.vitals import Sentences, Vitals
from detector.works import Work, Works
from models.manifest import describe_moderation

log = structlog.get_logger()

_UNDONE_LOOKED_FOR = 1000
"""Incidents of earlier runs that are looked through for those that were taken back."""
_DRAIN_SECONDS = 3.0


class Service:
    """A running service. Made by `open_service`; implements `detector.api.view.ServiceView`."""

    responder: Responder
    addresses: Addresses
    commands: CommandDesk
    uploads: Uploads

    def __init__(self, config: Config, parts: Parts, file: ConfigFile | None = None) -> None:
        self.config = config
        self.metrics = parts.metrics
        self.pool = parts.pool
        self.delivery = parts.delivery
        self._alarms = parts.alarms
        self.ingest = parts.ingest
        self.incident_store = Incidents(parts.database)
        self._banks = BankCare(parts.pool, parts.metrics, parts.manifests, lambda: self.config)
        self.incident_bank = IncidentBank(
            config.state_dir / BANKS_FOLDER,
            reload=parts.pool.reload_banks,
            metrics=parts.metrics,
            settings=lambda: incident_bank_settings(self.config),
            forget=self._forget_source,
        )
        self._moderation = describe_moderation(parts.manifests)
        self._distrust = parts.distrust
        self._signer = parts.keyring.signer
        self._sink = parts.sink
        self._enforcer = parts.enforcer
        self._rehearsal = parts.rehearsal
        self._allow = AllowList(lambda: self.config.enforcement.allow)
        self._hold = parts.hold
        self._identities = parts.identities
        self._hold.is_exempt = self._allow.covers
        self._feedback = FeedbackCourier(parts.database, lambda: self.config, parts.metrics)
        self._second = SecondOpinion(
            SecondOpinionParts(
                lambda: self.config.second_opinion, lambda: self.config.enforcement.live, self._hear, parts.metrics
            )
        )
        hearers = Hearers(self._respond, self._session_ended, self.incident_bank, self._second)
        self.live = LiveStreams(parts, lambda: self.config, hearers)
        self.supervisor = self.live.supervisor
        self._works = Works(())
        self._reloader = (
            Reloader(file, parts.manifests, parts.metrics, in_force=lambda: self.config, take=self.reconfigure)
            if file
            else None
        )
        self._database = parts.database
        self._upkeep = Upkeep(
            parts.database,
            lambda: self.config.keep.seconds,
            # Not the ingest server's word: without one, keys that were denied are denied still.
            InUse(self.live.in_use, parts.revocations.__contains__),
        )
        self.selftest = SelfTest(
            pool=parts.pool,
            secret=parts.credentials.deployment,
            banks_dir=config.state_dir / BANKS_FOLDER,
            models=checked_models(parts.manifests, [rule.name for rule in parts.pool.model_rules]),
            topic=parts.sink,
            metrics=parts.metrics,
            deadline_seconds=lambda: self.config.analysis.deadline.seconds,
        )
        self._vitals = Vitals(parts, health=self.health, live=self.live)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch streams, banks and health while the block lasts."""
        if self._moderation is not None:
            log.info("models.no_moderation", note=self._moderation)
        warn_of_exposure(self.config)
        with contextlib.suppress(StoreUnavailable):  # then it is in health, and such a stream asks for another undo
            for record in await self.incident_store.newest(_UNDONE_LOOKED_FOR):
                if record.undone_at_ms is not None:
                    self.incident_bank.exempt(record.stream_id)
        await self.selftest.start()  # a failure is told in health; the service starts, since part of it may still work
        async with Works(self._long_lived()) as self._works:
            yield
        await self.live.accounts.store_ended()

    def _long_lived(self) -> tuple[Work, ...]:
        """What runs for as long as the service does, a line each."""
        return (
            *self.live.works(),
            *self._banks.works(),
            Work("incident_bank", self.incident_bank.run),
            *self._second.works(),
            *self._feedback.works(),
            Work("health", self._vitals.run),
            Work("alarms", self._alarms.run),
            Work("upkeep", self._upkeep.run),
            *([Work("config", self._reloader.run)] if self._reloader else []),
            Work("selftest", self.selftest.run),
            Work("orphans", keep_reaping),
            Work("memory", lambda: keep_giving_back(lambda: any(self.live.all()))),
        )

    async def drain(self) -> None:
        """Bring to an end what was begun, for a few seconds: nothing new is watched, everything else goes on.

        What waits for its judgement gets it, then alerts leave and cuts are proved, side by side; readers still read,
        for a cut is only proved by the packets that do not come. What is left goes on at the next start.
        """
        self.supervisor.take_no_more()
        seconds = self.config.analysis.deadline.seconds  # frames that are older are dropped anyway
        await asyncio.gather(*(session.judge.finish(seconds) for session in self.live.all()))
        await self.responder.settle()
        left, _ = await asyncio.gather(self.delivery.drain(_DRAIN_SECONDS), self._enforcer.settle())
        if left:
            log.warning("service.alerts_left", count=left, note="they are on disk and go out at the next start")

    # What HTTP and the control socket show

    def health(self) -> Health:
        """As `ServiceView.health`."""
        problems, notes = self._said().gathered()
        return Health(
            ok=not problems,
            problems=tuple(problems),
            notes=tuple(notes),
            versions=versions(),
            sandbox=sandbox_state(self.config.sandbox, self.supervisor.sessions.values(), self.pool),
            signing={"key_id": self._signer.key_id, "public_key": public_key_text(self._signer.public_key)},
            models=model_state(self.pool),
            load=load_state(self.live.cpu, self.pool, self.metrics),
        )

    def _said(self) -> Sentences:
        """Who has a say in health, in the order in which it is shown."""
        return Sentences(
            problems=(
                self.pool.problems,
                self.delivery.problems,
                self.responder.refused,
                self._database.problems,
                self.live.accounts.problems,
                self.incident_bank.problems,
                self._banks.problems,
                self._works.problems,
                self.selftest.problems,
                self.ingest.problems,
                self.supervisor.problems,
            ),
            notes=(
                self._rehearsal.notes,
                self.delivery.notes,
                lambda: exposure_notes(self.config),
                self._banks.notes,
                self._hold.notes,
                self._second.notes,
                self._feedback.notes,
                self._identities.notes,
                lambda: self._allow.notes(session.key.path for session in self.supervisor.sessions.values()),
                self._distrust.notes,
                self.supervisor.notes,
                *([self._reloader.notes] if self._reloader else []),
                lambda: [self._moderation] if self._moderation is not None else [],
                lambda: [] if self.config.enforcement.live else ["enforcement.live is false: nothing is cut"],
            ),
            by_streams=self.live.shortfalls,
            live_streams=lambda: len(self.supervisor.sessions),
        )

    def http_token(self) -> str | None:
        """What opens the control API over TCP, from the config in force."""
        return self.config.http.token.reveal() if self.config.http.token else None

    def sound_bases(self) -> tuple[str, ...]:
        """As `BankCare.sound_bases`."""
        return self._banks.sound_bases()

    def is_whole(self) -> bool:
        """Whether every long-lived work is still at work."""
        return not self._works.problems()

    def status_line(self) -> str:
        """What `systemctl status` shows."""
        problems = self.health().problems
        streams = f"{len(self.supervisor.sessions)} streams"
        return f"{streams}; {len(problems)} problems, first: {problems[0]}" if problems else f"{streams}; no problem"

    def streams(self) -> list[StreamRow]:
        """As `ServiceView.streams`."""
        return [stream_row(session, self.live.cpu.standing(session)) for session in self.supervisor.sessions.values()]

    async def incidents(self, limit: int) -> list[IncidentRow]:
        """As `ServiceView.incidents`."""
        return [incident_row(record) for record in await self._read(self.incident_store.newest(limit))]

    async def cut(self, stream: str) -> CutReport:
        """As `ServiceView.cut`."""
        found = pick(stream, self.supervisor.sessions, NoSuchStream)
        session = self.supervisor.sessions[found]
        if session.trail is not None:
            session.trail.is_cut = True  # nobody needs protection from looking like it
        incident_id, outcome = await self.responder.cut_by_hand(self.live.facts(session))
        self._identities.deny(session.session, incident_id)
        time_to_cut = None
        with contextlib.suppress(IncidentNotFound, StoreUnavailable):
            time_to_cut = (await self.incident_store.get(incident_id)).time_to_cut_ms
        return CutReport(found, incident_id, outcome.state, outcome.count, time_to_cut, outcome.detail)

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        """As `ServiceView.hint`."""
        session = self.supervisor.sessions[pick(stream, self.supervisor.sessions, NoSuchStream)]
        try:
            self.live.cpu.hint(session, hint.score, hint.source, hint.reason, hint.lasts_seconds)
        except TooManyHints as error:
            raise NotNow(str(error)) from error
        return HintReport(session.stream_id, hint.score, hint.lasts_seconds)

    def sample_closer(self, stream: str, detect_within_seconds: float, lasts_seconds: float) -> None:
        """As `detector.trust.orders.Actor.sample_closer`."""
        found = pick(stream, self.supervisor.sessions, NoSuchStream)
        self.live.overrides.put(found, detect_within_seconds, lasts_seconds)
        log.info("sampling.closer", stream=found, detect_within=detect_within_seconds, seconds=lasts_seconds)

    async def undo(self, incident: str) -> UndoReport:
        """As `ServiceView.undo`."""
        if len(incident) < PREFIX_LENGTH:
            raise NoSuchIncident(f"an incident's identifier has at least {PREFIX_LENGTH} characters here; give more")
        try:
            record = await self._read(self.incident_store.get(incident))
        except IncidentNotFound as error:
            raise NoSuchIncident(str(error)) from error
        try:
            await self._enforcer.undo(record.key, stream_id=record.stream_id, incident_id=record.incident_id)
        except IngestUnavailable as error:
            raise ViewError(str(error)) from error
        self._identities.undo(record.incident_id)
        await self.incident_bank.withdraw(record.incident_id, record.stream_id)
        is_first = await self._read(self.incident_store.mark_undone(record.incident_id, time.time_ns() // 1_000_000))
        detail = "the key may publish again" if is_first else "it was taken back before; the key may publish"
        return UndoReport(record.incident_id, record.stream_id, is_restored=True, detail=detail)

    def is_held(self, source: str) -> bool:
        """As `BankCare.is_held`."""
        return self._banks.is_held(source)

    async def release(self, source: str) -> bool:
        """As `ServiceView.release`."""
        is_out = await self._banks.release(source)
        return await self.responder.release(source, self.live.facts_of) or is_out

    async def reload(self, file: str | None = None) -> ReloadReport:
        """As `ServiceView.reload`."""
        if self._reloader is None:
            raise ViewError("the service runs without a config file; start it again with -c FILE")
        if file is not None and not self._reloader.follows(Path(file)):
            raise ViewError(f"the service runs from another config file, {self._reloader.path}; name that with -c")
        return await self._reloader.reload()

    @property
    def around_reload(self) -> Callable[[], AbstractContextManager[None]]:
        """What holds while the config file is read again, for whoever supervises the service."""
        return nullcontext if self._reloader is None else self._reloader.around

    @around_reload.setter
    def around_reload(self, around: Callable[[], AbstractContextManager[None]]) -> None:
        if self._reloader is not None:
            self._reloader.around = around

    def reload_soon(self) -> None:
        """Reload without waiting for it; what comes of it is in the log and in health."""
        if self._reloader is None:
            log.warning("config.no_file", note="the service runs without a config file; there is nothing to reload")
        else:
            self._reloader.ask()

    async def reconfigure(self, config: Config) -> None:
        """Go by `config`, which must agree with the one in force wherever only a start takes a change up.

        Every part is told before anything else happens; readers whose job differs, or whose source is read elsewhere
        now, are replaced in turn afterwards.
        """
        response, breaker = response_settings(config), breaker_settings(config)
        self.pool.reconfigure(await self._banks.pool_settings(config))  # the one that may refuse
        self.config = config
        self._enforcer.reconfigure(enforcer_settings(config))
        self._hold.settings = hold_settings(config)
        self._identities.config = config
        self._sink.retain_ended(config.alerts.retain_ended.seconds)
        self.responder.reconfigure(response, breaker)
        self.commands.listen()
        await self.live.reconfigure()

    # What streams show, and what follows

    def _forget_source(self, source: str) -> None:
        self.responder.forget(source)

    def _session_ended(self, session: str) -> None:
        self.responder.session_ended(session)

    def cut_made(self, incident_id: str, session: str) -> None:
        """A session is cut because of what it showed: remember that."""
        self._identities.deny(session, incident_id)
        found = self.live.find(session)
        if found is not None and found.trail is not None:
            self.incident_bank.cut_made(incident_id, found.trail)

    async def _respond(self, session: StreamSession, decision: Any) -> None:
        judged = self._banks.judge(decision, len(self.supervisor.sessions))
        judged = self._allow.soften(judged, session.key.path)
        await self.responder.respond(judged, self.live.facts(session))

    async def _hear(self, decision: Decision) -> bool:
        """Somebody else judged a sample; False where its stream is gone."""
        session = self.supervisor.sessions.get(decision.stream_id)
        if session is None or session.session != decision.session:
            return False
        await self._respond(session, decision)
        return True

    async def _read(self, reading: Any) -> Any:
        try:
            return await reading
        except StoreUnavailable as error:
            raise ViewError(str(error)) from error

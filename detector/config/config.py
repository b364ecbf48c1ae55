"""The whole config: every section in the order in which a frame meets them, and what the service asks of it."""

import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from detector.config.alerts import AlertsSection
from detector.config.banks import BankSection
from detector.config.blind import BlindSection
from detector.config.crosscheck import Conflict, refuse
from detector.config.exchanges import ExchangeSection, exchange_conflicts
from detector.config.hma import HmaSection, hma_conflicts
from detector.config.identity import IdentitySection, identity_conflicts
from detector.config.ingest import ChosenByKind
from detector.config.matching import MatchingSection
from detector.config.models import ModelEntry, ModelSection
from detector.config.references import absolute_path
from detector.config.remote import remote_conflicts
from detector.config.sampling import SamplingSection, StreamSection, sampling_conflicts
from detector.config.second_opinion import SecondOpinionSection
from detector.config.sections import (
    AnalysisSection,
    ClassSection,
    EnforcementSection,
    HttpSection,
    IngestSection,
    LogSection,
    ReaderSection,
    Section,
    SourceSection,
    VotesSection,
    unreadable_sources,
)
from detector.config.trust import TrustSection
from detector.config.units import Between, Duration
from detector.config.uploads import UploadsSection, upload_conflicts
from detector.config.values import BankName, ClassName, EmptyMeansDefault, Name
from detector.config.wording import listed, nearest, shown
from detector.cpu.rationing import Rank, Risk
from detector.identity import Rule
from detector.ingest.embedded import EmbeddedSettings
from streams.job import SandboxMode
from streams.sampling import SamplingSettings

STATE_FOLDER_WITHOUT_HOME = Path("/var/lib/stopframe")
"""Where state lies for a user without a home folder, as in many containers."""


@dataclass(frozen=True, slots=True)
class CloserLook:
    """After a weak hit: one sample in each `interval_seconds`, for `hold_seconds`."""

    interval_seconds: float
    hold_seconds: float


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/stopframe`, else `~/.local/state/stopframe` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # the specification says to ignore a relative one
        return Path(base) / "stopframe"
    try:
        return Path.home() / ".local" / "state" / "stopframe"
    except RuntimeError:
        return STATE_FOLDER_WITHOUT_HOME


def default_node() -> str:
    """The host's name, reduced to letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", os.uname().nodename)[:64].strip("-") or "node"


class Config(Section):
    """Everything an operator may set."""

    state_dir: Annotated[Path, BeforeValidator(absolute_path)] = Field(default_factory=default_state_dir)
    """Folder of the database, the banks and the secrets; relative paths count from the config file."""
    node: Name = Field(default_factory=default_node)
    """What this node is called in topics and alerts; the host's name if it is not given."""
    keep: Annotated[Duration, Between("1d", "3650d")] = Duration.parse("30d")
    """How long incidents, their alerts and the accounts of streams are kept; the figures of each day stay for ever."""
    sandbox: SandboxMode = SandboxMode.PREFER
    """`require` refuses to start without the whole cage, `prefer` takes what the kernel gives, `off` has none."""
    log: Annotated[LogSection, EmptyMeansDefault()] = LogSection()
    """What the service logs."""
    ingest: Annotated[IngestSection, ChosenByKind(), EmptyMeansDefault()] = EmbeddedSettings()
    """The ingest server whose publishers are watched."""
    identity: Annotated[IdentitySection, EmptyMeansDefault()] = IdentitySection()
    """What names the account behind a publisher, whatever key it publishes."""
    sources: Annotated[tuple[SourceSection, ...], EmptyMeansDefault()] = ()
    """Streams watched by their URL. Nobody can be cut there: they only raise alerts."""
    reader: Annotated[ReaderSection, EmptyMeansDefault()] = ReaderSection()
    """Reading and decoding: one caged process per stream."""
    sampling: Annotated[SamplingSection, EmptyMeansDefault()] = SamplingSection()
    """Which frames are looked at."""
    streams: Annotated[tuple[StreamSection, ...], EmptyMeansDefault()] = ()
    """Other values for some streams: the first match wins and is merged over the defaults value by value."""
    blind: Annotated[BlindSection, EmptyMeansDefault()] = BlindSection()
    """What is done about a stream that cannot be seen, and when, for each cause."""
    analysis: Annotated[AnalysisSection, EmptyMeansDefault()] = AnalysisSection()
    """The processes that hash, match and classify frames."""
    models: tuple[ModelEntry, ...] = (ModelSection(name="standin-cards"),)
    """Models that look at frames: zoo names, paths, or a section for what runs one and when it is asked."""
    classes: Annotated[dict[ClassName, ClassSection], EmptyMeansDefault()] = Field(default_factory=dict)
    """What each class may do, by `model/label`; a class without a line is off."""
    banks: Annotated[dict[BankName, BankSection], EmptyMeansDefault()] = Field(default_factory=dict)
    """What the matches of each bank may do, by its name; a bank without a line is at step review."""
    exchanges: Annotated[tuple[ExchangeSection, ...], EmptyMeansDefault()] = ()
    """Lists that come from elsewhere, each into a bank of its own."""
    matching: Annotated[MatchingSection, EmptyMeansDefault()] = MatchingSection()
    """Matching frames against banks."""
    votes: Annotated[VotesSection, EmptyMeansDefault()] = VotesSection()
    """A class acts when k of a stream's last frames are over its threshold."""
    enforcement: Annotated[EnforcementSection, EmptyMeansDefault()] = EnforcementSection()
    """Cutting publishers."""
    alerts: Annotated[AlertsSection, EmptyMeansDefault()] = AlertsSection()
    """Telling others."""
    trust: Annotated[TrustSection, EmptyMeansDefault()] = TrustSection()
    """Whose signatures count."""
    http: Annotated[HttpSection, EmptyMeansDefault()] = HttpSection()
    """Health and metrics over HTTP."""
    uploads: Annotated[UploadsSection, EmptyMeansDefault()] = UploadsSection()
    """Files that are looked at before they are published."""
    hma: Annotated[HmaSection, EmptyMeansDefault()] = HmaSection()
    """Answering look-ups as HMA does."""
    second_opinion: Annotated[SecondOpinionSection, EmptyMeansDefault()] = SecondOpinionSection()
    """Asking an HMA elsewhere."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        conflicts = [
            *self._repeated(),
            *self._classes_without_model(),
            *self._taken_addresses(),
            *unreadable_sources(self.sources, self.reader),
            *sampling_conflicts(self.sampling, self.streams),
            *identity_conflicts(self.identity, self.streams),
            *hma_conflicts(self.hma, self.http),
            *remote_conflicts(self.enforcement, self.alerts, self.trust),
            *upload_conflicts(self.uploads, self.http),
            *exchange_conflicts(self.exchanges),
        ]
        if conflicts:
            raise refuse(*conflicts)
        return self

    def _repeated(self) -> Iterator[Conflict]:
        """Names and patterns that stand twice: the second would never be reached."""
        lists = (
            ("sources", "name", [source.name for source in self.sources]),
            ("streams", "match", [stream.match for stream in self.streams]),
            ("models", None, [model.reference for model in self.models]),
        )
        for section, key, values in lists:
            for place, value in enumerate(values):
                first = values.index(value)
                if first != place:
                    at = (section, place) if key is None else (section, place, key)
                    yield Conflict(at, f"{shown(value)} stands in {section}[{first}] already; give each once")

    def _classes_without_model(self) -> Iterator[Conflict]:
        """A class of a model that is not loaded would never fire. What a path's model is called stands in no config."""
        if any(model.name is None for model in self.models):
            return
        names = [model.reference for model in self.models]
        named: list[tuple[tuple[str | int, ...], str]] = [(("classes", name), name) for name in self.classes]
        named += [(("models", at, "after", name), name) for at, one in enumerate(self.models) for name in one.after]
        for place, name in named:
            model = name.partition("/")[0]
            if model not in names:
                near = nearest(model, names)
                meant = f", did you mean {near}" if near else ""
                known = listed(names) or "none"
                what = f"its model {shown(model)} is not under models ({known}){meant}; add it there"
                yield Conflict(place, what, concerns=(("models",),))

    def _taken_addresses(self) -> Iterator[Conflict]:
        taken = {}
        listens_on = self.ingest.listens_on
        if listens_on is not None and listens_on.port:  # any free port is nobody's
            taken[str(listens_on)] = "ingest.listen"
        mqtt = self.alerts.mqtt
        if mqtt.embedded_broker and mqtt.url.port:
            if mqtt.url.address in taken:
                yield _collision(("alerts", "mqtt", "url"), taken[mqtt.url.address])
            taken[mqtt.url.address] = "alerts.mqtt.url"
        if self.http.listen.port and str(self.http.listen) in taken:
            yield _collision(("http", "listen"), taken[str(self.http.listen)])

    def sampling_for(self, path: str) -> SamplingSettings:
        """How the stream `app/name` is sampled: the first matching `streams` line over the defaults."""
        section = self._sampling_section(path)
        return SamplingSettings(
            detect_within_seconds=section.detect_within.seconds,
            interval_seconds=min(section.interval, section.detect_within).seconds,
            mode=section.mode,
            burst_share=section.bursts.ratio,
            spikes=section.spikes,
        )

    def closer_look_for(self, path: str) -> CloserLook:
        """How the stream `app/name` is sampled after a weak hit; never less densely than before it."""
        section = self._sampling_section(path)
        interval = min(section.closer_interval, section.interval, section.detect_within)
        return CloserLook(interval_seconds=interval.seconds, hold_seconds=section.closer_hold.seconds)

    def rank_for(self, path: str) -> Rank:
        """Where the stream `app/name` stands when CPU time is short or more of it is wanted."""
        stream, section = self._stream_section(path), self._sampling_section(path)
        return Rank(
            risk=stream.risk if stream is not None else Risk.NORMAL,
            blind_burst_share=max(section.blind_bursts.ratio, section.bursts.ratio),
            hint_interval_seconds=min(section.hint_interval, section.interval, section.detect_within).seconds,
        )

    def identity_for(self, path: str) -> Rule:
        """What names the account behind a publisher of `app/name`."""
        stream = self._stream_section(path)
        return self.identity.by if stream is None or stream.identity is None else stream.identity

    def _sampling_section(self, path: str) -> SamplingSection:
        stream = self._stream_section(path)
        return self.sampling if stream is None else stream.sampling.over(self.sampling)

    def _stream_section(self, path: str) -> StreamSection | None:
        return next((stream for stream in self.streams if fnmatch.fnmatchcase(path, stream.match)), None)

    def bank(self, name: str) -> BankSection:
        """What the matches of a bank may do; a bank without a line is at step review."""
        return self.banks.get(name, BankSection())


def _collision(at: tuple[str, ...], other: str) -> Conflict:
    concern = tuple(other.split("."))
    # Where the ingest server listens rests on its kind too.
    concern = concern[:1] if concern[0] == "ingest" else concern
    return Conflict(at, f"is the address of {other} too; write another port", concerns=(concern,))

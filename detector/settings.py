"""What the parts of the service are told, from a config: at the start and at every reload alike."""

from collections.abc import Iterable, Iterator

from detector.backoff import ReconnectSettings
from detector.banks.flood import FloodSettings
from detector.banks.incident import IncidentBankSettings
from detector.breaker import BreakerSettings
from detector.config.config import Config
from detector.config.loading import config_digest
from detector.cpu.control import CpuLimits
from detector.enforcement import EnforcerSettings
from detector.events import Step, StreamKey
from detector.policy import BankRule, ClassRule, PolicySettings
from detector.response import ResponseSettings
from detector.session_settings import SessionSettings
from detector.supervisor import Watched
from models.bank_store import INCIDENT_BANK
from models.frame_shape import need_of_all
from models.manifest import Manifest
from streams.job import Job, SourceKind


def policy_settings(config: Config, *, is_staged: bool = True) -> PolicySettings:
    """The rules that a config states; not `is_staged` where there are no streams to roll a bank out on."""
    return PolicySettings(
        banks={
            name: BankRule(
                step=bank.step,
                max_distance=None if bank.max_distance == "auto" else bank.max_distance,
                min_quality=bank.min_quality,
                ratio=bank.ratio.ratio if is_staged else 1.0,
                plugins_may_cut=bank.plugins_may_cut,
            )
            for name, bank in config.banks.items()
        }
        | {INCIDENT_BANK: BankRule(step=config.enforcement.incident_bank.step)},
        classes={
            name: ClassRule(step=rule.step, review=rule.review, cut=rule.cut) for name, rule in config.classes.items()
        },
        votes_k=config.votes.k,
        votes_of=config.votes.of,
        live=config.enforcement.live,
    )


def incident_bank_settings(config: Config) -> IncidentBankSettings:
    """Whether what was cut is kept in mind, and how long."""
    bank = config.enforcement.incident_bank
    return IncidentBankSettings(is_on=bank.step is not Step.OFF, keep_seconds=bank.keep.seconds)


def reader_job(
    config: Config, path: str, kind: SourceKind, url: str, *, live: bool = True, manifests: Iterable[Manifest] = ()
) -> Job:
    """What a reader of `app/name` is told under a config; host and port are resolved later.

    `manifests` are those of the loaded models: some need the frame in its own shape.
    """
    need = need_of_all(manifest.model_info for manifest in manifests)
    return Job(
        kind=kind,
        url=url,
        port=0,
        live=live,
        sampling=config.sampling_for(path),
        sandbox=config.sandbox,
        max_pixels=config.reader.max_pixels,
        open_timeout_seconds=config.reader.open_timeout.seconds,
        read_timeout_seconds=config.reader.read_timeout.seconds,
        ring_limit_bytes=config.reader.ring_limit.bytes,
        memory_limit_bytes=config.reader.memory_limit.bytes,
        cpu_limit=config.reader.cpu_limit.ratio,
        ca_file=next(
            (str(source.ca_file) for source in config.sources if source.ca_file and source.url.value == url), ""
        ),
        allow_rtsp=config.reader.allow_rtsp,
        all_renditions=any(source.renditions == "all" for source in config.sources if source.url.value == url),
        shaped_short=need.short,
        shaped_long=need.long,
    )


def session_settings(
    config: Config, path: str, kind: SourceKind, url: str, manifests: Iterable[Manifest] = ()
) -> SessionSettings:
    """What the session of the stream `app/name` goes by, whose bytes come from `url`, beside these models."""
    return SessionSettings(
        job=reader_job(config, path, kind, url, manifests=manifests),
        closer_look=config.closer_look_for(path),
        deadline_seconds=config.analysis.deadline.seconds,
        policy=policy_settings(config),
        blind=config.blind.rules(),
        reconnect=ReconnectSettings(
            longest_seconds=config.reader.longest_pause.seconds,
            crash_limit=config.reader.crash_limit,
            crash_window_seconds=config.reader.crash_window.seconds,
            quarantine_seconds=config.reader.quarantine.seconds,
            longest_quarantine_seconds=config.reader.longest_quarantine.seconds,
        ),
        stall_after_seconds=config.reader.stall_after.seconds,
        rank=config.rank_for(path),
    )


def response_settings(config: Config) -> ResponseSettings:
    """How decisions are answered."""
    return ResponseSettings(
        expires_after_ms=round(config.alerts.expire_after.seconds * 1000),
        config_digest=config_digest(config),
        is_live=config.enforcement.live,
        cool_down_seconds=config.enforcement.incidents.cool_down.seconds,
        updates=config.enforcement.incidents.updates,
        is_cut_elsewhere=config.enforcement.where == "remote",
    )


def breaker_settings(config: Config) -> BreakerSettings:
    """How much one source may cut."""
    breaker = config.enforcement.breaker
    return BreakerSettings(
        breaker.cuts, breaker.share.ratio, breaker.window.seconds, incident_cuts=breaker.incident_cuts
    )


def flood_settings(config: Config) -> FloodSettings:
    """How many streams one entry may match."""
    flood = config.enforcement.flood
    return FloodSettings(flood.streams, flood.share.ratio, flood.window.seconds)


def enforcer_settings(config: Config) -> EnforcerSettings:
    """How long a cut may take."""
    return EnforcerSettings(deadline_seconds=config.enforcement.deadline.seconds)


def cpu_limits(config: Config) -> CpuLimits:
    """How much CPU time everything may take together, and what every stream keeps."""
    return CpuLimits(config.sampling.max_cpu.ratio, config.sampling.floor.seconds)


def watched_sources(config: Config) -> Iterator[Watched]:
    """The streams that are watched by their URL."""
    for source in config.sources:
        yield Watched(StreamKey("source", "source", source.name), source.kind, source.url.reveal())

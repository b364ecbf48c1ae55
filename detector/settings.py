"""What the parts of the service are told, from a config."""

from detector.config.config import Config
from detector.policy import BankRule, ClassRule, PolicySettings
from streams.job import Job, SourceKind


def policy_settings(config: Config) -> PolicySettings:
    """The rules that a config states."""
    return PolicySettings(
        banks={
            name: BankRule(step=bank.step, max_distance=bank.max_distance, min_quality=bank.min_quality)
            for name, bank in config.banks.items()
        },
        classes={
            name: ClassRule(step=rule.step, review=rule.review, cut=rule.cut) for name, rule in config.classes.items()
        },
        votes_k=config.votes.k,
        votes_of=config.votes.of,
        live=config.enforcement.live,
    )


def reader_job(config: Config, path: str, kind: SourceKind, url: str, *, live: bool = True) -> Job:
    """What a reader of `app/name` is told under a config; host and port are resolved later."""
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
        ca_file=next(
            (str(source.ca_file) for source in config.sources if source.ca_file and source.url.value == url), ""
        ),
        allow_rtsp=config.reader.allow_rtsp,
    )

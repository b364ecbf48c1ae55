"""What of a config others may see: secret files that are open to them, an HTTP port that they can reach. For health."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from pydantic import BaseModel

from detector.config.config import Config
from detector.config.references import Secret
from detector.redaction import SHORTEST_CHARACTERS

log = structlog.get_logger()

_told: set[str] = set()


def secrets_in(section: Any, key: str = "") -> Iterator[tuple[str, Secret]]:
    """Every secret that a config names, with its key."""
    if isinstance(section, Secret):
        yield key, section
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from secrets_in(getattr(section, name), f"{key}.{name}" if key else name)
    elif isinstance(section, Mapping):
        for name, value in section.items():
            yield from secrets_in(value, f"{key}.{name}")
    elif isinstance(section, tuple):
        for place, value in enumerate(section):
            yield from secrets_in(value, f"{key}[{place}]")


def exposure_notes(config: Config) -> list[str]:
    """What an operator should know about who can see or reach what, one sentence each."""
    found = secret_notes(config)
    if not is_loopback(config.http.listen.host):
        found.append(
            "http.listen can be reached from other machines and speaks no TLS; let a reverse proxy in front add it"
            if config.http.token
            else "http.listen can be reached from other machines: health, metrics and the hook are served there, "
            "the control API is not, since http.token is not set"
        )
        if config.hma.enabled and not config.hma.needs_token:
            found.append("hma.needs_token is false: whoever reaches http.listen may ask what the banks hold")
    return found


def secret_notes(config: BaseModel) -> list[str]:
    """Which secrets of any config others may read or guess, one sentence each."""
    return [sentence for _, sentence in _secret_faults(config)]


def warn_of_exposure(config: BaseModel) -> None:
    """Log secrets that others may read, each once in this process."""
    for key, sentence in _secret_faults(config):
        if key not in _told:
            _told.add(key)
            log.warning("secret.exposed", key=key, note=sentence)


def _secret_faults(config: BaseModel) -> Iterator[tuple[str, str]]:
    for key, secret in secrets_in(config):
        if secret.is_exposed:
            yield key, f"other users of this machine may read the secret {key}: run 'chmod 600 {secret.file}'"
        if secret.value is not None and len(secret.value) < SHORTEST_CHARACTERS:
            yield key, f"the secret {key} is so short that it cannot be kept out of texts: choose a longer one"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Two configs, part by part: what of the difference a running service takes up at once, what waits for a restart. Pure.

`difference(old, new)` gives the config that holds afterwards: the new one with the old values of everything that only
a start takes up. What holds is derived from that config exactly as at a start, so nobody has to remember what a change
touches.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from detector.config.blind import BlindCauseSection, BlindSection
from detector.config.config import Config
from detector.config.second_opinion import SecondOpinionSection
from detector.config.uploads import UploadsSection

Section = TypeVar("Section", bound=BaseModel)


NEEDS_RESTART: Final[Mapping[str, str]] = {
    "state_dir": "the database, the banks and the secrets are open there",
    "node": "the broker knows this node by its name",
    "sandbox": "the processes that run are in their cage already",
    "ingest": "publishers are connected there, or it is asked who is",
    "models": "the analysis processes load them before they enter their cage",
    "analysis.workers": "the processes are started together",
    "alerts.mqtt": "alerts are on their way through this connection",
    "alerts.jsonl": "alerts that are on disk wait for this file by its name",
    "alerts.webhook": "alerts that are on disk wait for this endpoint by its name",
    "alerts.second_channel": "alerts that are on disk wait for it",
    "enforcement.where": "cuts are under way there",
    "enforcement.cutter": "cuts are under way there",
    "http.listen": "the socket is open",
    "hma": "its routes are made together with the socket",
}
"""Keys, or groups of keys, that only a start takes up, and why."""

LIVE: Final = frozenset(
    {
        "keep",
        "log.level",
        "log.format",
        "identity.by",
        "identity.token",
        "identity.token_secret",
        "identity.required",
        "identity.forget",
        "identity.most_streams",
        "sources.*.name",
        "sources.*.url",
        "sources.*.format",
        "sources.*.renditions",
        "sources.*.ca_file",
        "reader.memory_limit",
        "reader.ring_limit",
        "reader.max_pixels",
        "reader.cpu_limit",
        "reader.open_timeout",
        "reader.read_timeout",
        "reader.allow_rtsp",
        "reader.stall_after",
        "reader.longest_pause",
        "reader.crash_limit",
        "reader.crash_window",
        "reader.quarantine",
        "reader.longest_quarantine",
        "sampling.detect_within",
        "sampling.interval",
        "sampling.mode",
        "sampling.bursts",
        "sampling.spikes",
        "sampling.closer_interval",
        "sampling.closer_hold",
        "sampling.hint_interval",
        "sampling.blind_bursts",
        "sampling.max_cpu",
        "sampling.floor",
        "streams.*.match",
        "streams.*.sampling.detect_within",
        "streams.*.sampling.interval",
        "streams.*.sampling.mode",
        "streams.*.sampling.bursts",
        "streams.*.sampling.spikes",
        "streams.*.sampling.closer_interval",
        "streams.*.sampling.closer_hold",
        "streams.*.sampling.hint_interval",
        "streams.*.sampling.blind_bursts",
        "streams.*.risk",
        "streams.*.identity",
        "analysis.deadline",
        "analysis.queue",
        "analysis.model_timeout",
        "classes.*.step",
        "classes.*.review",
        "classes.*.cut",
        "banks.*.kind",
        "banks.*.step",
        "banks.*.max_distance",
        "banks.*.min_quality",
        "banks.*.ratio",
        "banks.*.plugins_may_cut",
        "banks.*.disable_until",
        "exchanges.*.name",
        "exchanges.*.kind",
        "exchanges.*.bank",
        "exchanges.*.url",
        "exchanges.*.path",
        "exchanges.*.username",
        "exchanges.*.password",
        "exchanges.*.token",
        "exchanges.*.function_key",
        "exchanges.*.subscription_key",
        "exchanges.*.collection",
        "exchanges.*.every",
        "exchanges.*.stale_after",
        "exchanges.*.most_rows",
        "exchanges.*.most_change",
        "exchanges.*.ca_file",
        "exchanges.*.feedback",
        "exchanges.*.feedback_key",
        "exchanges.*.feedback_reason",
        "matching.false_matches_per_day",
        "matching.streams",
        "matching.budget",
        "matching.tiers",
        "votes.k",
        "votes.of",
        "enforcement.live",
        "enforcement.deadline",
        "enforcement.deny_identity_for",
        "enforcement.breaker.cuts",
        "enforcement.breaker.share",
        "enforcement.breaker.window",
        "enforcement.breaker.incident_cuts",
        "enforcement.flood.streams",
        "enforcement.flood.share",
        "enforcement.flood.window",
        "enforcement.incidents.cool_down",
        "enforcement.incidents.updates",
        "enforcement.incident_bank.step",
        "enforcement.incident_bank.keep",
        "enforcement.allow.*.match",
        "enforcement.allow.*.until",
        "enforcement.allow.*.reason",
        "alerts.expire_after",
        "alerts.coverage_every",
        "alerts.retain_ended",
        "trust.trusted_keys.*.name",
        "trust.trusted_keys.*.public_key",
        "trust.trusted_keys.*.may",
        "trust.trusted_keys.*.until",
        "http.token",
        *(f"second_opinion.{key}" for key in SecondOpinionSection.model_fields),
        *(f"uploads.{key}" for key in UploadsSection.model_fields),
        *(f"blind.{cause}.{key}" for cause in BlindSection.model_fields for key in BlindCauseSection.model_fields),
    }
)
"""Keys that running parts take up. One that stands in neither list is treated as one that needs a restart."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of a new config: what holds afterwards, and the keys that changed in it or wait for a restart."""

    in_force: Config
    applied: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def difference(old: Config, new: Config) -> Changes:
    """Compare what holds with what a file says."""
    new = _with_password_in_use(old, new)
    in_force = merged(old, new, LIVE)
    if old.models != new.models:
        # The models that run keep their rules until the restart that ends them: else nothing would act on their scores.
        in_force = in_force.model_copy(update={"classes": {**old.classes, **new.classes}})
    return Changes(
        in_force=in_force,
        applied=tuple(changed_keys(old, in_force)),
        waiting=tuple(changed_keys(in_force, new)),
    )


def _with_password_in_use(old: Config, new: Config) -> Config:
    """`new` without a change of what a broker's password file holds: each connection reads that file by itself."""
    before, after = old.alerts.mqtt.password, new.alerts.mqtt.password
    if before is None or after is None or before.file is None or before.file != after.file:
        return new
    mqtt = new.alerts.mqtt.model_copy(update={"password": before})
    return new.model_copy(update={"alerts": new.alerts.model_copy(update={"mqtt": mqtt})})


def leaf_patterns(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key that holds a value, as a pattern; a group that only a start takes up stands for all that is in it."""
    for name, field in section.model_fields.items():
        pattern = f"{prefix}{name}"
        inner, is_repeated = _sections_in(field.annotation)
        if inner is None or pattern in NEEDS_RESTART:
            yield pattern
        else:
            yield from leaf_patterns(inner, f"{pattern}.*." if is_repeated else f"{pattern}.")


def _sections_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it holds many."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in getattr(annotation, "__args__", ()):
        inner, _ = _sections_in(argument)
        if inner is not None:
            return inner, getattr(annotation, "__origin__", None) in (tuple, dict)
    return None, False


def merged(old: Section, new: Section, live: Collection[str], prefix: str = "") -> Section:
    """`new` with the values of `old` in every key whose pattern is not in `live`: what only a start takes up."""
    values = {}
    for name in type(new).model_fields:
        before, after, pattern = getattr(old, name), getattr(new, name), f"{prefix}{name}"
        inner, is_repeated = _sections_in(type(new).model_fields[name].annotation)
        if inner is not None and pattern not in NEEDS_RESTART:
            # What is repeated has no old self to keep a value of: it is taken whole.
            is_mergeable = not is_repeated and type(before) is type(after)
            values[name] = merged(before, after, live, f"{pattern}.") if is_mergeable else after
        else:
            values[name] = after if pattern in live else before
    return new.model_copy(update=values)


def changed_keys(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The keys in which two configs differ, as an operator writes them; what came or went is named as a whole."""
    if old == new:
        return
    if isinstance(old, BaseModel) and type(old) is type(new):
        for name in type(old).model_fields:
            yield from changed_keys(getattr(old, name), getattr(new, name), f"{prefix}.{name}" if prefix else name)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from changed_keys(old.get(name), new.get(name), f"{prefix}.{name}")
    elif prefix == "sources":
        yield from changed_keys({each.name: each for each in old}, {each.name: each for each in new}, prefix)
    else:
        yield prefix

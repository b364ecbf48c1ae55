"""What an alert says: the payload `stopframe/alert/1`, built from facts and passed-in time. Pure."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, unique
from importlib.resources import files
from typing import Any, Final, Self

from detector.alerts.urgency import Urgency
from detector.events import Decision, Signal, Step
from detector.instants import rfc3339

ALERT_SCHEMA: Final = "stopframe/alert/1"

PAYLOAD_LIMIT_BYTES: Final = 4096
"""No alert is longer: small brokers and embedded consumers can rely on it."""

_TEXT_LIMIT_BYTES: Final = 96
_ENTRY_LIMIT_BYTES: Final = 200
"""Whole names of entries, since commands take them as they are: no bank has a longer one."""

_SOURCE_LIMIT_BYTES: Final = 265
"""A bank's name of 64 characters, a slash, an entry's."""

_CAUSES_LIMIT: Final = 8
_LARGEST_SEQ: Final = 2**53 - 1
"""Beyond it JSON's numbers are not exact everywhere, and have no canonical form."""

Sign = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns an object with what says who wrote it: `node`, `key_id` and `sig`. The same object, the same signature."""


def unsigned(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object as it is, for what never leaves the process."""
    return dict(body)


@unique
class AlertType(StrEnum):
    """Where in its incident an alert stands."""

    OPEN = "open"
    UPDATE = "update"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class WallAnchor:
    """One instant read on both clocks: turns monotonic seconds of this machine into wall-clock milliseconds."""

    monotonic_seconds: float
    wall_ms: int

    def wall_ms_of(self, monotonic_seconds: float) -> int:
        """Return the wall-clock milliseconds of a monotonic instant, as the wall clock stood at the anchor."""
        return self.wall_ms + round((monotonic_seconds - self.monotonic_seconds) * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFacts:
    """All that an alert tells. Times are monotonic seconds; None where there was no frame (a blind stream).

    `coverage` holds `seen_s` and `max_gap_s` as numbers, `skipped_s` and `blind_s` as numbers by cause.
    """

    stream_id: str
    session: str
    signals: tuple[Signal, ...]
    votes: tuple[int, int]
    action: Step
    is_live: bool
    config_digest: str
    alert_type: AlertType = AlertType.OPEN
    incident_id: str | None = None
    refused_by: str | None = None
    sampling_reason: str | None = None
    captured_at: float | None = None
    arrived_at: float | None = None
    decoded_at: float | None = None
    scored_at: float | None = None
    coverage: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of_decision(
        cls,
        decision: Decision,
        *,
        config_digest: str,
        alert_type: AlertType = AlertType.OPEN,
        incident_id: str | None = None,
        coverage: Mapping[str, float | Mapping[str, float]] | None = None,
    ) -> Self:
        """Return the facts of a decision; one about a blind stream has no frame and no times."""
        seen = decision.observation
        return cls(
            stream_id=decision.stream_id,
            session=decision.session,
            signals=decision.signals,
            votes=decision.votes,
            action=decision.action,
            is_live=decision.is_live,
            config_digest=config_digest,
            alert_type=alert_type,
            incident_id=incident_id,
            refused_by=decision.refused_by,
            sampling_reason=seen.reason if seen else None,
            arrived_at=seen.arrived_at if seen else None,
            decoded_at=seen.decoded_at if seen else None,
            scored_at=seen.scored_at if seen else None,
            coverage=coverage or {},
        )


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that only lacks its number; the outbox gives it that in the transaction that stores it."""

    alert_id: str
    stream_id: str
    incident_id: str | None
    is_cut: bool
    expires_at_ms: int
    body: Mapping[str, Any] = field(repr=False)
    sign: Sign = field(default=unsigned, repr=False)

    @property
    def urgency(self) -> Urgency:
        """What goes first where many wait."""
        if self.body["mode"] != "live":
            return Urgency.SHADOW
        if self.is_cut:
            return Urgency.CUT
        return Urgency.REFUSED_CUT if "refused_by" in self.body else Urgency.REVIEW

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        """Return the payload, signed: UTF-8 JSON of at most `PAYLOAD_LIMIT_BYTES`.

        `seq` is None where no disk counted it.
        """
        return _encode(self.sign({**self.body, "seq": seq, "durable": durable}))


def build_alert(
    facts: AlertFacts,
    *,
    alert_id: str,
    anchor: WallAnchor,
    queued_at: float,
    expires_after_ms: int,
    sign: Sign = unsigned,
) -> Alert:
    """Return the alert that tells these facts, its signals cut to what fits (the rest is counted).

    Args:
        facts: what happened.
        alert_id: from `uuid7`; stays the same however often the alert is sent.
        anchor: the clocks' relation, taken close to now.
        queued_at: now, monotonic seconds.
        expires_after_ms: after this long nobody needs the alert any more.
        sign: what it is signed with when it gets its number.

    Raises:
        ValueError: `facts.action` is `off`.
    """
    if facts.action is Step.OFF:
        raise ValueError("an alert asks for a review or a cut; a bank or class that is off gives none")
    expires_at_ms = anchor.wall_ms_of(queued_at) + expires_after_ms
    is_cut = facts.action is Step.CUT
    body: dict[str, Any] = {
        "schema": ALERT_SCHEMA,
        "alert_id": alert_id,
        "type": facts.alert_type.value,
        "stream": _text(facts.stream_id),
        "session": _text(facts.session),
        "signals": [],
        "signals_left_out": 0,
        "votes": {"n": facts.votes[0], "of": facts.votes[1]},
        "action": "cut" if is_cut else "review",
        "mode": "live" if facts.is_live and facts.action > Step.SHADOW else "shadow",
        "times": _times(facts, anchor, queued_at),
        "latency_ms": _latency_ms(facts, queued_at),
        "coverage": told_coverage(facts.coverage),
        "provenance": _provenance(facts),
        "expires_at": rfc3339(expires_at_ms),
    }
    if facts.incident_id is not None:
        body["incident_id"] = _text(facts.incident_id)
    if facts.refused_by is not None:
        body["refused_by"] = _text(facts.refused_by, _SOURCE_LIMIT_BYTES)
    _fill_signals(body, facts.signals, PAYLOAD_LIMIT_BYTES - len(_encode(sign({}))))
    return Alert(alert_id, facts.stream_id, facts.incident_id, is_cut, expires_at_ms, body, sign)


def uuid7(wall_ms: int, randomness: bytes) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7) from milliseconds since the epoch and 10 random bytes."""
    if len(randomness) != 10 or not 0 <= wall_ms < 1 << 48:
        raise ValueError("a UUIDv7 is made of 48 bits of milliseconds and 10 random bytes")
    raw = bytearray(wall_ms.to_bytes(6) + randomness)
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def alert_schema() -> dict[str, Any]:
    """Return the JSON Schema of the payload, as shipped."""
    schema: dict[str, Any] = json.loads(files("detector.alerts").joinpath("alert.schema.json").read_text("utf-8"))
    return schema


def _fill_signals(body: dict[str, Any], signals: Sequence[Signal], limit_bytes: int) -> None:
    """Add the strongest signals first, as many as fit."""
    strongest_first = sorted(signals, key=lambda signal: -signal.step)
    body["signals_left_out"] = len(strongest_first)
    for signal in strongest_first:
        body["signals"].append(_signal(signal))
        # The number is not known yet: the longest possible one must fit as well.
        if len(_encode({**body, "seq": _LARGEST_SEQ, "durable": False})) > limit_bytes:
            body["signals"].pop()
            return
        body["signals_left_out"] -= 1


def _signal(signal: Signal) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": signal.kind, "name": _text(signal.name), "step": signal.step.word}
    optional: dict[str, Any] = {
        "bank": _text(signal.bank),
        "entry": _text(signal.entry, _ENTRY_LIMIT_BYTES),
        "source": _text(signal.exchange),
        "version": _text(signal.version),
        "opinion": signal.opinion,
        "score": _number(signal.score),
        "distance": signal.distance,
        "frames": signal.frames,
        "threshold": _number(signal.threshold),
        "view": _text(signal.view),
        "quality": signal.quality,
        "second_test": _second_test(signal),
        "expected_false": _significant(signal.expected_false),
        "reused": True if signal.is_reused else None,
        "would": signal.reaches.word if signal.step is Step.SHADOW < signal.reaches else None,
    }
    return told | {name: value for name, value in optional.items() if value is not None}


def _second_test(signal: Signal) -> dict[str, Any] | None:
    test = signal.second_test
    if test is None:
        return None
    return {"kind": test.kind, "value": _number(test.measured), "limit": _number(test.limit)}


def _times(facts: AlertFacts, anchor: WallAnchor, queued_at: float) -> dict[str, str]:
    instants = {
        "captured": facts.captured_at,
        "arrived": facts.arrived_at,
        "decoded": facts.decoded_at,
        "scored": facts.scored_at,
        "queued": queued_at,
    }
    return {name: rfc3339(anchor.wall_ms_of(at)) for name, at in instants.items() if at is not None}


def _latency_ms(facts: AlertFacts, queued_at: float) -> dict[str, int]:
    spans = {
        "decode": (facts.arrived_at, facts.decoded_at),
        "score": (facts.decoded_at, facts.scored_at),
        "queue": (facts.scored_at, queued_at),
        "total": (facts.arrived_at, queued_at),
    }
    return {
        name: max(0, round((end - start) * 1000))
        for name, (start, end) in spans.items()
        if start is not None and end is not None
    }


def told_coverage(coverage: Mapping[str, float | Mapping[str, float]]) -> dict[str, Any]:
    """Return an account as payloads tell it, of its causes the largest."""
    told: dict[str, Any] = {}
    for name in ("seen_s", "skipped_s", "blind_s", "max_gap_s"):
        value = coverage.get(name)
        if isinstance(value, Mapping):
            told[name] = _largest_causes(value)
        elif value is not None:
            told[name] = _number(value)
    return told


def _largest_causes(seconds_by_cause: Mapping[str, float]) -> dict[str, float]:
    largest = sorted(seconds_by_cause.items(), key=lambda item: -item[1])
    told = {str(_text(cause)): round(seconds, 3) for cause, seconds in largest[:_CAUSES_LIMIT]}
    rest = sum(seconds for _, seconds in largest[_CAUSES_LIMIT:])
    return told | {"other": round(told.get("other", 0.0) + rest, 3)} if rest else told


def _provenance(facts: AlertFacts) -> dict[str, Any]:
    """Name what the strongest signals came from: the model and what ran it, the list's generation."""
    strongest_first = sorted(facts.signals, key=lambda signal: -signal.step)
    of_model = next((s for s in strongest_first if s.model_sha256), None)
    return {
        "model": _text(of_model.name.partition("/")[0]) if of_model else None,
        "model_sha256": _text(of_model.model_sha256) if of_model else None,
        "provider": _text(of_model.provider) if of_model else None,
        "precision": _text(of_model.precision) if of_model else None,
        "list_version": _text(next((s.generation for s in strongest_first if s.generation), None)),
        "config_digest": _text(facts.config_digest),
        "sampling_reason": _text(facts.sampling_reason),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def _significant(value: float | None) -> float | None:
    """Three digits: chances are small numbers, whose order is all that matters."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")


def _text(value: str | None, most_bytes: int = _TEXT_LIMIT_BYTES) -> str | None:
    """Shorten a name to what every payload has room for; control characters and halves of characters go."""
    if value is None:
        return None
    clean = "".join(c if c.isprintable() else "?" for c in value[:most_bytes])
    return clean.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")

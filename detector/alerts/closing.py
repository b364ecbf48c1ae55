"""The last alert of an incident, of type `close`: how it ended. Pure; it asks nobody for anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.alerts.alert import ALERT_SCHEMA, Alert, AlertType, Sign, told_coverage, unsigned
from detector.events import CutState, Step
from detector.instants import rfc3339


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an incident ended. `ended` is cut, left or restart; `confirmed_by` service or cutter; times in Unix ms."""

    incident_id: str
    stream_id: str
    session: str
    action: Step
    is_live: bool
    ended: str
    cut: CutState
    opened_at_ms: int
    confirmed_by: str = "service"
    refused_by: str | None = None
    gone_at_ms: int | None = None
    confirmed_at_ms: int | None = None
    time_to_cut_ms: int | None = None
    updates: int = 0
    sessions: int = 1
    coverage: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)


def build_closing(
    outcome: Outcome, *, alert_id: str, at_ms: int, expires_after_ms: int, config_digest: str, sign: Sign = unsigned
) -> Alert:
    """Return the alert. Its `action` is `none`, whatever was done: who cuts by `action` must not cut again."""
    told: dict[str, Any] = {
        "action": (outcome.action if outcome.action > Step.OFF else Step.SHADOW).word,
        "ended": outcome.ended,
        "cut": outcome.cut.value,
        "opened_at": rfc3339(outcome.opened_at_ms),
        "updates": outcome.updates,
        "sessions": outcome.sessions,
    }
    if outcome.cut is CutState.CONFIRMED:
        told["confirmed_by"] = outcome.confirmed_by
    for name, instant in (("gone_at", outcome.gone_at_ms), ("confirmed_at", outcome.confirmed_at_ms)):
        if instant is not None:
            told[name] = rfc3339(instant)
    if outcome.time_to_cut_ms is not None:
        told["time_to_cut_ms"] = outcome.time_to_cut_ms
    body: dict[str, Any] = {
        "schema": ALERT_SCHEMA,
        "alert_id": alert_id,
        "type": AlertType.CLOSE.value,
        "incident_id": outcome.incident_id,
        "stream": outcome.stream_id,
        "session": outcome.session,
        "signals": [],
        "signals_left_out": 0,
        "votes": {"n": 0, "of": 0},
        "action": "none",
        "mode": "live" if outcome.is_live else "shadow",
        "outcome": told,
        "times": {"queued": rfc3339(at_ms)},
        "latency_ms": {},
        "coverage": told_coverage(outcome.coverage),
        "provenance": {
            **dict.fromkeys(("model", "model_sha256", "provider", "precision", "list_version", "sampling_reason")),
            "config_digest": config_digest,
        },
        "expires_at": rfc3339(at_ms + expires_after_ms),
    }
    if outcome.refused_by is not None:
        body["refused_by"] = outcome.refused_by[:265]
    return Alert(alert_id, outcome.stream_id, outcome.incident_id, False, at_ms + expires_after_ms, body, sign)

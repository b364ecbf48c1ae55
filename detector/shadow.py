"""What shadow mode would have done, from the alerts that it sent: the same breaker, the same order. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from detector.allow_list import REFUSED_BY
from detector.breaker import Breaker, BreakerSettings
from detector.events import Decision, Signal, Step

EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Told:
    """One alert as it was sent: `signals` with their steps, `at_seconds` when it was queued."""

    at_seconds: float
    incident_id: str
    stream_id: str
    session: str
    action: Step
    signals: tuple[Signal, ...]
    refused_by: str | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any], at_seconds: float) -> "Told | None":
        """Read an alert's payload; None for one that asks for nothing, as one of type close."""
        if body.get("action") not in {"review", "cut"}:
            return None
        return cls(
            at_seconds,
            str(body.get("incident_id", "")),
            body["stream"],
            body["session"],
            Step.CUT if body["action"] == "cut" else Step.REVIEW,
            tuple(_signal(one) for one in body["signals"]),
            body.get("refused_by"),
        )


@dataclass(frozen=True, slots=True)
class WouldCut:
    """A cut that live mode would have made."""

    at_seconds: float
    stream_id: str
    session: str
    incident_id: str
    sources: tuple[str, ...]


@dataclass(slots=True)
class Group:
    """One bank, or one class of a model. `cuts` and `reviews` by stream; `would_cut`: at step cut, of what is a shadow.

    `examples` are the earliest: time, incident, stream, entry.
    """

    name: str
    cuts: set[str] = field(default_factory=set)
    reviews: set[str] = field(default_factory=set)
    would_cut: set[str] = field(default_factory=set)
    entries: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[float, str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class ShadowReport:
    """What would have been: cuts in their order, reviews by stream, what breaker and allow-list held back."""

    cuts: list[WouldCut] = field(default_factory=list)
    reviewed: set[str] = field(default_factory=set)
    breaker_refused: dict[str, set[str]] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)
    held: Counter[str] = field(default_factory=Counter)
    """Streams that something else kept from being cut, by what."""
    groups: dict[str, Group] = field(default_factory=dict)


def replay(alerts: Iterable[Told], breaker: BreakerSettings, live_streams: Callable[[float], int]) -> ShadowReport:
    """Go through the alerts in the order in which they were sent as live mode would have.

    Who would have been cut is gone, and his key denied: nothing that came of that stream later counts.
    """
    report, judge = ShadowReport(), Breaker(breaker)
    gone: set[str] = set()
    for told in alerts:
        if told.stream_id in gone:
            continue
        decision = Decision(told.stream_id, told.session, None, told.action, True, told.signals, (1, 1))
        judged = judge.judge(decision, now=told.at_seconds, live_streams=live_streams(told.at_seconds))
        if told.refused_by == REFUSED_BY:
            report.allowed.add(told.stream_id)
        elif told.refused_by is not None:
            report.held[told.refused_by] += 1
        is_cut = judged.action is Step.CUT
        if is_cut:
            gone.add(told.stream_id)
            sources = tuple(sorted(one.source for one in told.signals if one.step is Step.CUT))
            report.cuts.append(WouldCut(told.at_seconds, told.stream_id, told.session, told.incident_id, sources))
        elif any(one.step >= Step.REVIEW for one in told.signals):
            report.reviewed.add(told.stream_id)
        for signal in told.signals:
            _count(report, told, signal, is_cut=is_cut)
    report.breaker_refused = {one.source: {each.stream_id for each in one.refusals} for one in judge.tripped()}
    return report


def _count(report: ShadowReport, told: Told, signal: Signal, *, is_cut: bool) -> None:
    name = signal.bank or signal.source
    group = report.groups.setdefault(name, Group(name))
    group.entries[signal.entry or signal.source] += 1
    if signal.step is Step.CUT and is_cut:
        group.cuts.add(told.stream_id)
    elif signal.step >= Step.REVIEW:
        group.reviews.add(told.stream_id)
    elif signal.reaches is Step.CUT:
        group.would_cut.add(told.stream_id)
    if len(group.examples) < EXAMPLES and all(told.stream_id != one[2] for one in group.examples):
        group.examples.append((told.at_seconds, told.incident_id, told.stream_id, signal.entry or signal.source))


def _signal(told: Mapping[str, Any]) -> Signal:
    bank, entry = told.get("bank"), told.get("entry")
    source = told["name"] if told["kind"] == "class" else f"{bank or told['kind']}/{entry or told['name']}"
    steps = {step.word: step for step in Step}
    return Signal(
        told["kind"], told["name"], source, steps[told["step"]], 0.0, bank=bank, entry=entry,
        reaches=steps.get(told.get("would", "off"), Step.OFF),
    )  # fmt: skip

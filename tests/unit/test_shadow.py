"""The shadow report equals what live mode does with the same recording, cut for cut and refusal for refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from detector.alerts.alert import AlertFacts, WallAnchor, build_alert
from detector.alerts.delivery import Submitted
from detector.allow_list import REFUSED_BY
from detector.breaker import Breaker, BreakerSettings
from detector.cli.main import app
from detector.cut_journal import CutOutcome
from detector.events import CutState, Decision, Signal, Step
from detector.metrics import Metrics
from detector.open_incidents import StreamFacts
from detector.response import Responder, ResponseSettings
from detector.shadow import Told, replay
from detector.store.coverage import CoverageStore, CoverageTotals
from detector.store.database import Database
from detector.store.outbox import Outbox
from tests.fixtures_response import FakeIncidents, decision, facts

BREAKER = BreakerSettings(cuts=2, share=0.02, window_seconds=60.0)
LIVE = 40
SOURCES = ("CARDS/a", "CARDS/b", "cards/bad")


class Recorder:
    """Takes alerts and cuts, with the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[Told] = []
        self.cuts: list[tuple[float, str]] = []
        self.refused: set[tuple[str, str]] = set()

    async def submit(self, alert: Any, incident: Any = None) -> Submitted:
        body = json.loads(alert.encode(len(self.told) + 1, durable=True))
        found = Told.of(body, self.now)
        if found is not None:
            self.told.append(found)
        return Submitted(alert.alert_id, 1, is_durable=True)

    async def cut(self, target: Any, *, last_packet_at: Any) -> CutOutcome:
        self.cuts.append((self.now, target.stream_id))
        return CutOutcome(CutState.CONFIRMED, 1, 1, gone_at=self.now)


def signal(source: str, step: Step) -> Signal:
    bank, _, entry = source.partition("/")
    kind = "hash" if bank.isupper() else "class"
    return replace(
        decision().signals[0], kind=kind, name="pdq" if kind == "hash" else source, source=source, step=step,
        bank=bank if kind == "hash" else None, entry=entry if kind == "hash" else None,
    )  # fmt: skip


Seen = tuple[int, int, bool, list[tuple[str, Step]]]
"""Seconds since the last, stream, whether it reconnected before, and what each source called for."""


async def watched(recording: list[Seen], *, live: bool) -> Recorder:
    """Run a recording through the real responder; who is cut shows nothing any more."""
    recorder = Recorder()
    breaker = Breaker(BREAKER)
    responder = Responder(
        delivery=recorder, incidents=FakeIncidents(), enforcer=recorder,  # type: ignore[arg-type]
        breaker=breaker, metrics=Metrics(), settings=ResponseSettings(60_000, "sha256:0", is_live=live),
        live_streams=lambda: LIVE, clock=lambda: recorder.now, closes=True,
    )  # fmt: skip
    sessions: dict[int, int] = {}
    for wait, stream, is_new, called in recording:
        recorder.now += wait
        name = f"S{stream}"
        if name in {gone for _, gone in recorder.cuts}:
            continue
        if is_new:
            responder.session_ended(f"{name}-{sessions.get(stream, 0)}")
            sessions[stream] = sessions.get(stream, 0) + 1
        session = f"{name}-{sessions.get(stream, 0)}"
        signals = tuple(sorted((signal(*one) for one in dict(called).items()), key=lambda one: -one.step))
        made = replace(decision(live=live), stream_id=name, session=session, signals=signals, action=signals[0].step)
        await responder.respond(made, replace(facts(session, name), account=name))
        await responder.settle()
    recorder.refused = {(one.source, each.stream_id) for one in breaker.tripped() for each in one.refusals}
    return recorder


called = st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from([Step.REVIEW, Step.CUT])), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 7), st.booleans(), called), max_size=24))
async def test_the_report_is_what_live_mode_does(recording: list[Seen]) -> None:
    """Same decisions, once with enforcement and once without: same cuts in the same order, same refusals."""
    live = await watched(recording, live=True)
    shadow = await watched(recording, live=False)
    assert shadow.cuts == []
    report = replay(shadow.told, BREAKER, lambda _at: LIVE)
    assert [(one.at_seconds, one.stream_id) for one in report.cuts] == live.cuts
    refused = {(source, stream) for source, streams in report.breaker_refused.items() for stream in streams}
    assert refused == live.refused


def told(at: float, stream: str, *signals: Signal, refused_by: str | None = None) -> Told:
    action = Step.CUT if signals[0].step is Step.CUT and refused_by is None else Step.REVIEW
    return Told(at, f"i-{stream}", stream, f"s-{stream}", action, signals, refused_by)


def test_what_the_allow_list_kept_and_what_is_a_shadow_is_said_apart() -> None:
    """An allowed stream is no cut; a bank at step shadow tells whom it would cut at step cut."""
    shadow = replace(signal("CARDS/a", Step.SHADOW), reaches=Step.CUT)
    report = replay(
        [told(1, "A", signal("CARDS/a", Step.CUT), refused_by=REFUSED_BY), told(2, "B", shadow)], BREAKER, lambda _: 1
    )
    assert (report.cuts, report.allowed) == ([], {"A"})
    assert report.groups["CARDS"].would_cut == {"B"}
    assert report.reviewed == {"A"}


async def test_the_command_reads_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six streams match one row in a minute: five cuts, one refused by the breaker, none of it live; as JSON."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"state_dir: {tmp_path}\n")
    at_ms = 1_800_000_000_000
    async with Database(tmp_path / "stopframe.db") as database:
        for number in range(6):
            name = f"S{number}"
            made: Decision = replace(decision(live=False), stream_id=name, session=name)
            stream: StreamFacts = facts(name, name)
            told_facts = AlertFacts.of_decision(
                made, config_digest="sha256:0", incident_id=f"i{number}", coverage=stream.coverage
            )
            alert = build_alert(
                told_facts, alert_id=f"0199c0de-0000-7000-8000-00000000000{number}",
                anchor=WallAnchor(0.0, at_ms + 1000 * number), queued_at=0.0, expires_after_ms=60_000,
            )  # fmt: skip
            await Outbox(database).record(alert, None, sinks=["mqtt"], now_ms=at_ms + 1000 * number)
        totals = [
            CoverageTotals(stream_id=f"S{n}", session=f"S{n}", seen_seconds=3600.0, updated_at_ms=at_ms + 60_000)
            for n in range(6)
        ]
        await CoverageStore(database).upsert(totals)
    result = CliRunner().invoke(
        app, ["report", "shadow", "-c", str(tmp_path / "c.yaml"), "--json", "--since", "2026-12-01"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [cut["stream"] for cut in report["cuts"]] == [f"S{n}" for n in range(5)]
    assert report["breaker_refused"] == {"CARDS/one": 1}
    assert report["stream_hours"] == pytest.approx(6.0)
    assert [group["name"] for group in report["groups"]] == ["CARDS"]

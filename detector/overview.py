"""What the service shows of itself: rows for the control socket, the cage and the versions for health."""

import contextlib
import functools
import platform
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from detector.analysis.pool import AnalysisPool
from detector.api.view import HintRow, IncidentRow, StreamRow
from detector.coverage import Kind
from detector.cpu.control import CpuControl, Standing
from detector.hints import CLOSER_FROM
from detector.metrics import Metrics
from detector.session import StreamSession
from detector.store.incidents import IncidentRecord
from detector.versions import product_version
from models.providers import GPUS
from streams.job import SandboxMode

_LATE_FACTOR = 3.0
"""A live stream without an analysed frame for this many times its `detect_within` is one that we are too slow for."""


def stream_row(session: StreamSession, standing: Standing) -> StreamRow:
    """What the control socket shows of a live stream."""
    now = time.monotonic()
    account, opened = session.coverage(), session.opened
    sampled = session.last_sample_at
    return StreamRow(
        stream_id=session.stream_id,
        path=session.key.path,
        state=session.state,
        since=session.since,
        codec=opened.codec if opened else None,
        width=opened.width if opened else None,
        height=opened.height if opened else None,
        sampling=session.settings.job.sampling.mode.value,
        last_sample_age_seconds=None if sampled is None else max(0.0, now - sampled),
        seen_seconds=account.seen_seconds,
        skipped_seconds=account.skipped_seconds,
        blind_seconds=account.blind_seconds,
        cpu_seconds=session.figures.cpu_seconds,
        decision=session.judge.last_action or None,
        judged=session.judge.judged,
        decision_seconds=session.judge.decision_seconds,
        bursts=session.figures.bursts,
        spikes=session.figures.spikes,
        is_spikes_blind=session.figures.is_spikes_blind,
        blind_cause=None if session.blind_since is None else session.blind_cause.value,
        risk=standing.risk.value,
        ration=standing.ration,
        slowed_to_seconds=session.orders.ration.slowed_to_seconds,
        burst_share=session.orders.ration.burst_share,
        reader_cores=session.meter.reader_cores,
        analysis_cores=session.meter.analysis_cores,
        tracks=opened.video_tracks if opened else None,
        rendition=session.renditions.shown,
        rendition_switches=session.renditions.switches,
        time_skew_seconds=session.times.skew_seconds,
        time_jumps=session.times.jumps,
        gop_seconds=session.meter.gop_seconds,
        max_gap_seconds=account.max_gap_seconds,
        hints=tuple(
            HintRow(
                hint.source,
                hint.reason,
                hint.score,
                max(0.0, hint.until - now),
                is_looked_at=standing.is_close and hint.score >= CLOSER_FROM,
            )
            for hint in standing.hints
        ),
    )


def unseen_streams(sessions: Collection[StreamSession], now: float) -> Iterator[tuple[int, str]]:
    """How many streams are not seen now, and the sentence about them: blind ones, and those we are too slow for."""
    overdue = [one for one in sessions if one.state != "refused" and one.sight.blindness.is_overdue(now)]
    causes = [one.blind_cause.value for one in overdue if one.blind_cause.kind is Kind.BLIND]
    if causes:
        words = ", ".join(sorted(set(causes)))
        yield (
            len(causes),
            f"{len(causes)} of {len(sessions)} streams are blind ({words}); 'stopframe streams' says which and why",
        )
    alone = sum(one.state == "quarantined" for one in sessions)
    if alone:
        why = "after their readers crashed again and again; report what they send"
        yield alone, f"{alone} of {len(sessions)} streams are left alone for a while {why}"
    late = sum(one.state != "refused" and not _is_blind(one) and _is_late(one, now) for one in sessions)
    if late:
        remedy = "if they show more than black, give analysis more workers or this node fewer streams"
        yield late, f"{late} of {len(sessions)} streams had no frame analysed in time; {remedy}"


def _is_blind(session: StreamSession) -> bool:
    return session.blind_since is not None and session.blind_cause.kind is Kind.BLIND


def _is_late(session: StreamSession, now: float) -> bool:
    sampled_at = session.started_at if session.last_sample_at is None else session.last_sample_at
    promised = max(session.settings.job.sampling.detect_within_seconds, session.orders.ration.slowed_to_seconds)
    return now - sampled_at > _LATE_FACTOR * promised


def incident_row(record: IncidentRecord) -> IncidentRow:
    """What the control socket shows of an incident."""
    return IncidentRow(
        incident_id=record.incident_id,
        stream_id=record.stream_id,
        opened_at=record.public()["opened_at"],
        action=record.action.word,
        mode="live" if record.is_live else "shadow",
        signals=record.signals,
        cut_state=record.cut_state,
        time_to_cut_ms=record.time_to_cut_ms,
        refused_by=record.refused_by,
    )


def sandbox_state(mode: SandboxMode, sessions: Iterable[StreamSession], pool: AnalysisPool) -> dict[str, Any]:
    """Which parts of the cage are in force, by the word of the processes in it."""
    opened = next((s.opened for s in sessions if s.opened is not None), None)
    readers = (
        {"landlock_abi": opened.landlock_abi, "seccomp": opened.has_seccomp, "network": opened.limits_network}
        if opened
        else None
    )
    analysis_state = pool.state()
    analysis = {"missing": list(analysis_state.missing_cage)} if analysis_state else None
    gpu = {} if pool.gpu is None else {"gpu": pool.gpu.cage()}
    return {"mode": mode.value, "readers": readers, "analysis": analysis, **gpu}


def model_state(pool: AnalysisPool) -> dict[str, Any]:
    """For each model in use what runs it, the digest of its file, and when it is asked."""
    state = pool.state()
    if state is None:
        return {}
    away = GPUS if pool.gpu is not None and pool.gpu.is_away else ()
    return {
        rule.name: {
            "runs_on": "cpu" if state.runs_on.get(rule.name, "").startswith(away) else state.runs_on.get(rule.name, ""),
            "sha256": state.models[rule.name],
            "after": dict(rule.after),
            "reuse_ms": round(rule.reuse_seconds * 1000),
            "tiles": rule.has_tiles,
            "jitter": rule.jitter,
        }
        for rule in pool.model_rules
        if rule.name in state.models
    }


def load_state(cpu: CpuControl, pool: AnalysisPool, metrics: Metrics) -> dict[str, float]:
    """What the whole service uses and what it cannot do, for health; how often each model was asked, and was not."""
    asked = {
        f"{rule.name} {how}": metrics.value("stopframe_model_frames_total", model=rule.name, how=how)
        for rule in pool.model_rules
        for how in ("asked", "reused", "spared", "failed")
    }
    return {
        **asked,
        **({} if pool.gpu is None else pool.gpu.load()),
        **asdict(cpu.use),
        "waiting": float(pool.waiting),
        "dropped": float(pool.dropped.total()),
        "refused": float(cpu.admission.refused),
    }


@functools.cache
def versions() -> dict[str, Any]:
    """What runs here, for health: looked for once, as that reads files."""
    found: dict[str, Any] = {"python": platform.python_version()}
    if (own := product_version()) is not None:
        found["stopframe"] = own
    for name in ("av", "onnxruntime", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

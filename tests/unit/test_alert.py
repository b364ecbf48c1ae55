"""The alert's payload: what it tells, how long it may get, and that its schema describes it."""

import json
import string
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.alerts.alert import (
    PAYLOAD_LIMIT_BYTES,
    AlertFacts,
    AlertType,
    WallAnchor,
    alert_schema,
    build_alert,
    uuid7,
)
from detector.events import Decision, Observation, SecondTestResult, Signal, Step
from detector.instants import rfc3339
from detector.trust.signing import NodeSigner, Purpose, Signer, TrustedKeys, parse
from models.evidence import Inspection

_VALIDATOR = jsonschema.Draft202012Validator(alert_schema())
_SIGNER = Signer.of_seed(bytes(32))
_ID = uuid7(1_800_000_000_000, bytes(10))
_ANCHOR = WallAnchor(monotonic_seconds=100.0, wall_ms=1_800_000_000_000)

_texts = st.text(max_size=300)
_signals = st.builds(
    Signal,
    kind=st.sampled_from(["hash", "class", "blind"]),
    name=_texts,
    source=_texts,
    step=st.sampled_from(Step),
    threshold=st.floats(),
    bank=st.none() | _texts,
    entry=st.none() | _texts,
    score=st.none() | st.floats(0, 1) | st.just(float("nan")),
    distance=st.none() | st.integers(0, 256),
    view=st.none() | _texts,
    quality=st.none() | st.integers(0, 100),
    generation=st.none() | _texts,
    model_sha256=st.none() | _texts,
    provider=st.none() | _texts,
    precision=st.none() | _texts,
    is_reused=st.booleans(),
)
_seconds = st.floats(0, 1e9)
_causes = st.dictionaries(_texts, _seconds, max_size=40)


def _facts(**changes: Any) -> AlertFacts:
    values: dict[str, Any] = {
        "stream_id": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "session": "s1",
        "signals": (_signal(),),
        "votes": (1, 1),
        "action": Step.CUT,
        "is_live": True,
        "config_digest": "c0ffee",
        "arrived_at": 99.0,
        "decoded_at": 99.02,
        "scored_at": 99.5,
        "sampling_reason": "keyframe",
    }
    return AlertFacts(**(values | changes))


def _signal(**changes: Any) -> Signal:
    values: dict[str, Any] = {
        "kind": "hash",
        "name": "pdq",
        "source": "CARDS/card-1",
        "step": Step.CUT,
        "threshold": 31,
        "bank": "CARDS",
        "entry": "card-1",
        "distance": 4,
        "view": "mirror",
        "quality": 88,
        "second_test": SecondTestResult("share", 0.0312345678, 0.17),
        "expected_false": 1.23456e-9,
        "generation": "gen-7",
    }
    return Signal(**(values | changes))


def _payload(facts: AlertFacts, seq: int | None = 1, *, durable: bool = True) -> dict[str, Any]:
    alert = build_alert(
        facts,
        alert_id=_ID,
        anchor=_ANCHOR,
        queued_at=99.9,
        expires_after_ms=60_000,
        sign=NodeSigner("n" * 64, _SIGNER),
    )
    raw = alert.encode(seq, durable=durable)
    assert len(raw) <= PAYLOAD_LIMIT_BYTES
    assert raw == alert.encode(seq, durable=durable), "the same alert has the same signature"
    payload: dict[str, Any] = json.loads(raw)
    _VALIDATOR.validate(payload)
    TrustedKeys([_SIGNER.trusted_key(["alert"])]).verify(parse(raw), Purpose.ALERT)
    return {name: payload[name] for name in payload if name not in {"node", "key_id", "sig"}}


def test_payload_tells_everything_of_a_hash_match() -> None:
    """A cut on one hash match carries the promised fields with the promised units."""
    payload = _payload(
        _facts(
            incident_id=_ID,
            coverage={"seen_s": 12.0, "skipped_s": {}, "blind_s": {"stall": 1.5}, "max_gap_s": 1.5},
        )
    )

    assert payload == {
        "schema": "stopframe/alert/1",
        "alert_id": _ID,
        "seq": 1,
        "type": "open",
        "incident_id": _ID,
        "stream": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "session": "s1",
        "signals": [
            {
                "kind": "hash",
                "name": "pdq",
                "step": "cut",
                "bank": "CARDS",
                "entry": "card-1",
                "distance": 4,
                "threshold": 31,
                "view": "mirror",
                "quality": 88,
                "second_test": {"kind": "share", "value": 0.031235, "limit": 0.17},
                "expected_false": 1.23e-9,
            }
        ],
        "signals_left_out": 0,
        "votes": {"n": 1, "of": 1},
        "action": "cut",
        "mode": "live",
        "times": {
            "arrived": "2027-01-15T07:59:59.000Z",
            "decoded": "2027-01-15T07:59:59.020Z",
            "scored": "2027-01-15T07:59:59.500Z",
            "queued": "2027-01-15T07:59:59.900Z",
        },
        "latency_ms": {"decode": 20, "score": 480, "queue": 400, "total": 900},
        "coverage": {"seen_s": 12.0, "skipped_s": {}, "blind_s": {"stall": 1.5}, "max_gap_s": 1.5},
        "provenance": {
            "model": None,
            "model_sha256": None,
            "provider": None,
            "precision": None,
            "list_version": "gen-7",
            "config_digest": "c0ffee",
            "sampling_reason": "keyframe",
        },
        "expires_at": "2027-01-15T08:00:59.900Z",
        "durable": True,
    }


def test_payload_of_a_class_says_what_looked_and_at_what() -> None:
    """Model, digest, provider and precision are the strongest class signal's; the look that gave the score is named."""
    seen = Signal(
        *("class", "nudity/nsfw", "nudity/nsfw", Step.REVIEW, 0.7),
        score=0.91,
        view="cell_1_2_of_2x2",
        model_sha256="ab" * 32,
        provider="openvino",
        precision="bf16",
        is_reused=True,
    )
    weaker = replace(seen, name="other/x", source="other/x", step=Step.SHADOW, model_sha256="cd" * 32)
    payload = _payload(_facts(signals=(weaker, seen), action=Step.REVIEW))

    assert (payload["signals"][0]["view"], payload["signals"][0]["reused"]) == ("cell_1_2_of_2x2", True)
    assert {name: payload["provenance"][name] for name in ("model", "model_sha256", "provider", "precision")} == {
        "model": "nudity",
        "model_sha256": "ab" * 32,
        "provider": "openvino",
        "precision": "bf16",
    }


@pytest.mark.parametrize(
    ("action", "is_live", "told"),
    [
        (Step.CUT, True, ("cut", "live")),
        (Step.CUT, False, ("cut", "shadow")),
        (Step.REVIEW, True, ("review", "live")),
        (Step.SHADOW, True, ("review", "shadow")),
    ],
)
def test_mode_is_live_only_if_both_allow_it(action: Step, *, is_live: bool, told: tuple[str, str]) -> None:
    """The mode is `live` only where neither the ladder nor the switch says shadow."""
    payload = _payload(_facts(action=action, is_live=is_live))

    assert (payload["action"], payload["mode"]) == told


def test_off_makes_no_alert() -> None:
    """There is no alert about what is off."""
    with pytest.raises(ValueError, match="off gives none"):
        _payload(_facts(action=Step.OFF))


def test_blind_stream_has_no_frame_times() -> None:
    """A blind stream's alert tells what is known: when it was queued."""
    blind = Signal(kind="blind", name="no_video", source="no_video", step=Step.REVIEW, threshold=5.0)
    facts = _facts(
        signals=(blind,), action=Step.REVIEW, arrived_at=None, decoded_at=None, scored_at=None, sampling_reason=None
    )
    payload = _payload(facts)

    assert (list(payload["times"]), payload["latency_ms"]) == (["queued"], {})


def test_a_match_names_the_list_that_it_came_from() -> None:
    """List, version and opinion stand beside the entry, shortened to what fits; a bank of our own has no list."""
    listed = _signal(opinion="disputed", exchange="hotline" * 40, version="2027-01-15T08:00:00Z")
    own = _signal(opinion="positive", entry="mine")
    told, ours = _payload(_facts(signals=(listed, own), action=Step.REVIEW))["signals"]

    assert (told["source"], told["version"], told["opinion"]) == (
        ("hotline" * 40)[:96],
        "2027-01-15T08:00:00Z",
        "disputed",
    )
    assert (ours["opinion"], "source" in ours, "version" in ours) == ("positive", False, False)


def test_memory_only_alert_has_no_number() -> None:
    """Where the disk refused, the payload says so; the schema holds durable alerts to a number."""
    payload = _payload(_facts(), None, durable=False)

    assert (payload["seq"], payload["durable"]) == (None, False)
    with pytest.raises(jsonschema.ValidationError):
        _VALIDATOR.validate(payload | {"durable": True})


def test_schema_refuses_what_was_not_promised() -> None:
    """No field beside the promised ones gets through, at any level, and none without a signature."""
    payload = _payload(_facts()) | {"node": "n", "key_id": "0" * 16, "sig": "A" * 86}
    _VALIDATOR.validate(payload)

    for spoiled in (
        payload | {"key": "live/secret"},
        {name: payload[name] for name in payload if name != "sig"},
        payload | {"sig": "abc"},
        payload | {"signals": [payload["signals"][0] | {"pixels": "AAAA"}]},
        payload | {"signals": [payload["signals"][0] | {"second_test": {"kind": "luck", "value": 1, "limit": 2}}]},
        payload | {"signals": [payload["signals"][0] | {"expected_false": -1}]},
        payload | {"times": payload["times"] | {"pts": 1}},
        payload | {"provenance": payload["provenance"] | {"path": "/x"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            _VALIDATOR.validate(spoiled)


def test_a_sequence_tells_its_frames() -> None:
    """Several frames of one video: how many, the farthest of them, and the limit that so many have."""
    sequence = _signal(kind="sequence", distance=63, threshold=64, frames=2, second_test=None, expected_false=2e-8)
    (told,) = _payload(_facts(signals=(sequence,), votes=(2, 2)))["signals"]
    assert (told["frames"], told["distance"], told["threshold"]) == (2, 63, 64)
    assert told["expected_false"] == 2e-8
    assert "second_test" not in told


def test_strongest_signals_survive_and_the_rest_is_counted() -> None:
    """Of more signals than fit, the strongest are told and the others counted."""
    weak = [_signal(step=Step.REVIEW, entry=f"weak-{n:03d}" + "w" * 60) for n in range(60)]
    payload = _payload(_facts(signals=(*weak, _signal())))

    assert payload["signals"][0]["step"] == "cut"
    assert len(payload["signals"]) + payload["signals_left_out"] == 61
    assert len(payload["signals"]) > 8


def test_facts_of_a_decision() -> None:
    """A decision's own words and times stand in its alert."""
    seen = Observation("st", "se", 4, "interval", 99.0, 99.1, 99.2, 1.5, False, Inspection(90, True, False, bytes(32)))
    decision = Decision("st", "se", seen, Step.REVIEW, True, (_signal(),), (3, 5), "breaker CARDS/card-1")
    facts = AlertFacts.of_decision(decision, config_digest="x", alert_type=AlertType.UPDATE, incident_id="i")
    payload = _payload(facts)

    assert payload["votes"] == {"n": 3, "of": 5}
    assert payload["refused_by"] == "breaker CARDS/card-1"
    assert (payload["type"], payload["incident_id"], payload["provenance"]["sampling_reason"]) == (
        "update",
        "i",
        "interval",
    )
    assert payload["latency_ms"]["total"] == 900


@settings(deadline=None)
@given(
    facts=st.builds(
        AlertFacts,
        stream_id=_texts,
        session=_texts,
        signals=st.lists(_signals, max_size=30).map(tuple),
        votes=st.tuples(st.integers(0, 99), st.integers(0, 99)),
        action=st.sampled_from([Step.SHADOW, Step.REVIEW, Step.CUT]),
        is_live=st.booleans(),
        config_digest=_texts,
        alert_type=st.sampled_from(AlertType),
        incident_id=st.none() | _texts,
        refused_by=st.none() | _texts,
        sampling_reason=st.none() | _texts,
        captured_at=st.none() | _seconds,
        arrived_at=st.none() | _seconds,
        decoded_at=st.none() | _seconds,
        scored_at=st.none() | _seconds,
        coverage=st.dictionaries(st.sampled_from(["seen_s", "skipped_s", "blind_s", "max_gap_s"]), _seconds | _causes),
    ),
    seq=st.none() | st.integers(1, 2**53 - 1),
)
def test_any_payload_is_bounded_and_valid(facts: AlertFacts, seq: int | None) -> None:
    """Whatever the names, numbers and counts, the payload keeps its limit and its schema."""
    payload = _payload(facts, seq, durable=seq is not None)

    assert len(payload["signals"]) + payload["signals_left_out"] == len(facts.signals)


@settings(deadline=None)
@given(wall_ms=st.integers(0, 2**48 - 1), randomness=st.binary(min_size=10, max_size=10))
def test_uuid7_is_one_and_sorts_by_time(wall_ms: int, randomness: bytes) -> None:
    """The id has version 7 and the RFC's variant, carries its time, and sorts by it."""
    text = uuid7(wall_ms, randomness)

    assert (text[14], text[19] in "89ab", int(text[:8] + text[9:13], 16)) == ("7", True, wall_ms)
    if wall_ms:
        assert uuid7(wall_ms - 1, b"\xff" * 10) < text
    assert set(text) <= set(string.hexdigits + "-")


@settings(deadline=None)
@given(wall_ms=st.integers(0, 4_000_000_000_000))
def test_times_are_rfc3339_with_milliseconds(wall_ms: int) -> None:
    """Written and read again, an instant is the same to the millisecond."""
    read = datetime.fromisoformat(rfc3339(wall_ms))

    assert read.tzinfo == UTC
    assert round(read.timestamp() * 1000) == wall_ms


@settings(deadline=None)
@given(at=st.floats(0, 1e7), since=st.floats(0, 1e7))
def test_wall_clock_follows_the_anchor(at: float, since: float) -> None:
    """An instant is as far from the anchor on the wall clock as on the monotonic one, to the millisecond."""
    anchor = WallAnchor(since, 1_800_000_000_000)

    assert abs(anchor.wall_ms_of(at) - 1_800_000_000_000 - (at - since) * 1000) <= 0.5001


@pytest.mark.parametrize("letter", ["x", '"', "\\", "é", "\U0001d4b3"])
def test_names_of_entries_are_told_whole(letter: str) -> None:
    """Commands take them as the alert tells them, the longest that a bank holds too, whatever they are made of."""
    entry = letter * (200 // len(letter.encode()))
    bank = "A" * 64
    told = _payload(_facts(signals=(_signal(bank=bank, entry=entry),) * 40, refused_by=f"{bank}/{entry}"))
    assert told["refused_by"] == f"{bank}/{entry}"
    assert {signal["entry"] for signal in told["signals"]} == {entry}
    assert len(told["signals"]) + told["signals_left_out"] == 40

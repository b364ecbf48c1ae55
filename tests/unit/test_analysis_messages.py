"""What crosses between the service and its analysis processes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.analysis import messages
from detector.analysis.messages import AnalysisProtocolError, Kind, ModelSetup, ViewSetup, WorkerReady, WorkerSetup
from models.cascade import Asking, ModelRule
from models.evidence import ClassScore, HashMatch, Inspection, ModelUse, Opinion, SecondTest, Strength
from models.hashing.scenes import Look
from models.hashing.view_table import Tier
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason

INSPECTION = Inspection(
    quality=88,
    is_stable=True,
    is_low_information=False,
    fingerprint=bytes(range(32)),
    matches=(
        HashMatch("CARDS", "one", "pdq", 256, 12, 31, "mirror", 90, Opinion.POSITIVE, "gen-1"),
        HashMatch(
            *("CARDS", "film", "pdq", 256, 60, 72, "zoom_3", 90, Opinion.SEED, "gen-1"),
            strength=Strength.VOTE,
            second_test=SecondTest.SECOND_HASH,
            second_value=150.0,
            second_limit=160.0,
            position_ms=1500,
            row=7,
            passes_shape=False,
            is_stable=False,
            tier=1,
            bank_rows=12,
            expected_false=0.25,
            view_hash=bytes(range(32)),
        ),
    ),
    scores=(
        ClassScore("cards", "bars", 0.75, "ab" * 32),
        ClassScore("cards", "other", 0.5, "ab" * 32, "openvino", "bf16", "cell_1_2_of_2x2", is_reused=True),
    ),
    failed_models=("broken",),
    stage_seconds={"hash": 0.001},
    left_out_matches=3,
    cpu_seconds=0.0125,
    second=bytes(range(64)),
    views_run=40,
    views_left_out=2,
    is_inspectable=False,
    suppressed_matches=1,
    tier_seconds={0: 0.0005, 3: 0.002},
    model_uses=(ModelUse("cards", looks=5, left_out=3), ModelUse("dear", is_spared=True)),
)


def body_of(message: bytes) -> tuple[Kind, bytes]:
    kind, length = messages.parse_header(message[: messages.HEADER.size])
    body = message[messages.HEADER.size :]
    assert len(body) == length
    return kind, body


def test_an_inspection_arrives_as_it_was_sent() -> None:
    """Nothing of an inspection is lost or rounded on its way."""
    kind, body = body_of(messages.pack_result(7, INSPECTION))

    assert kind is Kind.RESULT
    assert messages.parse_result(body) == (7, INSPECTION)


def test_a_frame_arrives_as_it_was_sent() -> None:
    """Plane, picture, size and what is known of the stream reach the process unchanged."""
    plane, picture = bytes(range(256)) * 16, b"\x07" * PICTURE_BYTES
    frame = Frame(1, 2.0, 2.5, None, SampleReason.KEYFRAME, False, 1920, 1080, plane, picture)

    rested = {Tier.EDGES: bytes(range(32)), Tier.PER_SCENE: bytes(32)}
    for look in (
        None,
        Look(),
        Look(3, rested, 9, b"\x0f" * 512, -0.004, {Tier.IN_TURN: 2, Tier.PER_SCENE: 255}),
        Look(saved_seconds=math.inf),
    ):
        kind, body = body_of(messages.pack_inspect(99, frame, look))
        request = messages.parse_inspect(memoryview(body))

        assert kind is Kind.INSPECT
        assert (request.number, request.width, request.height, request.look) == (99, 1920, 1080, look)
        assert (bytes(request.plane), bytes(request.picture)) == (plane, picture)
    assert len(plane) == PLANE_BYTES


_DEAR = ModelSetup("d", "/d.yaml", "openvino", place=1, rule=ModelRule("d", {"m/a": 0.2}, 2.0, True, 0.05))


def test_setup_and_ready_arrive_as_they_were_sent() -> None:
    """What a process is told and what it says of itself survive the way."""
    setup = WorkerSetup(
        "/banks", {"A": 20}, (ModelSetup("m", "/m.yaml"), _DEAR), ("/banks",), "prefer", 1 << 30, ViewSetup(0.5, (0, 2))
    )
    ready = WorkerReady({"m": "ab"}, {"n": "no file"}, {"A": 3}, {"B": "broken"}, ("seccomp",), {"m": "cpu fp32"})

    assert messages.parse_setup(memoryview(body_of(messages.pack_setup(setup))[1])) == setup
    assert messages.parse_ready(body_of(messages.pack_ready(Kind.READY, ready))[1]) == ready


@given(
    st.builds(
        Asking,
        awake=st.integers(0, 2**32 - 1),
        rested=st.integers(0, 2**32 - 1),
        is_suspicious=st.booleans(),
        has_room=st.booleans(),
        turn=st.integers(0, 255),
        draw=st.integers(0, 2**32 - 1),
        is_test=st.booleans(),
        shows_check=st.booleans(),
        spares_all=st.booleans(),
    )
)
def test_what_to_ask_of_models_arrives_as_it_was_sent(asking: Asking) -> None:
    """Every bit of it."""
    frame = Frame(1, 2.0, 2.5, None, SampleReason.KEYFRAME, False, 8, 8, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))
    request = messages.parse_inspect(memoryview(body_of(messages.pack_inspect(1, frame, None, asking, 0.25))[1]))
    assert request.seconds_left == 0.25
    assert request.asking == asking


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_the_protocol_error(noise: bytes) -> None:
    """A process that went mad cannot raise anything unexpected in the service."""
    for parse in (messages.parse_result, messages.parse_ready, messages.parse_header):
        try:
            parse(noise)
        except AnalysisProtocolError:
            continue


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quality", 101),
        ("quality", "high"),
        ("fingerprint", "00"),
        ("fingerprint", 5),
        ("scores", [{"model": "m", "label": "l", "score": 1.5, "model_sha256": ""}]),
        ("scores", [{"model": "m", "label": "l", "score": float("nan"), "model_sha256": ""}]),
        ("matches", [{}]),
        ("matches", 4),
        ("stage_seconds", {"hash": float("inf")}),
        ("left_out_matches", None),
        ("left_out_matches", float("inf")),
        ("quality", float("inf")),
        ("stage_seconds", {"hash": 10**400}),
        ("second", "00"),
        ("views_run", -1),
        ("suppressed_matches", float("nan")),
        ("tier_seconds", {"4": 0.1}),
        ("tier_seconds", {"0": -0.1}),
    ],
)
def test_an_answer_out_of_range_is_refused(field: str, value: object) -> None:
    """A hijacked process cannot make the policy see impossible figures."""
    _, body = body_of(messages.pack_result(1, INSPECTION))
    number, raw = json.loads(body)
    raw[field] = value

    with pytest.raises(AnalysisProtocolError):
        messages.parse_result(json.dumps([number, raw]).encode())


def test_an_endless_count_of_rows_is_refused() -> None:
    """JSON as Python reads it knows infinity; what a process says of its banks may not."""
    raw = {"models": {}, "refused": {}, "banks": {"A": float("inf")}, "refused_banks": {}, "missing_cage": []}

    with pytest.raises(AnalysisProtocolError):
        messages.parse_ready(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("distance", 257, "257"),
        ("strength", "ban", "ban"),
        ("strength", None, "None"),
        ("second_test", "luck", "luck"),
        ("second_value", float("inf"), "amount"),
        ("second_limit", -1.0, "amount"),
        ("position_ms", -5, "-5"),
        ("row", -2, "-2"),
        ("tier", 128, "128"),
        ("expected_false", float("nan"), "amount"),
        ("bank_rows", -1, "-1"),
        ("view_hash", "0102", "256 bits"),
    ],
)
def test_a_match_that_cannot_be_is_refused(field: str, value: object, named: str) -> None:
    """A distance lies between 0 and the length of the hash, a strength is one of three words, and so on."""
    _, body = body_of(messages.pack_result(1, INSPECTION))
    number, raw = json.loads(body)
    raw["matches"][0][field] = value

    with pytest.raises(AnalysisProtocolError, match=named):
        messages.parse_result(json.dumps([number, raw]).encode())


def test_an_absurd_length_is_refused_before_it_is_read() -> None:
    """A header that promises a gigabyte is no reason to wait for one."""
    with pytest.raises(AnalysisProtocolError, match="RESULT"):
        messages.parse_header(messages.HEADER.pack(Kind.RESULT, 1 << 30))

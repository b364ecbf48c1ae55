"""The messages between a reader and the service."""

import json
import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import wire, wire_values
from streams.frame import (
    MAX_BURST_FRAMES,
    MAX_SHAPED_BYTES,
    MAX_SHAPED_SIDE,
    MAX_TRACKS,
    PICTURE_BYTES,
    PLANE_BYTES,
    Frame,
    SampleReason,
    ShapedPicture,
    shaped_bytes,
    shaped_size,
)
from streams.job import Job, SandboxMode, SourceKind
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Adjust, Burst, EndCode, Ended, Heartbeat, Kind, LookCloser, Message, Opened, WireError

seconds = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**64 - 1)
sides = st.integers(1, 1 << 16)
tracks = st.integers(0, MAX_TRACKS)
ports = st.integers(0, 65535)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))

opened = st.builds(
    Opened,
    codec=st.sampled_from(["h264", "hevc", "av1"]),
    width=sides,
    height=sides,
    video_tracks=st.integers(1, MAX_TRACKS),
    landlock_abi=st.integers(0, 255),
    has_seccomp=st.booleans(),
    limits_network=st.booleans(),
    open_seconds=seconds,
)
frames = st.builds(
    Frame,
    sequence=counts,
    arrived_at=seconds,
    decoded_at=seconds,
    pts_seconds=st.none() | seconds,
    reason=st.sampled_from(SampleReason),
    is_corrupt=st.booleans(),
    width=sides,
    height=sides,
    plane=st.binary(min_size=1, max_size=1).map(lambda shade: shade * PLANE_BYTES),
    picture=st.binary(min_size=1, max_size=1).map(lambda shade: shade * PICTURE_BYTES),
    track=st.integers(0, MAX_TRACKS - 1),
    shaped=st.none()
    | st.builds(
        lambda width, height: ShapedPicture(width, height, b"s" * (width * height * 3)),
        st.integers(1, 40),
        st.integers(1, 40),
    ),
)
heartbeats = st.builds(
    Heartbeat,
    *(seconds,) * 3,
    *(counts,) * 8,
    *(seconds,) * 2,
    st.integers(0, 2**MAX_TRACKS - 1),
    seconds,
    counts,
    counts,
    tracks,
    counts,
    *(seconds,) * 4,
    counts,
)
endings = st.builds(Ended, st.sampled_from(EndCode), seconds, printable.map(lambda text: text[:160]))
jobs = st.builds(
    Job,
    kind=st.sampled_from(SourceKind),
    url=st.text(max_size=200),
    port=ports,
    live=st.booleans(),
    sampling=st.builds(SamplingSettings, mode=st.sampled_from(SamplingMode), interval_seconds=seconds),
    sandbox=st.sampled_from(SandboxMode),
    max_pixels=st.integers(0, 2**40),
    open_timeout_seconds=seconds,
    ring_limit_bytes=st.integers(0, 2**40),
)
lengths = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False)
adjusts = st.builds(
    Adjust,
    st.builds(
        SamplingSettings,
        lengths,
        lengths,
        st.sampled_from(SamplingMode),
        st.floats(0.0, 1.0),
        st.booleans(),
        st.just(0.0) | lengths,
    ),
)
bursts = st.builds(
    lambda frame, numbers, reason: Burst(
        tuple(replace(frame, sequence=number, reason=reason, is_moved=number % 2 == 1) for number in numbers)
    ),
    frames,
    st.lists(counts, min_size=1, max_size=MAX_BURST_FRAMES),
    st.sampled_from([SampleReason.BURST, SampleReason.SPIKE]),
)
messages = st.one_of(
    opened, frames, bursts, heartbeats, endings, jobs, st.builds(LookCloser, seconds, seconds), adjusts
)

OPENED = Opened("h264", 640, 360, 1, 7, has_seccomp=True, limits_network=True, open_seconds=0.5)
HEARTBEAT = Heartbeat(1.0, math.nan, math.nan, 1, 2, 3, 4, 5, 6, 7, 8, 0.5, 2.0)


def read(packed: bytes) -> Message:
    """Return the one message in `packed`, as the keeper reads it."""
    kind, length = wire.parse_header(packed[: wire.HEADER.size], MAX_SHAPED_BYTES)
    body = packed[wire.HEADER.size :]
    if len(body) != length:
        raise WireError("cut short")
    return wire.parse_body(kind, body)


@given(messages)
def test_message_comes_back_as_it_was_sent(message: Message) -> None:
    """What one side packs the other reads, field by field."""
    assert read(wire.pack(message)) == message


def test_unknown_times_stay_unknown() -> None:
    """NaN stands for 'not yet' in a heartbeat and for 'no media clock' at the end."""
    heartbeat = read(wire.pack(HEARTBEAT))
    ended = read(wire.pack(Ended(EndCode.TIMEOUT, math.nan, "")))

    assert isinstance(heartbeat, Heartbeat)
    assert math.isnan(heartbeat.last_packet_at)
    assert math.isnan(heartbeat.working_since)
    assert isinstance(ended, Ended)
    assert math.isnan(ended.media_end_seconds)


@given(st.binary(max_size=64))
def test_random_header_is_refused_or_names_a_bounded_length(header: bytes) -> None:
    """Whatever bytes come as a header, they raise WireError or announce a message that fits in memory."""
    try:
        _, length = wire.parse_header(header)
    except WireError:
        return
    assert length <= 1 << 21


@given(st.sampled_from(Kind), st.binary(max_size=400))
def test_random_body_raises_nothing_but_wire_error(kind: Kind, body: bytes) -> None:
    """Whatever bytes come as a body, the only error is WireError."""
    try:
        message = wire.parse_body(kind, body)
    except WireError:
        return
    assert isinstance(message, Message)


@given(messages, st.data())
def test_mutated_message_raises_nothing_but_wire_error(message: Message, data: st.DataObject) -> None:
    """A message with bytes changed, cut off or appended parses to a message or raises WireError."""
    packed = bytearray(wire.pack(message))
    for _ in range(data.draw(st.integers(1, 8))):
        packed[data.draw(st.integers(0, min(len(packed), 400) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)) | st.just(len(packed)))
    try:
        result = read(bytes(packed[:cut]))
    except WireError:
        return
    assert isinstance(result, Message)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["kind", "url", "port", "live", "sampling", "sandbox", "mode"]), inner)
        ),
        max_leaves=10,
    )
)
def test_any_json_as_a_job_raises_nothing_but_wire_error(value: object) -> None:
    """A job of any JSON shape is a job or WireError."""
    try:
        job = wire.parse_body(Kind.JOB, json.dumps(value).encode())
    except WireError:
        return
    assert isinstance(job, Job)


def test_deeply_nested_job_raises_wire_error() -> None:
    """JSON nested deeper than the parser goes is refused like any other nonsense."""
    with pytest.raises(WireError):
        wire.parse_body(Kind.JOB, b"[" * wire.JOB_LIMIT_BYTES)


@pytest.mark.parametrize(
    ("offset", "field"),
    [
        (8, struct.pack("<d", math.inf)),
        (16, struct.pack("<d", math.nan)),
        (32, b"\xff"),
        (33, b"\x02"),
        (34, bytes([MAX_TRACKS])),
        (36, b"\0\0\0\0"),
    ],
    ids=["arrived at infinity", "decoded at no time", "unknown reason", "flag of 2", "ninth track", "no width"],
)
def test_frame_field_out_of_range_is_refused(offset: int, field: bytes) -> None:
    """A frame with one impossible field is refused whole."""
    frame = Frame(1, 1.0, 1.0, None, SampleReason.KEYFRAME, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))
    packed = bytearray(wire.pack(frame))
    at = wire.HEADER.size + offset
    packed[at : at + len(field)] = field

    with pytest.raises(WireError):
        read(bytes(packed))


@pytest.mark.parametrize("within", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 8])
def test_adjust_to_no_length_of_time_is_refused(within: float, at: int) -> None:
    """A promise of no time, of negative or endless time, or of a mode there is not, is no order."""
    packed = bytearray(wire.pack(Adjust(SamplingSettings())))
    struct.pack_into("<d", packed, wire.HEADER.size + at, within)
    with pytest.raises(WireError):
        read(bytes(packed))

    packed = bytearray(wire.pack(Adjust(SamplingSettings())))
    packed[wire.HEADER.size + 16] = len(SamplingMode)
    with pytest.raises(WireError):
        read(bytes(packed))


@pytest.mark.parametrize(
    ("at", "field"), [(17, b"\x02"), (24, struct.pack("<d", 1.1)), (24, struct.pack("<d", math.nan))]
)
def test_adjust_to_no_share_of_gops_is_refused(at: int, field: bytes) -> None:
    """More than all GOPs, or a spike switch of neither on nor off, is no order."""
    packed = bytearray(wire.pack(Adjust(SamplingSettings())))
    packed[wire.HEADER.size + at : wire.HEADER.size + at + len(field)] = field

    with pytest.raises(WireError):
        read(bytes(packed))


@pytest.mark.parametrize(
    "second",
    [{"reason": SampleReason.SPIKE}, {"track": 1}, {"reason": SampleReason.KEYFRAME}],
    ids=["two reasons", "two tracks", "a keyframe"],
)
def test_burst_of_frames_of_two_kinds_is_refused(second: dict[str, object]) -> None:
    """What stands for one GOP is of one track and was sampled for one reason."""
    frame = Frame(1, 1.0, 1.0, None, SampleReason.BURST, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))

    assert read(wire.pack(Burst((frame, frame)))) == Burst((frame, frame))
    with pytest.raises(WireError):
        read(wire.pack(Burst((frame, replace(frame, **second)))))
    with pytest.raises(WireError):
        read(wire.pack(Burst((replace(frame, reason=SampleReason.INTERVAL),))))


@pytest.mark.parametrize(("reason", "moved"), [(SampleReason.KEYFRAME, 1), (SampleReason.BURST, 2)])
def test_only_a_frame_of_a_burst_has_moved(reason: SampleReason, moved: int) -> None:
    """A reader that was taken over cannot keep keyframes from models by a word."""
    packed = bytearray(
        wire.pack(Frame(1, 1.0, 1.0, None, reason, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES)))
    )
    packed[wire.HEADER.size + 35] = moved

    with pytest.raises(WireError):
        read(bytes(packed))


@pytest.mark.parametrize("count", [0, MAX_BURST_FRAMES + 1])
def test_burst_of_none_or_too_many_is_refused_before_it_is_read(count: int) -> None:
    """A header that announces no frame, too many or a part of one is refused."""
    frame = Frame(1, 1.0, 1.0, None, SampleReason.BURST, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))
    packed = wire.pack(Burst((frame,) * count))

    with pytest.raises(WireError):
        wire.parse_header(packed[: wire.HEADER.size])
    with pytest.raises(WireError):
        wire.parse_header(wire.HEADER.pack(wire.MAGIC, Kind.BURST, len(wire.pack(Burst((frame,)))) + 1))


def test_text_of_a_reader_holds_no_control_characters() -> None:
    """What a reader calls its codec or its end can be logged: printable ASCII of bounded length."""
    body = bytearray(wire.pack(OPENED))
    body[wire.HEADER.size : wire.HEADER.size + 6] = b"\x1b[2J\n\xff"

    message = read(bytes(body))

    assert isinstance(message, Opened)
    assert message.codec == "?[2J??"
    assert wire_values.printable("a\r\nb\u202e" + "c" * 300, 10) == "a??b?ccccc"


def test_announced_lengths_are_fixed() -> None:
    """A header that announces another length than its kind has is refused before anything is read."""
    for length in (0, 1, 10**9):
        with pytest.raises(WireError):
            wire.parse_header(wire.HEADER.pack(wire.MAGIC, Kind.FRAME, length))
    with pytest.raises(WireError):
        wire.parse_header(wire.HEADER.pack(wire.MAGIC, Kind.JOB, wire.JOB_LIMIT_BYTES + 1))


ASKED = st.integers(0, MAX_SHAPED_SIDE)
FRAME_BODY = (
    len(wire.pack(Frame(1, 1.0, 1.0, None, SampleReason.BURST, False, 64, 64, bytes(4096), bytes(196608))))
    - wire.HEADER.size
)


@given(ASKED, ASKED, sides, sides)
def test_a_shaped_picture_is_bounded_by_the_job_alone(short: int, long: int, width: int, height: int) -> None:
    """Whatever shape a stream claims, the picture has at least a pixel, at most the job's bytes, never more pixels."""
    across, down = shaped_size(short, long, width, height)

    assert across * down * 3 <= shaped_bytes(short, long) <= MAX_SHAPED_BYTES
    if not short and not long:
        assert (across, down) == (0, 0)
        return
    assert 1 <= across <= width
    assert 1 <= down <= height
    if max(width, height) <= 2 * min(width, height):  # a usual shape is kept, and what was asked for is there
        assert abs(across * height - down * width) <= max(width, height)
        assert min(across, down) >= min(short, width, height)
        assert max(across, down) >= min(long, max(width, height))


@given(st.integers(0, MAX_SHAPED_BYTES), st.integers(0, 2**32 - 1) | st.integers(0, 10 * FRAME_BODY))
def test_announced_lengths_are_bounded_by_what_was_asked_for(most: int, length: int) -> None:
    """No header makes the service hold more than a frame, or a burst of eight, with the pictures it asked for."""
    for kind, count in ((Kind.FRAME, 1), (Kind.BURST, MAX_BURST_FRAMES)):
        try:
            assert wire.parse_header(wire.HEADER.pack(wire.MAGIC, kind, length), most) == (kind, length)
        except WireError:
            assert not FRAME_BODY <= length <= FRAME_BODY + most  # one frame with any picture is always let through
        else:
            assert FRAME_BODY <= length <= count * (FRAME_BODY + most)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=3),
    st.integers(0, 2),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    st.integers(-9, 9),
)
def test_a_shaped_picture_that_lies_about_its_size_is_refused(
    shapes: list[tuple[int, int]], liar: int, claimed: tuple[int, int], more: int
) -> None:
    """A claimed size that is not that of the bytes, bytes too many or too few: the whole burst is refused."""
    frame = Frame(1, 1.0, 1.0, None, SampleReason.BURST, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))
    burst = Burst(tuple(replace(frame, shaped=ShapedPicture(w, h, bytes(w * h * 3))) for w, h in shapes))
    body = bytearray(wire.pack(burst)[wire.HEADER.size :])
    liar = min(liar, len(shapes) - 1)
    at = sum(FRAME_BODY + w * h * 3 for w, h in shapes[:liar]) + 44
    struct.pack_into("<HH", body, at, *claimed)
    body = body[:more] if more < 0 else body + bytes(more)

    width, height = shapes[liar]
    if more == 0 and claimed[0] * claimed[1] == width * height:
        assert wire.parse_body(Kind.BURST, bytes(body)).frames[liar].shaped.width == claimed[0]
        return
    with pytest.raises(WireError):
        wire.parse_body(Kind.BURST, bytes(body))


def test_a_job_asks_for_no_larger_picture_than_any_may_be() -> None:
    """A side beyond the limit is a fault of whoever asks, and no reader is told of it."""
    job = Job(SourceKind.FILE, "", 0, True, SamplingSettings(), SandboxMode.PREFER, shaped_short=352, shaped_long=640)
    assert read(wire.pack(job)) == job
    with pytest.raises(ValueError, match="0 to 640"):
        replace(job, shaped_short=MAX_SHAPED_SIDE + 1)

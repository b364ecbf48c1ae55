"""Units: what is written is what is meant, and it prints back to the same value."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from detector.config.addresses import ListenAddress, MqttUrl, SourceUrl
from detector.config.units import Between, Duration, Moment, Share, Size, Unit
from streams.job import SourceKind


@pytest.mark.parametrize(
    ("text", "ms"),
    [("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("30d", 2_592_000_000), ("0s", 0)],
)
def test_duration_reads_its_units(text: str, ms: int) -> None:
    """Each unit means what it says, down to the millisecond."""
    assert Duration.parse(text).ms == ms
    assert Duration.parse(text).seconds == ms / 1000


@pytest.mark.parametrize(
    "text", ["", "3", "3 s", "s", "-3s", "+3s", "1e3s", "3S", "3sec", "1m30s", "٣s", "3s\n", ".5s"]
)
def test_duration_refuses_anything_else_and_shows_an_example(text: str) -> None:
    """A duration without a unit, with another one, or with more than one is refused with an example."""
    with pytest.raises(ValueError, match=r"is no duration; write .* such as 1\.5s"):
        Duration.parse(text)


def test_duration_refuses_what_a_millisecond_cannot_hold() -> None:
    """Nothing is rounded behind the operator's back."""
    with pytest.raises(ValueError, match="finer than a millisecond"):
        Duration.parse("0.5ms")


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64KiB", 65_536), ("16MiB", 16_777_216), ("1.5GiB", 1_610_612_736), ("0B", 0)]
)
def test_size_reads_its_units(text: str, size: int) -> None:
    """Sizes count in powers of two."""
    assert Size.parse(text).bytes == size


@pytest.mark.parametrize("text", ["2GB", "16M", "16", "16 MiB", "0.3B", "1TiB"])
def test_size_refuses_decimal_units_and_bare_numbers(text: str) -> None:
    """A unit that could mean two things is refused."""
    with pytest.raises(ValueError, match="such as 16MiB"):
        Size.parse(text)


@pytest.mark.parametrize(
    ("text", "unix_seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01T01:00Z", 3600),
        ("1970-01-01T01:00:01+01:00", 1),
        ("2027-01-31T18:00:00Z", 1_801_418_400),
    ],
)
def test_a_moment_is_a_day_or_a_time_with_its_zone(text: str, unix_seconds: int) -> None:
    """A day begins at midnight UTC; a time says which zone it is in."""
    assert Moment.parse(text).unix_seconds == unix_seconds


@pytest.mark.parametrize("text", ["", "tomorrow", "2027-02-30", "2027-01-31T18:00:00", "2027-01-31 18:00Z", "20270131"])
def test_a_moment_without_a_zone_or_that_never_comes_is_refused(text: str) -> None:
    """A local time could mean any of two dozen."""
    with pytest.raises(ValueError, match="is no time; write a day such as 2027-01-31"):
        Moment.parse(text)


@given(st.integers(0, 4_102_444_800))
def test_a_moment_prints_back(unix_seconds: int) -> None:
    """What is printed is what is read."""
    assert Moment.parse(str(Moment(unix_seconds))) == Moment(unix_seconds)


@pytest.mark.parametrize(
    ("given", "ratio"), [("2%", 0.02), (0.02, 0.02), ("0.02", 0.02), (0, 0.0), ("100%", 1.0), (1, 1.0)]
)
def test_share_reads_percentages_and_ratios(given: object, ratio: float) -> None:
    """`2%` and `0.02` are the same share."""
    assert Share.from_yaml(given).ratio == ratio


@pytest.mark.parametrize("given", ["101%", 3, 1.01, -0.1, True, None, "2 %", "two", [], float("nan")])
def test_share_refuses_more_than_the_whole_and_other_kinds(given: object) -> None:
    """A bare 3 is not quietly 3 %, and true is not 100 %."""
    with pytest.raises(ValueError, match="such as 2%"):
        Share.from_yaml(given)


_UNITS = st.one_of(
    st.integers(0, 10**9).map(Duration),
    st.integers(0, 2**40).map(Size),
    st.integers(0, 10**6).map(lambda millionths: Share(millionths / 10**6)),
    st.tuples(st.sampled_from(["127.0.0.1", "::1", "localhost", "a-b.example"]), st.integers(0, 65535)).map(
        lambda parts: ListenAddress(*parts)
    ),
    st.tuples(st.sampled_from(["127.0.0.1", "::1", "broker.example"]), st.integers(0, 65535), st.booleans()).map(
        lambda parts: MqttUrl(*parts)
    ),
)


@given(_UNITS)
def test_every_unit_prints_back_to_itself(value: Unit) -> None:
    """What a unit prints is accepted, by the same type and as the same value."""
    assert type(value).parse(str(value)) == value
    assert TypeAdapter(type(value)).validate_python(str(value)) == value


@given(st.sampled_from([Duration, Size, Share, ListenAddress, MqttUrl]), st.text() | st.from_regex(r"[0-9.:%a-zA-Z]+"))
def test_units_refuse_any_text_by_a_sentence(unit: type[Unit], text: str) -> None:
    """Whatever stands in the file, the answer is a value or one ValueError."""
    try:
        value = unit.parse(text)
    except ValueError as error:
        assert "write " in str(error)  # noqa: PT017 - most texts are refused, some are not
    else:
        assert unit.parse(str(value)) == value


def test_between_names_both_bounds() -> None:
    """Out of range says what was written and what the range is; the bounds themselves are in it."""
    short = TypeAdapter(Annotated[Duration, Between("50ms", "1m")])
    assert short.validate_python("50ms").ms == 50
    assert short.validate_python("60s").ms == 60_000
    with pytest.raises(ValidationError, match="120s is out of range; write between 50ms and 1m"):
        short.validate_python("120s")
    assert short.json_schema()["x-maximum"] == "1m"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8936", "127.0.0.1", 8936), ("[::1]:0", "::1", 0), ("localhost:1", "localhost", 1)],
)
def test_listen_address_reads_both_families(text: str, host: str, port: int) -> None:
    """IPv4, names and bracketed IPv6, and port 0 for any free one."""
    assert ListenAddress.parse(text) == ListenAddress(host, port)


@pytest.mark.parametrize(
    "text",
    [":8936", "8936", "127.0.0.1", "::1:80", "[127.0.0.1]:80", "1.2.3:80", "256.1.1.1:80", "a b:80", "-a:1", "h:65536"],
)
def test_listen_address_refuses_what_cannot_be_bound(text: str) -> None:
    """A mistyped address is not taken for a host's name."""
    with pytest.raises(ValueError, match="write "):
        ListenAddress.parse(text)


@pytest.mark.parametrize(
    "url",
    ["ssl://h:1", "h:1883", "mqtt://", "mqtt://h:65536", "mqtt://h:x", "mqtt://h/topic", "mqtt://h?x=1", "mqtt://[::1"],
)
def test_mqtt_url_refuses_other_forms(url: str) -> None:
    """Only mqtt:// and mqtts:// to a host and a port are spoken."""
    with pytest.raises(ValueError, match="mqtt://HOST:PORT"):
        MqttUrl.parse(url)


def test_mqtt_url_never_repeats_credentials() -> None:
    """Credentials in the URL are refused without being shown."""
    with pytest.raises(ValueError, match="username and password") as caught:
        MqttUrl.parse("mqtt://user:hunter2@127.0.0.1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "loopback", "address", "has_tls"),
    [
        ("mqtt://127.0.0.9", True, "127.0.0.9:1883", False),
        ("mqtts://[::1]", True, "[::1]:8883", True),
        ("mqtts://b.example:1", False, "b.example:1", True),
        ("mqtt://localhost:0", True, "localhost:0", False),
    ],
)
def test_mqtt_url_knows_this_machine(url: str, address: str, *, loopback: bool, has_tls: bool) -> None:
    """Loopback is told from the rest without asking a resolver; each scheme has its registered port."""
    read = MqttUrl.parse(url)
    assert (read.is_loopback, read.address, read.has_tls) == (loopback, address, has_tls)


@pytest.mark.parametrize(
    ("url", "origin", "kind"),
    [
        ("http://192.0.2.1:8080/live/KEY.ts?t=KEY", "http://192.0.2.1:8080", SourceKind.HTTP_TS),
        ("http://user:KEY@cdn.example/x.ts", "http://cdn.example", SourceKind.HTTP_TS),
        ("rtmp://[2001:db8::1]/live/KEY", "rtmp://[2001:db8::1]", SourceKind.RTMP),
        ("rtmps://h/live/KEY", "rtmps://h", SourceKind.RTMP),
        ("rtsp://u:KEY@192.0.2.1/KEY", "rtsp://192.0.2.1", SourceKind.RTSP),
        ("udp://127.0.0.1:5000", "udp://127.0.0.1:5000", SourceKind.UDP),
        ("udp://[ff02::1]:5000", "udp://[ff02::1]:5000", SourceKind.UDP),
    ],
)
def test_source_url_shows_no_key(url: str, origin: str, kind: SourceKind) -> None:
    """What is printed is scheme and host; the whole URL comes out only by asking for it."""
    source = SourceUrl.parse(url)
    assert (source.origin, source.kind, source.reveal()) == (origin, kind, url)
    assert "KEY" not in f"{source} {source!r}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "/KEY",
            "-",
            "file:///KEY",
            "file:KEY",
            "concat:KEY|x",
            "subfile,,start,0,end,9,,:KEY",
            "cache:http://h/KEY",
        ),
        *("async:KEY", "crypto:KEY", "data:text/plain,KEY", "fd:3", "pipe:0", "tcp://h:1/KEY", "tls://h:1/KEY"),
        *("unix:/KEY", "ftp://h/KEY", "gopher://h/KEY", "mmsh://h/KEY", "rtmpt://h/KEY", "httpproxy://h:1/KEY"),
        *("http://", "http:///KEY", "http://h/KEY#x", "http://h:0/KEY", "http://h/KEY\nHost:x", "http://h:x/KEY", 5),
    ],
)
def test_source_url_refuses_others_without_repeating_them(url: object) -> None:
    """A refused URL is not quoted: its path may be a publisher's key."""
    with pytest.raises(ValueError, match="is no URL of a stream") as caught:
        SourceUrl.parse(url)
    assert "KEY" not in str(caught.value)

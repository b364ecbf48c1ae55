"""The head of an upload: read or refused by one sentence, whatever it says; and the pace that a body must keep."""

from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config.faults import ConfigError
from detector.config.loading import load_config
from detector.config.uploads import UploadsSection
from detector.metric_words import UploadEnd
from detector.uploads.ask import GRACE_SECONDS, Ask, Pace, UploadRefused, read_ask

LIMITS = UploadsSection.model_validate({"size_limit": "1MiB"})
_WORDS = st.sampled_from(
    ["0", "1", "1048576", "1048577", "+1", "-1", "1_0", "٣", "1 ", "", "9" * 30, "0x10", "chunked", "gzip", "identity"]
)


def _read(headers: dict[str, str], query: list[tuple[str, str]]) -> Ask | UploadRefused:
    try:
        return read_ask(headers, query, LIMITS)
    except UploadRefused as refusal:
        return refusal


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, [], HTTPStatus.LENGTH_REQUIRED),
        ({"transfer-encoding": "gzip"}, [], HTTPStatus.LENGTH_REQUIRED),
        ({"content-length": "0"}, [], HTTPStatus.BAD_REQUEST),
        ({"content-length": "1e3"}, [], HTTPStatus.BAD_REQUEST),
        ({"content-length": "1048577"}, [], HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        ({"content-length": "5", "content-encoding": "gzip"}, [], HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        ({"content-length": "5", "content-type": "Multipart/Form-Data; x=y"}, [], HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        ({"content-length": "5"}, [("until", "dawn")], HTTPStatus.BAD_REQUEST),
        ({"content-length": "5"}, [("untill", "first_cut")], HTTPStatus.BAD_REQUEST),
        ({"content-length": "5"}, [("until", "end")] * 9, HTTPStatus.BAD_REQUEST),
    ],
)
def test_a_head_that_is_not_meant_for_us_is_refused(
    headers: dict[str, str], query: list[tuple[str, str]], status: HTTPStatus
) -> None:
    """Each with its status and one sentence that repeats nothing of what was sent."""
    refusal = _read(headers, query)

    assert isinstance(refusal, UploadRefused)
    assert refusal.status is status
    assert str(refusal).endswith(".")
    assert "untill" not in str(refusal)


def test_a_head_that_is_meant_for_us_is_read() -> None:
    """A length up to the limit, or chunks; whatever type a client puts there; what is wanted of the look."""
    plain = {"content-type": "application/x-www-form-urlencoded"}
    assert read_ask({**plain, "content-length": "1048576"}, [], LIMITS) == Ask(1048576)
    assert read_ask({"transfer-encoding": "chunked"}, [("until", "first_cut")], LIMITS) == Ask(None, True)
    assert read_ask({"content-length": "1"}, [("until", "first_cut"), ("until", "end")], LIMITS) == Ask(1, False)


@given(
    st.dictionaries(
        st.sampled_from(["content-length", "transfer-encoding", "content-encoding", "content-type", "host"]),
        _WORDS | st.text(max_size=40),
    ),
    st.lists(st.tuples(st.text(max_size=10), _WORDS), max_size=12),
)
def test_any_head_is_read_or_refused(headers: dict[str, str], query: list[tuple[str, str]]) -> None:
    """Whatever stands in a head, it comes to a bounded length or to a refusal of the client, never to another error."""
    ask = _read(headers, query)
    if isinstance(ask, UploadRefused):
        assert 400 <= ask.status < 500
        assert ask.end in (UploadEnd.BAD_REQUEST, UploadEnd.TOO_LONG)
    else:
        assert ask.length_bytes is None or 0 < ask.length_bytes <= LIMITS.size_limit.bytes


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.floats(1, 1e9), st.floats(1, 86_400), st.floats(-1e6, 1e6))
def test_more_bytes_never_buy_less_time_and_never_more_than_all(
    one: int, other: int, rate: float, longest: float, began_at: float
) -> None:
    """A file has its grace, what its bytes paid for at the least pace, and never more than a whole one may take."""
    pace = Pace(began_at, rate, longest)
    fewer, more = sorted((one, other))

    assert began_at + min(GRACE_SECONDS, longest) <= pace.ends_at(fewer) <= pace.ends_at(more) <= began_at + longest


def test_a_slow_disk_is_not_the_clients_fault() -> None:
    """Time in which we wrote counts towards the whole, and not towards the pace."""
    pace = Pace(0.0, 1000.0, 60.0)
    pace.excuse(5.0)
    assert pace.ends_at(0) == GRACE_SECONDS + 5.0
    pace.excuse(100.0)
    assert pace.ends_at(0) == 60.0


def test_a_slow_file_is_told_from_a_late_one() -> None:
    """The sentence names the key of the config that was not kept."""
    pace = Pace(100.0, 1000.0, 60.0)
    assert "uploads.slowest" in str(pace.refusal(50, 111.0))
    assert "uploads.receive_within" in str(pace.refusal(10**6, 160.0))
    assert pace.refusal(50, 111.0).status is HTTPStatus.REQUEST_TIMEOUT


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ("size_limit: 1GiB, disk_limit: 1MiB", "less than one file may have"),
        ("looked_at_once: 0", "is no number of files"),
        ("looked_at_once: true", "is no number of files"),
        ("at_once: 0", "at_once"),
        ("enabled: true", "http.token"),
    ],
)
def test_limits_that_let_nothing_in_are_refused(section: str, what: str, tmp_path: Path) -> None:
    """A door that no file could pass, or that nobody has the key of, is a fault of the config."""
    (tmp_path / "stopframe.yaml").write_text(f"state_dir: state\nuploads: {{{section}}}\n")
    with pytest.raises(ConfigError, match=what):
        load_config(tmp_path / "stopframe.yaml")


def test_auto_is_two_at_least() -> None:
    """One place is left to pictures while a long clip is looked at, on a single core too."""
    assert UploadsSection().look_count >= 2
    assert UploadsSection(looked_at_once=1).look_count == 1

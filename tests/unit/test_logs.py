"""Where log events go, and what never stands in them."""

import json
import logging
import subprocess
import sys

import pytest
import structlog

from detector.logs import TRACEBACK_CHARACTERS, configure_logs
from detector.redaction import hide_secret


def test_json_lines_go_to_stderr_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Events below the level are dropped; the others are one JSON object a line on stderr, with level and time."""
    configure_logs("warning", "json")
    structlog.get_logger().info("stream.seen")
    structlog.get_logger().warning("stream.lost", stream="A")

    written = capsys.readouterr()
    (event,) = (json.loads(line) for line in written.err.splitlines())

    assert written.out == ""
    assert (event["event"], event["stream"], event["level"]) == ("stream.lost", "A", "warning")
    assert event["timestamp"].endswith("Z")


def test_auto_is_json_in_a_pipe_and_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` writes JSON where nobody sits; `console` writes text without colours there."""
    assert not sys.stderr.isatty()
    configure_logs("info", "auto")
    structlog.get_logger().info("one.fact")
    configure_logs("info", "console")
    structlog.get_logger().info("other.fact", count=3)

    first, second = capsys.readouterr().err.splitlines()

    assert json.loads(first)["event"] == "one.fact"
    assert "other.fact" in second
    assert "count=3" in second
    assert "\x1b" not in second


def test_credentials_in_a_url_never_reach_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a library says, what stands before the @ of a URL is not written; nor are its chatty lines."""
    configure_logs("info", "json")
    logging.getLogger("some.library").warning("cannot reach rtmp://user:s3cret@192.0.2.1/live")
    logging.getLogger("some.library").info("connecting")

    (event,) = (json.loads(line) for line in capsys.readouterr().err.splitlines())

    assert event["event"] == "cannot reach rtmp://***@192.0.2.1/live"


def test_an_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback in the JSON log stays within its object."""
    configure_logs("info", "json")
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger().warning("it.broke", exc_info=True)

    (event,) = (json.loads(line) for line in capsys.readouterr().err.splitlines())

    assert "ValueError: odd" in event["exception"]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """What functions hold while they fail are URLs with keys in them: a traceback names lines, never values."""
    configure_logs("info", form)  # type: ignore[arg-type]

    def fail(url: str) -> None:
        raise ZeroDivisionError(len(url))

    try:
        fail("rtmp://127.0.0.1/live/" + "the-secret" + "-key")
    except ZeroDivisionError:
        structlog.get_logger().exception("session.failed")
        logging.getLogger("asyncio").exception("never retrieved")

    written = capsys.readouterr().err
    assert written.count("ZeroDivisionError") >= 2
    assert "the-secret-key" not in written


_BREAKING = """
import threading, warnings
from detector.logs import catch_faults
from detector.redaction import hide_secret
catch_faults()
hide_secret("hunter2-and-more")
def fail(password):
    raise ValueError(f"no {password}")
warnings.warn("deprecated: hunter2-and-more", DeprecationWarning)
warnings.warn("odd: hunter2-and-more", RuntimeWarning)
thread = threading.Thread(target=fail, args=("hunter2-and-more",))
thread.start()
thread.join()
class Leaving:
    def __del__(self):
        fail("hunter2-and-more")
Leaving()
local = "another-local-value"
fail("hunter2-and-more")
"""


def test_faults_that_nobody_caught_are_events_without_secrets() -> None:
    """In the main thread, another one, a destructor and a warning: an event each, no variables, no secret."""
    done = subprocess.run([sys.executable, "-c", _BREAKING], capture_output=True, text=True, timeout=60, check=False)

    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events if event["level"] == "error"] == ["process.fault"] * 3
    assert any("odd: ***" in event["event"] for event in events)
    assert "ValueError: no ***" in events[-1]["exception"]
    assert "hunter2-and" not in done.stderr + done.stdout
    assert done.returncode == 1
    assert done.stdout == ""


@pytest.mark.usefixtures("expects_errors")
@pytest.mark.parametrize("form", ["console", "json"])
def test_a_huge_error_is_cut_and_no_secret_with_it(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Of an error's megabytes the end is shown; no secret is cut open there, on lines or in one piece."""
    hide_secret("hunter2-and-more")
    configure_logs("info", form)  # type: ignore[arg-type]
    for text in ("hunter2-and-more" * 100_000, "x hunter2-and-more\n" * 100_000):
        try:
            raise ValueError(text)
        except ValueError:
            structlog.get_logger().exception("session.failed")

    written = capsys.readouterr().err
    assert "***" in written
    assert "and-more" not in written
    assert len(written) < 10 * TRACEBACK_CHARACTERS

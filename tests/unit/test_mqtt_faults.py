"""Why the broker cannot be used: one sentence for whatever the socket, TLS or the broker says."""

import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.alerts.mqtt_faults import explain_failure, explain_refusal


def _certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "some words"
    return error


def _tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "failed")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_certificate(9), "set this machine's clock"),
        (_certificate(10), "has expired; renew it"),
        (_certificate(18), "under alerts.mqtt.ca_file"),
        (_certificate(19), "under alerts.mqtt.ca_file"),
        (_certificate(62), "is not for b.example"),
        (_certificate(64), "is not for b.example"),
        (_certificate(23), "is not valid (some words); renew it"),
        (_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "name one under alerts.mqtt.certificate_file"),
        (_tls("TLSV1_ALERT_UNKNOWN_CA"), "does not accept our certificate"),
        (_tls("WRONG_VERSION_NUMBER"), "speaks no TLS there"),
        (_tls("SOMETHING_ELSE"), "TLS failed (something else)"),
        (socket.gaierror(-2, "Name or service not known"), "the name b.example is not known"),
        (ConnectionRefusedError(111, "Connection refused"), "start the broker"),
        (TimeoutError(), "does not answer"),
        (ConnectionResetError(), "closed the connection"),
        (OSError(101, "Network is unreachable"), "(Network is unreachable); check the network"),
        (ValueError("x"), "see the broker's log"),
    ],
)
def test_each_failure_has_its_remedy(error: Exception, words: str) -> None:
    """The sentence names what is wrong and, after a semicolon, what to do."""
    told = explain_failure(error, host="b.example", has_tls=True)
    assert words in told
    assert "; " in told


def test_a_closed_connection_points_at_the_other_way_to_speak() -> None:
    """A TLS port closes a plain connection without a word, and a plain port a TLS one."""
    assert "mqtts://" in explain_failure(ConnectionResetError(), host="h", has_tls=False)
    assert "no TLS there" in explain_failure(ConnectionResetError(), host="h", has_tls=True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x05, "correct alerts.mqtt.username and password"),
        (0x87, "correct alerts.mqtt.username and password"),
        (0x8E, "a node name of its own"),
        (0x9F, "no room for us"),
        (0x80, "see the broker's log"),
    ],
)
def test_each_refusal_has_its_remedy(code: int, words: str) -> None:
    """Reason codes of both MQTT versions become sentences."""
    assert words in explain_refusal(code, "Some words")


@given(st.integers(0, 255), st.text())
def test_no_code_is_without_a_sentence(code: int, words: str) -> None:
    """Whatever a broker answers, there is a sentence with a remedy."""
    assert "; " in explain_refusal(code, words)

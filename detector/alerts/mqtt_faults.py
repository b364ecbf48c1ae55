"""Why there is no connection to the broker, in one sentence with its remedy. Pure; no sentence holds a secret."""

import socket
import ssl
from typing import Final

_SESSION_TAKEN_OVER: Final = 0x8E
"""DISCONNECT reason of MQTT 5, section 3.14.2.1: another client connected under our client identifier."""

_LETS_NOBODY_IN: Final = {0x04, 0x05, 0x86, 0x87, 0x8C}
"""CONNACK codes: 3.1.1's bad user name or password and not authorized (section 3.2.2.3), and MQTT 5's own of both."""

_IS_BUSY: Final = {0x03, 0x88, 0x89, 0x97, 0x9F}
"""CONNACK codes: server unavailable, busy, quota exceeded, connection rate exceeded."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h, as ssl.SSLCertVerificationError.verify_code gives them.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_AUTHORITY: Final = {18, 19, 20, 21}
_OTHER_HOST: Final = {62, 64}

_CLOSED: Final = "it closed the connection; see the broker's log, or write mqtts://, in case it speaks TLS there"
_CLOSED_TLS: Final = (
    "it closed the connection; see the broker's log: it may want a certificate of ours "
    "(alerts.mqtt.certificate_file), or speak no TLS there"
)
BROKEN: Final = "the connection broke; check that the broker runs"


def explain_refusal(code: int, words: str) -> str:
    """Return why a broker's CONNACK or DISCONNECT sent us away; `words` is the code in the standard's own words."""
    if code in _LETS_NOBODY_IN:
        return f"it does not let us in ({words}); correct alerts.mqtt.username and password, or the broker's list"
    if code == _SESSION_TAKEN_OVER:
        return "another client took our client identifier; give every service a node name of its own"
    if code in _IS_BUSY:
        return f"it has no room for us ({words}); raise its limits, or see what else connects"
    return f"it refuses us ({words}); see the broker's log"


def explain_failure(error: BaseException, *, host: str, has_tls: bool) -> str:
    """Return why no connection came about, from the exception of the socket or of TLS."""
    match error:
        case ssl.SSLCertVerificationError():
            why = _explain_certificate(error, host)
        case ssl.SSLError():
            why = _explain_tls(error)
        case socket.gaierror():
            why = f"the name {host} is not known; correct the host in alerts.mqtt.url, or this machine's resolver"
        case ConnectionRefusedError():
            why = "nothing listens there; start the broker, or correct alerts.mqtt.url"
        case TimeoutError():
            why = "it does not answer; check that it runs and that no firewall stands between"
        case ConnectionError():
            why = _CLOSED_TLS if has_tls else _CLOSED
        case OSError() if error.strerror:
            why = f"it cannot be reached ({error.strerror}); check the network and alerts.mqtt.url"
        case _:
            why = "the connection failed; see the broker's log"
    return why


def _explain_certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate has expired; renew it at the broker"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet; set this machine's clock, or renew the certificate at the broker"
    if code in _OTHER_HOST:
        return f"its certificate is not for {host}; write the name that it is for into alerts.mqtt.url, or renew it"
    if code in _UNKNOWN_AUTHORITY:
        return (
            "no authority that we trust vouches for its certificate; name the one that does under alerts.mqtt.ca_file"
        )
    return f"its certificate is not valid ({error.verify_message}); renew it at the broker"


def _explain_tls(error: ssl.SSLError) -> str:
    reason = (error.reason or "").lower().replace("_", " ")
    if "certificate required" in reason or "handshake failure" in reason:
        return (
            "it asks for a certificate of ours; name one under alerts.mqtt.certificate_file and key_file, "
            "signed by an authority that the broker trusts"
        )
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return "it does not accept our certificate; renew alerts.mqtt.certificate_file with an authority that it trusts"
    if reason in {
        "wrong version number",
        "unexpected eof while reading",
        "packet length too long",
        "record layer failure",
    }:
        return "it speaks no TLS there; write its TLS port (often 8883) into alerts.mqtt.url, or mqtt://"
    return f"TLS failed ({reason or 'no reason given'}); see the broker's log"

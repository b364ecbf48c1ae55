"""What questions to servers and platforms are signed with: JSON Web Tokens, AWS Signature Version 4, and our own.

Sources: RFC 7515 and RFC 7519 (HS256 alone); "Signature Version 4 signing process" of the AWS documentation.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

SIGNATURE_HEADER: Final = "stopframe-signature"
_SKEW_SECONDS: Final = 300
_SIGNATURE: Final = re.compile(r"t=([0-9]{1,12}),v1=[0-9a-f]{64}")


def bearer_token(secret: str, claims: Mapping[str, Any]) -> str:
    """A JSON Web Token over `claims`, signed with HS256."""
    head = _encoded(b'{"alg":"HS256","typ":"JWT"}')
    payload = _encoded(json.dumps(claims, separators=(",", ":")).encode())
    return f"{head}.{payload}.{_encoded(_hmac(secret.encode(), f'{head}.{payload}'.encode()))}"


def token_claims(secret: str, token: str, *, now: float) -> dict[str, Any] | None:
    """What a token claims, or None where it is not signed with HS256 and `secret`, is over, or not begun."""
    head, _, rest = token.partition(".")
    payload, _, given = rest.partition(".")
    expected = _encoded(_hmac(secret.encode(), f"{head}.{payload}".encode("utf-8", "replace")))
    if not hmac.compare_digest(expected.encode(), given.rstrip("=").encode("utf-8", "replace")):
        return None
    try:
        kind, claims = json.loads(_decoded(head)), json.loads(_decoded(payload))
        ends_at = float(claims.get("exp", now))
        begins_at = float(claims.get("nbf", now))
        is_ours = kind["alg"] == "HS256"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    is_in_time = begins_at - _SKEW_SECONDS <= now <= ends_at + _SKEW_SECONDS
    return dict(claims) if is_ours and is_in_time else None


def stamped_signature(secret: str, at_seconds: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 over the seconds, a dot and the body, for the header `Stopframe-Signature`."""
    return f"t={at_seconds},v1={_hmac(secret.encode(), b'%d.' % at_seconds + body).hex()}"


def is_signed(secret: str, header: str, body: bytes, *, now: float) -> bool:
    """Whether `header` is the `stamped_signature` of `body`, made within five minutes of `now`."""
    match = _SIGNATURE.fullmatch(header)
    if match is None or abs(now - int(match[1])) > _SKEW_SECONDS:
        return False
    return hmac.compare_digest(stamped_signature(secret, int(match[1]), body), header)


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """Who signs, for one service in one region."""

    key_id: str
    secret: str = field(repr=False)
    region: str
    service: str
    session_token: str | None = field(default=None, repr=False)


def aws_headers(  # noqa: PLR0913 - what a request is made of, by name
    who: AwsCredentials, method: str, host: str, path: str, body: bytes, *, now: float, extra: Mapping[str, str]
) -> dict[str, str]:
    """The headers that sign one request without a query, `extra` among them (names in small letters).

    `path` is sent as it stands and must need no quoting.
    """
    at = datetime.fromtimestamp(now, UTC)
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    signed = {"host": host, "x-amz-date": stamp, **extra}
    if who.session_token is not None:
        signed["x-amz-security-token"] = who.session_token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{who.region}/{who.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{who.secret}".encode()
    for part in (day, who.region, who.service, "aws4_request"):
        key = _hmac(key, part.encode())
    signature = _hmac(key, text.encode()).hex()
    credential = f"{who.key_id}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**{k: v for k, v in signed.items() if k != "host"}, "authorization": authorization}


def url_safe(digest: bytes) -> str:
    """Base64url without padding (RFC 4648)."""
    return _encoded(digest)


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("no base64") from error

"""Signatures of requests: AWS's own published vectors, tokens and stamps that only the right secret makes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.ingest.tokens import (
    AwsCredentials,
    aws_headers,
    bearer_token,
    is_signed,
    stamped_signature,
    token_claims,
)

# From the "Signature Version 4 test suite" of the AWS documentation: get-vanilla and post-vanilla.
_AWS = AwsCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1", "service")
_AWS_NOW = 1440938160.0  # 20150830T123600Z


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_requests_to_aws_are_signed_as_its_test_suite_says(method: str, signature: str) -> None:
    """The published request gets the published signature, and the secret is nowhere in the headers."""
    headers = aws_headers(_AWS, method, "example.amazonaws.com", "/", b"", now=_AWS_NOW, extra={})
    assert headers == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }
    assert "wJalr" not in repr(_AWS)


def test_a_session_token_is_signed_too() -> None:
    """Credentials that last for a while send their token, among what is signed."""
    who = AwsCredentials("AKID", "s", "eu-west-1", "ivs", "TOKEN")
    headers = aws_headers(who, "POST", "h", "/ListStreams", b"{}", now=0.0, extra={"content-type": "application/json"})
    assert headers["x-amz-security-token"] == "TOKEN"
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token," in headers["authorization"]


def test_a_token_is_the_one_of_the_published_example() -> None:
    """The token that jwt.io shows comes out, and is read again; any other secret, time or algorithm is not."""
    claims = {"sub": "1234567890", "name": "John Doe", "iat": 1516239022}
    token = bearer_token("your-256-bit-secret", claims)
    assert token.endswith(".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c")
    assert token_claims("your-256-bit-secret", token, now=0.0) == claims
    assert token_claims("another", token, now=0.0) is None
    over = bearer_token("s", {"exp": 1000})
    assert token_claims("s", over, now=1299.0) == {"exp": 1000}
    assert token_claims("s", over, now=1301.0) is None
    assert token_claims("s", bearer_token("s", {"nbf": 1000}), now=600.0) is None


@given(st.text(max_size=60))
def test_whatever_is_no_token_is_refused(text: str) -> None:
    """Nothing but a signed token claims anything, and nothing raises."""
    assert token_claims("s", text, now=0.0) is None
    assert not is_signed("s", text, b"{}", now=0.0)


def test_a_stamp_holds_for_five_minutes_and_one_body() -> None:
    """A recorded request is of no use later, nor for another body or secret."""
    body = json.dumps({"action": "publish"}).encode()
    header = stamped_signature("secret", 1000, body)
    assert is_signed("secret", header, body, now=1300.0)
    assert is_signed("secret", header, body, now=700.0)
    for secret, given_body, now in (("other", body, 1000.0), ("secret", b"{}", 1000.0), ("secret", body, 1301.0)):
        assert not is_signed(secret, header, given_body, now=now)
    assert not is_signed("secret", header.replace("t=1000", "t=1001"), body, now=1000.0)

"""Signatures: what was signed verifies however it is written down, nothing else does, and the file stands alone."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.trust import signing
from detector.trust.signing import (
    MESSAGE_LIMIT_BYTES,
    NotTrusted,
    Purpose,
    Reason,
    Signer,
    TrustedKey,
    TrustedKeys,
    canonical,
    parse,
    public_key_text,
    time_ms,
)

_SIGNER = Signer.of_seed(bytes(32))
_KEYS = TrustedKeys([_SIGNER.trusted_key(["alert", "ack"])])
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


def _reason(payload: bytes | str, purpose: Purpose = Purpose.ALERT, now_ms: int | None = None) -> Reason:
    with pytest.raises(NotTrusted) as refused:
        _KEYS.verify(parse(payload), purpose, now_ms=now_ms)
    return refused.value.reason


def _signed(**more: Any) -> str:
    return json.dumps(_SIGNER.sign({"schema": "stopframe/alert/1", **more}))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["a", "b", "\u20ac", "\U0001f600", "\ufb33"]), _json, max_size=4), st.randoms())
def test_a_message_verifies_in_whatever_order_and_spacing_it_comes(body: dict[str, Any], draw: Any) -> None:
    """White space, the order of members and escapes are no part of what is signed; every value is."""
    signed = _SIGNER.sign({"schema": "stopframe/alert/1", **body})
    assert signed == _SIGNER.sign(signed), "the same message always has the same signature"
    members = list(signed.items())
    draw.shuffle(members)
    for is_ascii in (True, False):
        payload = json.dumps(dict(members), indent=draw.choice([None, 2]), ensure_ascii=is_ascii)
        found = parse(payload, most_bytes=1_000_000)
        assert _KEYS.verify(found, "alert").key_id == _SIGNER.key_id
        if body:
            name = draw.choice(sorted(body))
            with pytest.raises(NotTrusted):
                _KEYS.verify(found | {name: [found[name]]}, "alert")


def test_the_canonical_form_is_that_of_the_rfc() -> None:
    """The two examples of RFC 8785, sections 3.2.2 and 3.2.3."""
    text = r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    assert canonical(parse(text)).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    assert list(json.loads(canonical(dict.fromkeys(names, 0)))) == [
        "\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


def test_each_refusal_names_its_reason() -> None:
    """The first thing that is wrong is said, and nothing after it is looked at."""
    good = json.loads(_signed(expires_at="2026-11-23T12:00:00.000Z"))
    at = time_ms("2026-11-23T12:00:00.000Z")
    assert _reason(" " * (MESSAGE_LIMIT_BYTES + 1)) is Reason.TOO_LARGE
    for malformed in (
        "",
        "[]",
        '{"a":1,"a":1}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        b"\xff{}",
        '{"a":' * 9 + "1" + "}" * 9,
    ):
        assert _reason(malformed) is Reason.MALFORMED
    assert _reason("{}") is Reason.UNSIGNED
    assert _reason(json.dumps(good | {"key_id": "0" * 16})) is Reason.UNKNOWN_KEY
    assert _reason(json.dumps(good), Purpose.COMMAND) is Reason.NOT_ALLOWED
    assert _reason(json.dumps(good), Purpose.ACK) is Reason.WRONG_SCHEMA
    assert _reason(json.dumps(good), Purpose.ANSWER) is Reason.WRONG_SCHEMA
    assert _reason(json.dumps(good | {"sig": good["sig"][:-1]})) is Reason.UNSIGNED
    assert _reason(json.dumps(good | {"more": 1})) is Reason.ALTERED
    assert _reason(json.dumps(good | {"more": 2**60})) is Reason.MALFORMED
    assert _reason(json.dumps(good), now_ms=at) is Reason.EXPIRED
    assert _reason(_signed(expires_at="tomorrow"), now_ms=at) is Reason.MALFORMED
    assert _KEYS.verify(parse(json.dumps(good)), "alert", now_ms=at - 1).object == good


def test_a_key_is_what_it_says_and_ends_on_its_day() -> None:
    """A public key reads as it is written; a wrong id, another form and the day after its last are refused."""
    text = public_key_text(_SIGNER.public_key)
    key = TrustedKey.of(text, ["alert"], until_ms=1000)
    assert key.key_id == _SIGNER.key_id
    assert repr(_SIGNER) == f"Signer('{_SIGNER.key_id}')"
    for wrong in ("", "ed25519:", text[:-1], text + "A", text.replace("ed25519", "rsa"), text[:-1] + "\u00e9"):
        with pytest.raises(ValueError, match="43 characters"):
            TrustedKey.of(wrong, ["alert"])
    with pytest.raises(ValueError, match="key id"):
        TrustedKey("0" * 16, key.public_key, frozenset())
    keys = TrustedKeys([key])
    assert keys.any_may("alert")
    assert not keys.any_may("command")
    message = parse(_signed())
    assert keys.verify(message, "alert", now_ms=999)
    assert keys.verify(message, "alert"), "an audit asks no clock"
    with pytest.raises(NotTrusted) as refused:
        keys.verify(message, "alert", now_ms=1000)
    assert refused.value.reason is Reason.RETIRED_KEY


@pytest.mark.parametrize(
    "wrong", [None, 5, "2026-11-23T12:00:00Z", "2026-13-01T00:00:00.000Z", "2026-11-23t12:00:00.000Z"]
)
def test_a_time_has_one_form(wrong: Any) -> None:
    """Only RFC 3339 in UTC with milliseconds is a time."""
    assert time_ms("1970-01-01T00:00:01.002Z") == 1002
    with pytest.raises(NotTrusted):
        time_ms(wrong)


def test_the_file_stands_alone() -> None:
    """Who copies it needs the two packages that its first lines name, and nothing of ours."""
    tree = ast.parse(Path(signing.__file__).read_text("utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names == {"cryptography", "rfc8785"}

"""Signs and verifies the JSON objects that stopframe and its consumers exchange.

This file stands alone: a consumer in Python may copy it, and needs `cryptography` and `rfc8785` beside it.

An object carries `key_id`, the first 16 hex digits of the SHA-256 of the raw public key, and `sig`, the Ed25519
signature (RFC 8032) in base64url without padding (RFC 4648, section 5) over the canonical form (RFC 8785) of the object
without `sig`. Only JSON that every parser reads alike is verified at all: UTF-8, no name twice in an object, no NaN, no
integer beyond 2^53 - 1, no half of a character.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum, unique
from typing import Any, Final, Self

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MESSAGE_LIMIT_BYTES: Final = 4096
"""No signed message is longer."""

_DEPTH_LIMIT: Final = 8
_PUBLIC_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_PUBLIC_KEY_PREFIX: Final = "ed25519:"
_INTEGER_DIGITS: Final = 17
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", re.ASCII)
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


@unique
class Purpose(StrEnum):
    """What a message is for. A key is trusted for some purposes only, and a signature for one is none for another."""

    ALERT = "alert"
    ACK = "ack"
    COMMAND = "command"
    ANSWER = "answer"
    LIST = "list"


SCHEMAS: Final[Mapping[Purpose, str]] = {purpose: f"stopframe/{purpose}/1" for purpose in Purpose}
"""What the `schema` of a message of each purpose says."""

_RIGHTS: Final = {Purpose.ANSWER: Purpose.ALERT.value}
"""The right a key needs: what a node may say is one right, be it an alert or the answer to a command."""


@unique
class Reason(StrEnum):
    """Why a message is not trusted; the values are labels of metrics."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"
    RETIRED_KEY = "retired_key"
    NOT_ALLOWED = "not_allowed"
    WRONG_SCHEMA = "wrong_schema"
    ALTERED = "altered"
    EXPIRED = "expired"
    TOO_LONG_LIFE = "too_long_life"
    OTHER_STREAM = "other_stream"
    OTHER_NODE = "other_node"
    OTHER_TOPIC = "other_topic"
    RETAINED = "retained"
    REPLAYED = "replayed"
    TOO_MANY = "too_many"


class NotTrusted(Exception):
    """Raised where a message must not be acted on. `reason` is for counters; the text is one sentence for people."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Verified:
    """A message that a trusted key signed for this purpose."""

    key_id: str
    purpose: Purpose
    object: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key (32 raw bytes), what it may sign, and until when (milliseconds since the epoch; None: no end).

    Raises ValueError where `key_id` is not the key's.
    """

    key_id: str
    public_key: bytes
    may: frozenset[str]
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if len(self.public_key) != _PUBLIC_KEY_BYTES or self.key_id != key_id_of(self.public_key):
            raise ValueError("the key id is not that of the public key")

    @classmethod
    def of(cls, text: str, may: Iterable[str], *, until_ms: int | None = None) -> Self:
        """Return the key that `public_key_text` wrote. Raises ValueError with what is wrong."""
        raw = _unbase64(text.removeprefix(_PUBLIC_KEY_PREFIX))
        if raw is None or len(raw) != _PUBLIC_KEY_BYTES or not text.startswith(_PUBLIC_KEY_PREFIX):
            raise ValueError(
                "a public key reads ed25519: and 43 characters of base64url, as `stopframe keys show` says"
            )
        return cls(key_id_of(raw), raw, frozenset(may), until_ms)


class TrustedKeys:
    """The keys whose word counts. Immutable; safe to share between threads."""

    def __init__(self, keys: Iterable[TrustedKey] = ()) -> None:
        self._keys = {key.key_id: (key, Ed25519PublicKey.from_public_bytes(key.public_key)) for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def any_may(self, right: str) -> bool:
        """Whether any key is trusted for that."""
        return any(right in key.may for key, _ in self._keys.values())

    def verify(self, message: Mapping[str, Any], purpose: Purpose | str, *, now_ms: int | None = None) -> Verified:
        """Return what a trusted key signed for this purpose.

        Args:
            message: from `parse`, which refuses what two parsers could read in two ways.
            purpose: what it is taken for; its `schema` must say the same.
            now_ms: where given, a message whose `expires_at` is over and a key whose time is over are refused.

        Raises:
            NotTrusted: with the first reason found. Nothing of the message may be used then.
        """
        purpose = Purpose(purpose)
        key, public = self._key_of(message, purpose, now_ms)
        signature = _unbase64(message.get("sig"))
        if signature is None or len(signature) != _SIGNATURE_BYTES:
            raise NotTrusted(Reason.UNSIGNED, "it carries no signature: sig must be 86 characters of base64url")
        if message.get("schema") != SCHEMAS[purpose]:
            raise NotTrusted(Reason.WRONG_SCHEMA, f"its schema is not {SCHEMAS[purpose]}")
        try:
            public.verify(signature, canonical({name: message[name] for name in message if name != "sig"}))
        except InvalidSignature:
            raise NotTrusted(Reason.ALTERED, f"it is not what key {key.key_id} signed") from None
        if now_ms is not None and "expires_at" in message and time_ms(message["expires_at"]) <= now_ms:
            raise NotTrusted(Reason.EXPIRED, "its time is over (expires_at)")
        return Verified(key.key_id, purpose, message)

    def _key_of(
        self, message: Mapping[str, Any], purpose: Purpose, now_ms: int | None
    ) -> tuple[TrustedKey, Ed25519PublicKey]:
        key_id = message.get("key_id")
        if "sig" not in message or not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            raise NotTrusted(Reason.UNSIGNED, "it carries no signature: key_id and sig are missing or malformed")
        known = self._keys.get(key_id)
        if known is None:
            raise NotTrusted(Reason.UNKNOWN_KEY, f"nobody trusts key {key_id}")
        key, _ = known
        if key.until_ms is not None and now_ms is not None and now_ms >= key.until_ms:
            raise NotTrusted(Reason.RETIRED_KEY, f"key {key_id} was retired, and its last day is over")
        right = _RIGHTS.get(purpose, purpose.value)
        if right not in key.may:
            raise NotTrusted(Reason.NOT_ALLOWED, f"key {key_id} is not trusted for {right}")
        return known


class Signer:
    """Signs with one private key. Printing it shows the key's id alone."""

    def __init__(self, key_id: str, private: Ed25519PrivateKey) -> None:
        self.key_id = key_id
        self._private = private

    def __repr__(self) -> str:
        return f"Signer({self.key_id!r})"

    @classmethod
    def of_seed(cls, seed: bytes) -> Self:
        """Return the signer of a private key of 32 raw bytes."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(key_id_of(private.public_key().public_bytes_raw()), private)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that others verify with."""
        return self._private.public_key().public_bytes_raw()

    def trusted_key(self, may: Iterable[str], *, until_ms: int | None = None) -> TrustedKey:
        """Return the public half, trusted for what is named."""
        return TrustedKey(self.key_id, self.public_key, frozenset(may), until_ms)

    def sign(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message with `key_id` and `sig` at its end, whatever stood under these names before.

        The same message always gives the same signature.

        Raises:
            ValueError: it is no JSON that every parser reads alike (a NaN, an integer beyond 2^53 - 1).
        """
        signed = {name: message[name] for name in message if name not in {"key_id", "sig"}} | {"key_id": self.key_id}
        signature = self._private.sign(rfc8785.dumps(signed))
        return signed | {"sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode("ascii")}


class NodeSigner:
    """Signs in the name of a node: what it signs says which, under `node`."""

    def __init__(self, node: str, signer: Signer) -> None:
        self.node = node
        self.signer = signer

    def __call__(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message with `node`, `key_id` and `sig`; as `Signer.sign`."""
        return self.signer.sign({**message, "node": self.node})


def parse(payload: bytes | str, *, most_bytes: int = MESSAGE_LIMIT_BYTES) -> dict[str, Any]:
    """Return the JSON object in a payload, refusing cheaply whatever is too long, too deep or ambiguous.

    Raises:
        NotTrusted: `TOO_LARGE` or `MALFORMED`.
    """
    if len(payload) > most_bytes:
        raise NotTrusted(Reason.TOO_LARGE, f"it is longer than {most_bytes} bytes")
    try:
        text = payload.decode("utf-8") if isinstance(payload, bytes) else payload
        message = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_integer)
    except (ValueError, RecursionError):
        raise NotTrusted(Reason.MALFORMED, "it is no JSON that every parser reads alike") from None
    if not isinstance(message, dict) or _depth_exceeds(message, _DEPTH_LIMIT):
        raise NotTrusted(Reason.MALFORMED, f"it is no JSON object of at most {_DEPTH_LIMIT} levels")
    return message


def canonical(message: Mapping[str, Any]) -> bytes:
    """Return the canonical form (RFC 8785) of what `parse` returned. Raises NotTrusted where it has none."""
    try:
        return rfc8785.dumps(dict(message))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError):  # half a character in a member's name
        raise NotTrusted(Reason.MALFORMED, "it holds a number or a character that has no canonical form") from None


def key_id_of(public_key: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of a raw public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def public_key_text(public_key: bytes) -> str:
    """Return a public key as configs and `stopframe keys show` write it."""
    return _PUBLIC_KEY_PREFIX + base64.urlsafe_b64encode(public_key).rstrip(b"=").decode("ascii")


def time_ms(value: Any) -> int:
    """Return milliseconds since the epoch of an RFC 3339 time in UTC with milliseconds, the only form in use.

    Raises NotTrusted (`MALFORMED`) for everything else.
    """
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            at = datetime.strptime(value[:-5], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            pass
        else:
            return int(at.timestamp()) * 1000 + int(value[-4:-1])
    raise NotTrusted(Reason.MALFORMED, "a time in it is not RFC 3339 in UTC with milliseconds")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS:
        raise ValueError("an integer beyond 2^53 - 1")
    return int(digits)


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether anything lies deeper than `limit` levels; itself never deeper than that."""
    if not isinstance(value, (dict, list)):
        return False
    if limit == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_depth_exceeds(item, limit - 1) for item in inner)


def _unbase64(text: Any) -> bytes | None:
    """Decode base64url without padding, in its one canonical spelling; None where it is not that."""
    if not isinstance(text, str) or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") == text else None

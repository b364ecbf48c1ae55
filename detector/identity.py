"""The account behind a publisher: what of a question to the hook names it. Pure.

Values come from publishers and are hashed with the deployment's secret before anything else is done with them: no log,
alert or file holds one.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Self

_NAME_CHARACTERS = 26


@unique
class Kind(StrEnum):
    """What an account is told by."""

    KEY = "key"
    ADDRESS = "addr"
    ARGUMENT = "query"
    TOKEN = "jwt"  # noqa: S105 - the word in the config


@dataclass(frozen=True, slots=True)
class Rule:
    """One `identity`; `argument` is the name behind `query:`."""

    kind: Kind
    argument: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `key`, `addr`, `jwt:sub` or `query:NAME`. Raises ValueError."""
        word, _, rest = text.partition(":")
        if text in {"key", "addr", "jwt:sub"}:
            return cls(Kind(word))
        allowed = rest.replace("_", "").replace(".", "").replace("-", "")
        if word == "query" and 0 < len(rest) <= 64 and (allowed.isalnum() or not allowed) and rest.isascii():
            return cls(Kind.ARGUMENT, rest)
        raise ValueError("no identity")

    def __str__(self) -> str:
        if self.kind is Kind.ARGUMENT:
            return f"query:{self.argument}"
        return "jwt:sub" if self.kind is Kind.TOKEN else self.kind.value


@dataclass(frozen=True, slots=True)
class Identity:
    """An account: a keyed hash, and what it was told by."""

    name: str
    kind: Kind

    @property
    def may_cut(self) -> bool:
        """Whether what others did under it may help to cut, and deny whoever comes: an address is many people's."""
        return self.kind is not Kind.ADDRESS


def told_identity(
    rule: Rule,
    secret: bytes,
    fields: Mapping[str, str],
    address: str,
    claims: Callable[[], Mapping[str, Any] | None],
) -> Identity | None:
    """The account that a question names; None where it names none, or the rule goes by keys.

    `fields` are the question's arguments, of a repeated one the first; `claims` checks the token and reads it, None for
    one that is not genuine.
    """
    value: str | None = None
    if rule.kind is Kind.ARGUMENT:
        value = fields.get(rule.argument)
    elif rule.kind is Kind.ADDRESS:
        value = address
    elif rule.kind is Kind.TOKEN:
        subject = (claims() or {}).get("sub")
        value = subject if isinstance(subject, str) else None
    if not value:
        return None
    text = f"identity|{rule}|{value}".encode("utf-8", "surrogatepass")
    digest = hmac.new(secret, text, hashlib.sha256).digest()
    return Identity(base64.b32encode(digest).decode("ascii")[:_NAME_CHARACTERS], rule.kind)

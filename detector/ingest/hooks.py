"""What an ingest server asks before it lets somebody publish: our answer, and forms read so that nobody can cheat."""

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

BODY_LIMIT_BYTES = 16 * 1024
"""Longest question that is read; a key, an address and a publisher's arguments fit many times."""


@unique
class HookOutcome(StrEnum):
    """What became of one question, for counting."""

    LET_IN = "let_in"
    DENIED = "denied"
    ATTACHED = "attached"
    TOO_LATE = "too_late"
    UNREADABLE = "unreadable"
    TOLD = "told"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """An answer: its HTTP status, a `Location` for a redirect, what becomes its JSON body, and what it is counted as.

    `ATTACHED` let a publisher in with our reader in place, `TOO_LATE` without it because the time for it was over,
    `TOLD` took note of something that asks for no decision, `HELD` turned a viewer away from a stream that is not
    cleared yet.
    """

    status: int
    outcome: HookOutcome | None = None
    location: str | None = None
    content: Mapping[str, Any] | None = None


@runtime_checkable
class AnswersHooks(Protocol):
    """An ingest server that is also asked: by its hook, at `/hook/<secret>/<name>`."""

    @property
    def name(self) -> str:
        """The last part of the hook's path."""

    def answer_hook(self, body: bytes, /) -> "HookAnswer | int | Awaitable[HookAnswer | int]":
        """The answer to one question, or its HTTP status alone. Never raises for what a body holds."""


@runtime_checkable
class ProvesHooks(Protocol):
    """An ingest server that signs what it asks, beside knowing the hook's address."""

    def is_genuine(self, body: bytes, headers: Mapping[str, str], /) -> bool:
        """Whether the question is the server's own; `headers` by name in small letters. Never raises."""


class BadForm(ValueError):
    """A body that is no form. Raised by `first_values`."""


def json_fields(body: bytes) -> dict[str, Any]:
    """The object that a JSON body holds. Raises `BadForm` where it holds none, or is too long."""
    if len(body) > BODY_LIMIT_BYTES:
        raise BadForm("the question is too long")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise BadForm("the question is no JSON") from None
    if not isinstance(fields, dict):
        raise BadForm("the question is no JSON object")
    return fields


def first_values(body: bytes) -> dict[str, str]:
    """The fields of an `application/x-www-form-urlencoded` body (WHATWG URL), of a repeated one the FIRST value.

    Servers append the publisher's own arguments to their callbacks, so a later value is what a stranger would like to
    be called. Bytes that are no UTF-8 become lone surrogates. Raises `BadForm` where the body is too long.
    """
    if len(body) > BODY_LIMIT_BYTES:
        raise BadForm("the form is too long")
    fields: dict[str, str] = {}
    for part in body.split(b"&"):
        name, _, value = part.partition(b"=")
        fields.setdefault(_decoded(name), _decoded(value))
    return fields


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "surrogateescape")

"""What an ingest server asks before it lets somebody publish: our answer, and forms read so that nobody can cheat."""

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Protocol, runtime_checkable
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


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """An answer: its HTTP status, a `Location` for a redirect, and what it is counted as.

    `ATTACHED` let a publisher in with our reader in place, `TOO_LATE` without it because the time for it was over,
    `TOLD` took note of something that asks for no decision.
    """

    status: int
    outcome: HookOutcome | None = None
    location: str | None = None


@runtime_checkable
class AnswersHooks(Protocol):
    """An ingest server that is also asked: by its hook, at `/hook/<secret>/<name>`."""

    @property
    def name(self) -> str:
        """The last part of the hook's path."""

    def answer_hook(self, body: bytes, /) -> "HookAnswer | int | Awaitable[HookAnswer | int]":
        """The answer to one question, or its HTTP status alone. Never raises for what a body holds."""


class BadForm(ValueError):
    """A body that is no form. Raised by `first_values`."""


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

"""Faults that lie between keys: each names the key it is reported at and the keys it rests on."""

from dataclasses import dataclass

from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]
"""Where a key stands: names of keys and places in lists, from the top of the file."""

CONFLICT = "stopframe_conflict"
"""The type of pydantic error that carries conflicts in its context."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two or more keys that do not go together.

    `at` is the key the fault is reported at, `concerns` are the others it rests on; both count from the section
    that found the conflict. A conflict that rests on a key with a fault of its own is not reported.
    """

    at: Location
    message: str
    concerns: tuple[Location, ...] = ()


def refuse(*conflicts: Conflict) -> PydanticCustomError:
    """The error a section's validator raises for its conflicts."""
    return PydanticCustomError(CONFLICT, "keys that do not go together", {"conflicts": conflicts})

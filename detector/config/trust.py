"""The section `trust`: whose word counts."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import Section
from detector.config.values import EmptyMeansDefault, Name
from detector.trust.signing import NotTrusted, TrustedKey, TrustedKeys, time_ms

_PUBLIC_KEY = r"^ed25519:[A-Za-z0-9_-]{43}$"
_DAY = "T00:00:00.000Z"


def _public_key(value: Any) -> str:
    try:
        TrustedKey.of(value if isinstance(value, str) else "", ())
    except ValueError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _day(value: Any) -> int | None:
    """Milliseconds of the beginning of a day in UTC, which YAML gives as a date or as text."""
    if value is None:
        return None
    try:
        return time_ms(f"{value}{_DAY}")
    except NotTrusted:
        raise ValueError("is no day; write 2027-01-31: the key counts until that day begins in UTC") from None


PublicKey = Annotated[str, PlainValidator(_public_key), WithJsonSchema({"type": "string", "pattern": _PUBLIC_KEY})]
Day = Annotated[
    int | None,
    BeforeValidator(_day),
    PlainSerializer(lambda ms: ms, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}),
]


class TrustedKeySection(Section):
    """A key whose signatures count."""

    name: Name
    """Whose it is; unique, for people."""
    public_key: PublicKey
    """As `stopframe keys show` and `stopframe keys new` print it: `ed25519:` and 43 characters."""
    may: Annotated[tuple[Literal["alert", "ack", "command", "list"], ...], Field(min_length=1)]
    """What it may sign: `alert` is a node's, `ack` a cutter's, `command` an operator's, `list` that of an own list."""
    until: Day = None
    """The day (UTC) from which on it does not count any more; null for none."""


class TrustSection(Section):
    """Whose signatures count. The node's own key is made at its first start, and needs no line here."""

    trusted_keys: Annotated[tuple[TrustedKeySection, ...], EmptyMeansDefault()] = ()
    """The keys of others. Where none may `command`, the service does not listen for commands at all."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for key in ("name", "public_key"):
            values = [getattr(each, key) for each in self.trusted_keys]
            for place, value in enumerate(values):
                if values.index(value) != place:
                    what = f"stands in trust.trusted_keys[{values.index(value)}] already; give each key once"
                    raise refuse(Conflict(("trusted_keys", place, key), what))
        return self

    def keys(self) -> TrustedKeys:
        """Return what messages are verified with."""
        return TrustedKeys(TrustedKey.of(each.public_key, each.may, until_ms=each.until) for each in self.trusted_keys)

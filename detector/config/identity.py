"""The section `identity`: what of a publisher's question names the account behind it."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from detector.config.crosscheck import Conflict, Location
from detector.config.references import Secret
from detector.config.sections import Section
from detector.config.units import Between, Duration
from detector.config.values import Switch
from detector.config.wording import shown
from detector.identity import Kind, Rule

_FORMS = r"^(?:key|addr|jwt:sub|query:[A-Za-z0-9_.-]{1,64})$"


def _rule(value: Any) -> Rule:
    if isinstance(value, Rule):
        return value
    try:
        return Rule.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{shown(value)} names no account; write key, addr, jwt:sub or query:NAME") from None


IdentityRule = Annotated[
    Rule,
    PlainValidator(_rule),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _FORMS}),
]


class IdentitySection(Section):
    """What names the account behind a publisher, whatever key it publishes."""

    by: IdentityRule = Rule(Kind.KEY)
    """`key`: each key is an account; `query:NAME`: an argument that the platform set or checked; `jwt:sub`: a signed
    token's subject; `addr`: the address, which strangers may share."""
    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "token"  # noqa: S105 - a name
    """With `jwt:sub`: the argument that holds the token."""
    token_secret: Secret | None = None
    """With `jwt:sub`: what tokens are signed with (HS256): `${NAME}` or `{file: PATH}`."""
    required: Switch = False
    """Whether a publisher of whom no account can be told is turned away; off: its key stands for it."""
    forget: Annotated[Duration, Between("10s", "24h")] = Duration.parse("10m")
    """How long the votes of an account outlive its last stream."""
    most_streams: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 8
    """An account with more streams at once than this is shared: nothing is carried over or denied by it."""


class NamesAccounts(Protocol):
    """A line of `streams`."""

    @property
    def identity(self) -> Rule | None:
        """What names the account there, None for what stands under `identity`."""


def identity_conflicts(section: IdentitySection, streams: Sequence[NamesAccounts]) -> Iterator[Conflict]:
    """Tokens are to be read whose signature nobody could check."""
    if section.token_secret is not None:
        return
    rules: list[tuple[Location, Rule | None]] = [(("identity", "by"), section.by)]
    rules += [(("streams", place, "identity"), stream.identity) for place, stream in enumerate(streams)]
    for where, rule in rules:
        if rule is not None and rule.kind is Kind.TOKEN:
            what = "is jwt:sub, and anybody can write a token that nobody checks; write identity.token_secret, too"
            yield Conflict(where, what, concerns=(("identity", "token_secret"),))

"""The section `exchanges`: lists that come from elsewhere, each into a bank of its own."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from detector.config.crosscheck import Conflict, refuse
from detector.config.references import Secret
from detector.config.sections import Section
from detector.config.servers import HookUrl
from detector.config.units import Between, Duration, Share
from detector.config.values import BankName, FilePath, Name, Pattern, Username
from detector.exchanges.kinds import ExchangeKind


class ExchangeUrl(HookUrl):
    """Where an exchange is. Its path and query may be secret, so printing shows scheme and host alone."""

    __slots__ = ()

    @classmethod
    def parse(cls, url: object) -> Self:
        """Read an http or https URL without credentials. Raises ValueError with a sentence that holds nothing of it."""
        try:
            return super().parse(url)
        except ValueError:
            what = "is no URL of an exchange; write https:// with host and path, and credentials under their own keys"
            raise ValueError(what) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """As a hook's."""
        return super().__get_pydantic_json_schema__(schema, handler)


DEFAULT_URLS = {
    ExchangeKind.STOPNCII: "https://api.stopncii.org/v1",
    ExchangeKind.TAT: "https://app.terrorismanalytics.org",
    ExchangeKind.THREATEXCHANGE: "https://graph.facebook.com/v26.0",
}
"""Where exchanges with one place are (python-threatexchange 1.2.17, exchanges/clients)."""

_NEEDS = {
    ExchangeKind.FILE: ("path",),
    ExchangeKind.HTTPS: ("url",),
    ExchangeKind.NCMEC: ("url", "username", "password"),
    ExchangeKind.STOPNCII: ("function_key", "subscription_key"),
    ExchangeKind.TAT: ("username", "password"),
    ExchangeKind.THREATEXCHANGE: ("token", "collection"),
}
_MAY_HAVE = {
    ExchangeKind.FILE: (),
    ExchangeKind.HTTPS: ("username", "password", "token"),
    ExchangeKind.NCMEC: ("feedback_reason",),
    ExchangeKind.STOPNCII: ("url", "feedback_key"),
    ExchangeKind.TAT: ("url", "collection"),
    ExchangeKind.THREATEXCHANGE: ("url",),
}
_CHOSEN = (
    *("path", "url", "username", "password", "token", "function_key", "subscription_key", "collection"),
    *("feedback_key", "feedback_reason"),
)
_HEAR = (ExchangeKind.NCMEC, ExchangeKind.STOPNCII, ExchangeKind.THREATEXCHANGE)
"""Those that take feedback; the others have no such call."""


class ExchangeSection(Section):
    """One list from elsewhere."""

    most_rows_limit: ClassVar[int] = 50_000_000

    name: Name
    """What it is called here, in alerts too; unique. An own list's manifest must bear the same name."""
    kind: ExchangeKind
    """Who speaks there: `file` or `https` (own lists with a signed manifest), `ncmec`, `stopncii`, `tat`,
    `threatexchange`."""
    bank: BankName
    """The bank that it fills, and that nothing else does."""
    url: ExchangeUrl | None = None
    """Where it is: https://, or http:// on this machine alone; `${NAME}` takes it from the environment.

    Of an own list the manifest's URL; null for the exchange's own address, where it has a single one.
    """
    path: FilePath | None = None
    """Of the kind `file`: the manifest's path; the list lies beside it."""
    username: Username | None = None
    """Name to log in with."""
    password: Secret | None = None
    """`${NAME}` for an environment variable or `{file: PATH}` for a file."""
    token: Secret | None = None
    """Of `threatexchange` the access token, of `https` a bearer token: `${NAME}` or `{file: PATH}`."""
    function_key: Secret | None = None
    """Of `stopncii` the key of FetchHashes: `${NAME}` or `{file: PATH}`."""
    subscription_key: Secret | None = None
    """Of `stopncii` the subscription's key: `${NAME}` or `{file: PATH}`."""
    collection: Pattern | None = None
    """Of `threatexchange` the privacy group's number, of `tat` the ideology; null for all."""
    every: Annotated[Duration, Between("5s", "7d")] = Duration.parse("1h")
    """How often it is asked, give or take a tenth; after a failure sooner, with growing pauses."""
    stale_after: Annotated[Duration, Between("10s", "90d")] = Duration.parse("1d")
    """When it was not had for so long, health is red and an alarm goes out; what came before stays in force."""
    most_rows: Annotated[int, Field(strict=True, ge=1, le=50_000_000)] = 10_000_000
    """A longer list is refused, and what would make its bank longer."""
    most_change: Share = Share.parse("10%")
    """By this part, beyond what it usually changes by in a day, the list may change in a day; what changes more is
    refused until somebody says `stopframe lists accept NAME`."""
    ca_file: FilePath | None = None
    """The authorities (PEM) that may vouch for the server's certificate; null for the system's."""
    feedback: Literal["off", "dry_run", "on"] = "dry_run"
    """Whether it is told what people say of its entries: `dry_run` keeps it and shows what would be sent."""
    feedback_key: Secret | None = None
    """Of `stopncii` the key of SubmitFeedback: `${NAME}` or `{file: PATH}`."""
    feedback_reason: Name | None = None
    """Of `ncmec` the GUID of its reason for false matches; null asks it, and takes the only one that there is."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        conflicts = list(self._conflicts())
        if conflicts:
            raise refuse(*conflicts)
        return self

    def _conflicts(self) -> Iterator[Conflict]:
        kind = (("kind",),)
        for key in _NEEDS[self.kind]:
            if getattr(self, key) is None:
                yield Conflict((key,), f"is missing, and {self.kind.value} needs it; write it", concerns=kind)
        for key in _CHOSEN:
            if getattr(self, key) is not None and key not in (*_NEEDS[self.kind], *_MAY_HAVE[self.kind]):
                yield Conflict((key,), f"means nothing to {self.kind.value}; leave it out", concerns=kind)
        if self.url is not None and self.url.value is not None and not self.url.is_safe:
            yield Conflict(("url",), "crosses a network that others may read; write https://")
        if self.collection is not None and self.kind is ExchangeKind.THREATEXCHANGE and not self.collection.isdigit():
            yield Conflict(("collection",), "is no privacy group; write its number")
        if self.feedback == "on" and self.kind not in _HEAR:
            yield Conflict(("feedback",), f"is on, and {self.kind.value} takes none; leave it out", concerns=kind)
        if self.feedback == "on" and self.kind is ExchangeKind.STOPNCII and self.feedback_key is None:
            what = "is on, and SubmitFeedback has a key of its own; write feedback_key, or dry_run"
            yield Conflict(("feedback",), what, concerns=(("feedback_key",),))
        if self.stale_after < self.every:
            what = f"is shorter than every ({self.every}), so it would always be stale; write more"
            yield Conflict(("stale_after",), what, concerns=(("every",),))

    @property
    def where(self) -> str:
        """The whole URL. Raises LookupError when the config was only checked."""
        return self.url.reveal() if self.url is not None else DEFAULT_URLS.get(self.kind, "")


def exchange_conflicts(exchanges: tuple[ExchangeSection, ...]) -> Iterator[Conflict]:
    """Names and banks that stand twice: two lists in one bank would take each other's rows for withdrawn."""
    for key in ("name", "bank"):
        values = [getattr(each, key) for each in exchanges]
        for place, value in enumerate(values):
            if values.index(value) != place:
                what = f"stands in exchanges[{values.index(value)}] already; give each one of its own"
                yield Conflict(("exchanges", place, key), what)

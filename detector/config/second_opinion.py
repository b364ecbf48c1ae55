"""The section `second_opinion`: asking an HMA elsewhere about hashes."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detector.config.crosscheck import Conflict, refuse
from detector.config.references import Secret
from detector.config.sections import Section
from detector.config.servers import HookUrl
from detector.config.units import Between, Duration
from detector.config.values import BankName, EmptyMeansDefault, FilePath, Name


class SecondOpinionSection(Section):
    """Asking an HMA elsewhere about the hashes of some samples. It is sent hashes alone: no picture, key or name."""

    name: Name = "remote"
    """What it is called: its matches come as those of the bank `hma:NAME`."""
    url: HookUrl | None = None
    """Its base URL: https://, or http:// on this machine alone; `${NAME}` from the environment; null for none."""
    token: Secret | None = None
    """Sent as `Authorization: Bearer TOKEN`: `${NAME}` or `{file: PATH}`; null for none."""
    ca_file: FilePath | None = None
    """The authorities (PEM) that may vouch for its certificate; null for the system's."""
    banks: Annotated[tuple[BankName, ...], EmptyMeansDefault(), Field(max_length=100)] = ()
    """Which of its banks count; empty for all."""
    step: Literal["shadow", "review"] = "review"
    """The strongest step its word may reach: nobody is cut for what cannot be looked up here."""
    timeout: Annotated[Duration, Between("50ms", "30s")] = Duration.parse("2s")
    """How long one answer may take."""
    at_once: Annotated[int, Field(strict=True, ge=1, le=64)] = 4
    """Questions that may be under way at the same time."""
    per_second: Annotated[float, Field(ge=0.01, le=1000)] = 5.0
    """Questions asked in a second, of all streams together; of each stream only its newest sample waits."""

    @model_validator(mode="after")
    def _url_is_safe(self) -> Self:
        if self.url is not None and self.url.value is not None and not self.url.is_safe:
            raise refuse(Conflict(("url",), "crosses a network that others may read; write https://"))
        return self

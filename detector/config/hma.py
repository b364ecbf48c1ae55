"""The section `hma`: answering look-ups as HMA does."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from detector.config.crosscheck import Conflict
from detector.config.sections import HttpSection, Section
from detector.config.units import Between, Size
from detector.config.values import Switch
from detector.config.wording import shown


def _prefix(value: object) -> str:
    """A path such as `/hma`, or empty for the root."""
    parts = value.removeprefix("/").split("/") if isinstance(value, str) and value not in ("", "/") else []
    is_path = isinstance(value, str) and (not parts or value.startswith("/"))
    are_plain = all(part and len(part) <= 32 and part.isascii() and part.replace("-", "").isalnum() for part in parts)
    if not is_path or not are_plain or len(parts) > 4 or parts[:1] in (["v1"], ["health"], ["metrics"], ["hook"]):
        raise ValueError(f"{shown(value)} is no place for HMA's routes; write such as /hma, or / for the root")
    return "".join(f"/{part}" for part in parts)


Prefix = Annotated[
    str, PlainValidator(_prefix), WithJsonSchema({"type": "string", "pattern": "^/?([a-zA-Z0-9-]+(/[a-zA-Z0-9-]+)*)?$"})
]


class HmaSection(Section):
    """Answering look-ups in the shapes of HMA (facebook/ThreatExchange), for clients that speak to one."""

    enabled: Switch = False
    """Whether HMA's routes are served on `http.listen`."""
    prefix: Prefix = "/hma"
    """Where: a client's base URL is `http://HOST:PORT` and this; `/` for the root."""
    needs_token: Switch = True
    """Whether `http.token` must be given, as for the control API. HMA itself asks for none."""
    picture_limit: Annotated[Size, Between("1KiB", "64MiB")] = Size.parse("8MiB")
    """Longest file that is hashed; each is decoded in a cage of its own."""
    pictures_at_once: Annotated[int, Field(strict=True, ge=1, le=64)] = 2
    """Files that are decoded at the same time; four times as many may wait, what comes then is refused."""


def hma_conflicts(hma: HmaSection, http: HttpSection) -> Iterator[Conflict]:
    """A door without a key: nobody could ask."""
    if hma.enabled and hma.needs_token and http.token is None:
        what = "is true, and http.token is not set, so nobody could ask; set it, or write needs_token: false"
        yield Conflict(("hma", "enabled"), what, concerns=(("http", "token"), ("hma", "needs_token")))

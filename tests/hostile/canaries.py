"""Secrets that are looked for: values whose heart stands in every form in which anybody writes them."""

import base64
import secrets
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True)
class Canary:
    """One secret. `value` has characters that URLs escape around a heart that none do."""

    name: str
    before: str = "pa+ss/"
    after: str = "=&é"
    heart: str = field(default_factory=lambda: secrets.token_hex(10))

    @property
    def value(self) -> str:
        """The secret as an operator writes it into a file."""
        return f"{self.before}{self.heart}{self.after}"

    @property
    def quoted(self) -> str:
        """The secret as it stands in a URL."""
        return quote(self.value, safe="")

    def forms(self) -> list[bytes]:
        """What may be left of it in a text: its heart, or its heart within base64, wherever it begins there."""
        raw = self.heart.encode()
        encoded = [base64.b64encode(b"\0" * shift + raw).decode()[shift + (shift > 0) :] for shift in range(3)]
        return [raw, raw.upper(), *(text.rstrip("=")[:-2].encode() for text in encoded)]


def found_in(canaries: list[Canary], places: dict[str, bytes]) -> list[str]:
    """Every canary that stands somewhere, as `name in place: what surrounds it`."""
    return [
        f"{canary.name} in {place}: ...{text[max(0, text.find(form) - 120) : text.find(form) + 60]!r}"
        for place, text in places.items()
        for canary in canaries
        for form in canary.forms()
        if form in text
    ]

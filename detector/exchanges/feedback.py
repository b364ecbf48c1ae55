"""What an exchange is told of its entries: one shape for each kind of exchange, in a file of its own.

A shape turns somebody's word into requests. They hold no secret, so that a dry run can show them; whoever sends them
adds what opens the exchange.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from detector.store.feedback import FeedbackRow


class FeedbackImpossible(Exception):
    """Raised where an exchange cannot be told this: one sentence with the remedy, if there is one."""


@dataclass(frozen=True, slots=True)
class FeedbackRequest:
    """One request, below the exchange's URL. `is_question`: it changes nothing there."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = ""
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_question(self) -> bool:
        """Whether it only asks for what the next request needs."""
        return self.method == "GET"

    def shown(self, url: str) -> str:
        """For people: method, address and body."""
        asked = "&".join(f"{key}={value}" for key, value in self.params.items())
        body = f" {self.body.decode()}" if self.body else ""
        return f"{self.method} {url.rstrip('/')}/{self.path}{'?' if asked else ''}{asked}{body}"


class FeedbackShape(Protocol):
    """How one kind of exchange is told. Its requests may be sent twice: that comes to the same there."""

    def first(self, row: FeedbackRow, reason: str) -> FeedbackRequest:
        """The first request; `reason` is the exchange's own word for a false match, where the config names one.

        Raises:
            FeedbackImpossible: the entry is none of this exchange's.
        """
        ...

    def then(self, row: FeedbackRow, answer: bytes) -> tuple[FeedbackRequest, ...]:
        """What follows on the answer to a question.

        Raises:
            FeedbackImpossible: the answer leads nowhere.
        """
        ...

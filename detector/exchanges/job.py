"""What a sync in a process of its own is told, and the client that fits. The config is not loaded here: it is dear."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from detector.exchanges.client import Clock, ExchangeClient
from detector.exchanges.kinds import ExchangeKind
from detector.exchanges.ncmec import Ncmec
from detector.exchanges.own import OwnList
from detector.exchanges.records import place_of
from detector.exchanges.stopncii import StopNcii
from detector.exchanges.sync import Adoption
from detector.exchanges.tat import TechAgainstTerrorism
from detector.exchanges.threatexchange import ThreatExchange
from detector.exchanges.transport import Access
from detector.redaction import hide_secret
from detector.trust.signing import TrustedKey, TrustedKeys

LIST_RIGHT = "list"
"""What a key must be trusted for to sign lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJob:
    """All that a sync needs, in plain values. Printing shows no secret."""

    exchange: str
    kind: str
    bank_dir: str
    state_dir: str
    most_rows: int
    most_change: float
    url: str = field(default="", repr=False)
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    function_key: str = field(default="", repr=False)
    subscription_key: str = field(default="", repr=False)
    collection: str = ""
    ca_file: str | None = None
    keys: tuple[tuple[str, int | None], ...] = ()
    harmless: tuple[str, ...] = ()
    accepted: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """As a process reads it from its standard input."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """What `encode` gave."""
        raw: Mapping[str, Any] = json.loads(content)
        accepted = raw["accepted"]
        return cls(
            **{
                **raw,
                "keys": tuple((key, until) for key, until in raw["keys"]),
                "harmless": tuple(raw["harmless"]),
                "accepted": (int(accepted[0]), int(accepted[1])) if accepted else None,
            }
        )

    def secrets(self) -> Iterable[str]:
        """What must be shown nowhere."""
        return (self.password, self.token, self.function_key, self.subscription_key)

    def adoption(self) -> Adoption:
        """What the list is held to."""
        return Adoption(
            exchange=self.exchange,
            kind=self.kind,
            collection=self.collection,
            place=place_of(ExchangeKind(self.kind), self.url),
            bank_dir=Path(self.bank_dir),
            state_dir=Path(self.state_dir),
            most_rows=self.most_rows,
            most_change=self.most_change,
            harmless=tuple(map(Path, self.harmless)),
            accepted=self.accepted,
        )

    def client(self, clock: Clock = time.time) -> ExchangeClient:
        """The client that fits."""
        for secret in self.secrets():
            hide_secret(secret)
        kind = ExchangeKind(self.kind)
        if kind is ExchangeKind.FILE:
            return OwnList(self.exchange, Path(self.path), self._keys(), most_rows=self.most_rows, clock=clock)
        if kind is ExchangeKind.HTTPS:
            headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
            access = self._access(headers, is_file=True)
            return OwnList(self.exchange, access, self._keys(), most_rows=self.most_rows, clock=clock)
        if kind is ExchangeKind.STOPNCII:
            headers = {"x-functions-key": self.function_key, "Ocp-Apim-Subscription-Key": self.subscription_key}
            return StopNcii(self._access(headers), clock)
        if kind is ExchangeKind.TAT:
            login = (self.username, self.password)
            return TechAgainstTerrorism(Access(url=self.url, ca_file=self.ca_file), login, self.collection, clock)
        if kind is ExchangeKind.THREATEXCHANGE:
            access = replace(self._access({}), is_graph=True)
            return ThreatExchange(access, self.token, self.collection, clock)
        return Ncmec(self._access({}), clock)

    def _access(self, headers: Mapping[str, str], *, is_file: bool = False) -> Access:
        basic = (self.username, self.password) if self.username and self.password else None
        return Access(url=self.url, headers=headers, basic=basic, ca_file=self.ca_file, is_file=is_file)

    def _keys(self) -> TrustedKeys:
        return TrustedKeys(TrustedKey.of(key, (LIST_RIGHT,), until_ms=until) for key, until in self.keys)

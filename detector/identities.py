"""Accounts behind publishers: whose votes go on under another key, and who is denied after a cut.

An account is a keyed hash. What is denied by it is denied to newcomers alone, for a time, and never by an address or by
an account with many streams at once: those may be many people's. docs/design.md says why.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from detector.config.config import Config
from detector.credentials import stream_id
from detector.events import StreamKey
from detector.identity import Identity, Kind, told_identity
from detector.ingest.hooks import BODY_LIMIT_BYTES
from detector.ingest.tokens import token_claims
from detector.metric_words import IdentityRefusal
from detector.policy import History
from detector.store.denials import Denial, Denials
from detector.store.faults import StoreUnavailable
from detector.votes import Histories, VoteBook

log = structlog.get_logger()

_KEYS_KEPT: Final = 20_000
_DENIED_KEPT: Final = 10_000
_INCIDENTS_EACH: Final = 16
_LONGEST_DENIAL_SECONDS: Final = 30 * 24 * 3600.0


def names_accounts(config: Config) -> bool:
    """Whether anybody is to be told by anything but a key."""
    rules = [config.identity.by, *(stream.identity for stream in config.streams if stream.identity is not None)]
    return any(rule.kind is not Kind.KEY for rule in rules)


@dataclass(slots=True)
class IdentityCounters:
    """What happened since the start."""

    denied_total: int = 0
    unnamed_total: int = 0
    """Publishers that were turned away because no account could be told."""
    forgotten_total: int = 0
    """Keys and denials that made room for newer ones."""


class Lender:
    """One session's way to what its account voted before. Two accounts where one of them is only an address."""

    def __init__(self, book: "Identities", session: str) -> None:
        self._book = book
        self._session = session

    def own(self, track: int, history: History, most: int) -> History:
        """Put what the account voted before in front: it may cut."""
        return self._book.lend(self._session, track, history, most, beside=False)

    def beside(self, track: int, history: History, most: int) -> History | None:
        """The same for what may ask for a review at most; None where there is no such thing."""
        if not self._book.has_address(self._session):
            return None
        return self._book.lend(self._session, track, history, most, beside=True)


class Identities:
    """Implements `detector.ingest.admittance.PublisherGate`. `config` is the one in force and may be replaced.

    `refused` is told of each publisher that is turned away.
    """

    def __init__(
        self,
        config: Config,
        secret: bytes,
        store: Denials,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        refused: Callable[[IdentityRefusal], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.counters = IdentityCounters()
        self.votes = VoteBook()
        self._secret = secret
        self._store = store
        self._clock = clock
        self._wall = wall
        self._refused = refused
        self._named: OrderedDict[StreamKey, Identity] = OrderedDict()
        self._sessions: dict[str, tuple[StreamKey, Identity]] = {}
        self._live: dict[str, set[str]] = {}
        self._denied: OrderedDict[str, dict[str, float]] = OrderedDict()

    async def load(self) -> None:
        """Take up what an earlier run denied; a store that cannot be read turns health red by itself."""
        now, wall = self._clock(), self._wall()
        with suppress(StoreUnavailable):
            for denial in await self._store.load(round(wall * 1000)):
                left = min(denial.until_ms / 1000 - wall, _LONGEST_DENIAL_SECONDS)
                self._denied.setdefault(denial.account, {})[denial.incident_id] = now + left

    # What hooks ask

    def admits(self, key: StreamKey, fields: Mapping[str, str], address: str) -> bool:
        """As `PublisherGate.admits`."""
        rule = self.config.identity_for(key.path)
        self._named.pop(key, None)
        if rule.kind is Kind.KEY:
            return True
        identity = told_identity(rule, self._secret, fields, address, lambda: self._claims(fields))
        if identity is None:
            if self.config.identity.required:
                self.counters.unnamed_total += 1
                self._refused(IdentityRefusal.UNNAMED)
                return False
            return True
        if self.is_denied(identity.name):
            self.counters.denied_total += 1
            self._refused(IdentityRefusal.DENIED)
            return False
        self._named[key] = identity
        if len(self._named) > _KEYS_KEPT:
            self._named.popitem(last=False)
            self.counters.forgotten_total += 1
        return True

    def is_denied(self, account: str) -> bool:
        """Whether nobody may begin to publish under this account now."""
        incidents = self._denied.get(account)
        if incidents is None:
            return False
        if max(incidents.values()) <= self._clock():
            del self._denied[account]
            return False
        return True

    def _claims(self, fields: Mapping[str, str]) -> dict[str, Any] | None:
        section = self.config.identity
        token = fields.get(section.token, "")
        if section.token_secret is None or not token or len(token) > BODY_LIMIT_BYTES:
            return None
        return token_claims(section.token_secret.current(), token, now=self._wall())

    # What sessions ask and tell

    def opened(self, session: str, key: StreamKey) -> Lender:
        """A session of `key` begins."""
        identity = self._named.get(key) or self._of_key(key)
        self._sessions[session] = (key, identity)
        self._live.setdefault(identity.name, set()).add(session)
        return Lender(self, session)

    def ended(self, session: str, own: Histories, beside: Histories) -> None:
        """A session is over: its votes are its account's."""
        known = self._sessions.pop(session, None)
        if known is None:
            return
        key, identity = known
        if not self._is_shared(identity):
            now = self._clock()
            self.votes.give(self._voter(key, identity).name, own, now)
            if not identity.may_cut:
                self.votes.give(identity.name, beside, now)
        live = self._live.get(identity.name, set())
        live.discard(session)
        if not live:
            self._live.pop(identity.name, None)

    def account_of(self, session: str) -> str:
        """Under which name the session's incidents go on in another one; an address stands for nobody."""
        known = self._sessions.get(session)
        if known is None:
            return session
        key, identity = known
        return session if self._is_shared(identity) else self._voter(key, identity).name

    def has_address(self, session: str) -> bool:
        """Whether the session's account is an address."""
        known = self._sessions.get(session)
        return known is not None and not known[1].may_cut

    def lend(self, session: str, track: int, history: History, most: int, *, beside: bool) -> History:
        """See `Lender`."""
        known = self._sessions.get(session)
        if known is None or not len(self.votes) or self._is_shared(known[1]):
            return history
        identity = known[1] if beside else self._voter(*known)
        since = self._clock() - self.config.identity.forget.seconds
        return self.votes.take(identity.name, track, history, most, since=since)

    # What cuts and operators do

    def deny(self, session: str, incident_id: str) -> bool:
        """The session is cut: nobody may begin to publish under its account for a while; False where nothing is denied.

        In force when this returns, on disk soon after.
        """
        known, seconds = self._sessions.get(session), self.config.enforcement.deny_identity_for.seconds
        if known is None or not seconds or known[1].kind in {Kind.KEY, Kind.ADDRESS} or self._is_shared(known[1]):
            return False
        account = known[1].name
        incidents = self._denied.setdefault(account, {})
        is_news = incident_id not in incidents
        incidents[incident_id] = self._clock() + seconds
        self._denied.move_to_end(account)
        if len(incidents) > _INCIDENTS_EACH:
            del incidents[next(iter(incidents))]
        if len(self._denied) > _DENIED_KEPT:
            self._denied.popitem(last=False)
            self.counters.forgotten_total += 1
        if is_news:
            log.info("identity.denied", account=account, incident=incident_id, seconds=seconds)
            now_ms = round(self._wall() * 1000)
            self._store.add(Denial(account, incident_id, now_ms + round(seconds * 1000)), now_ms)
        return True

    def undo(self, incident_id: str) -> None:
        """A cut is taken back: whoever was denied because of it may publish again, and what voted for it is gone."""
        for account in [account for account, incidents in self._denied.items() if incident_id in incidents]:
            del self._denied[account]
            self.votes.forget(account)
            log.info("identity.allowed", account=account, incident=incident_id)
            self._store.lift(account)

    def notes(self) -> list[str]:
        """What an operator should know, one sentence each."""
        shared = sum(len(live) > self.config.identity.most_streams for live in self._live.values())
        if not shared:
            return []
        sentence = (
            f"{shared} accounts have more than identity.most_streams streams at once, so nothing is carried over or "
            "denied by them: see that identity.by names people, or raise it"
        )
        return [sentence]

    def _is_shared(self, identity: Identity) -> bool:
        if identity.kind is Kind.KEY:
            return False
        return len(self._live.get(identity.name, ())) > self.config.identity.most_streams

    def _voter(self, key: StreamKey, identity: Identity) -> Identity:
        """The account whose votes may cut."""
        return identity if identity.may_cut else self._of_key(key)

    def _of_key(self, key: StreamKey) -> Identity:
        return Identity(stream_id(self._secret, key), Kind.KEY)

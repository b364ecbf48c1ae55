"""Accounts: votes go on under another key, a cut denies newcomers, and no innocent pays for a stranger."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config.config import Config
from detector.config.faults import ConfigError
from detector.config.identity import IdentitySection
from detector.config.loading import load_config
from detector.events import Observation, Step, StreamKey
from detector.identities import Identities
from detector.identity import Kind, Rule, told_identity
from detector.ingest.tokens import bearer_token
from detector.judging import Judge
from detector.policy import ClassRule, History, PolicySettings
from detector.store.database import Database
from detector.store.denials import Denials
from detector.votes import VoteBook, joined
from models.evidence import ClassScore, Inspection
from models.sequence import SequenceHistory

SECRET = bytes(32)
TOKEN_SECRET = "0123456789abcdef0123456789abcdef"
BAD = History({"cards/bad": (Step.CUT, Step.CUT)})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """Denials that are only kept in a list."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.lifted: list[str] = []

    async def load(self, now_ms: int) -> list[Any]:
        return [one for one in self.added if one.until_ms > now_ms]

    def add(self, denial: Any, now_ms: int) -> None:
        self.added.append(denial)

    def lift(self, account: str) -> None:
        self.lifted.append(account)


def key(name: str) -> StreamKey:
    return StreamKey("embedded", "live", name)


def identities(tmp_path: Path, text: str = "{by: 'query:user'}", more: str = "") -> tuple[Identities, Clock, Rows]:
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {tmp_path}\nidentity: {text}\n{more}\n")
    clock, rows = Clock(), Rows()
    found = Identities(load_config(file), SECRET, rows, clock=clock, wall=clock)  # type: ignore[arg-type]
    return found, clock, rows


def stream(book: Identities, name: str, session: str, user: str = "mallory", address: str = "192.0.2.1") -> Any:
    assert book.admits(key(name), {"user": user}, address)
    return book.opened(session, key(name))


def test_votes_go_on_under_another_key(tmp_path: Path) -> None:
    """What one stream of an account voted stands in front of the next one's votes, whatever its key; once."""
    book, _, _ = identities(tmp_path)
    stream(book, "one", "s1")
    book.ended("s1", {0: BAD}, {})
    lender = stream(book, "two", "s2")
    assert lender.own(0, History(), 5).votes == BAD.votes
    assert lender.own(0, History(), 5).votes == {}


def test_votes_are_forgotten_after_a_time_and_strangers_have_none(tmp_path: Path) -> None:
    """Another account inherits nothing, nor does the same one after `forget`."""
    book, clock, _ = identities(tmp_path, "{by: 'query:user', forget: 60s}")
    stream(book, "one", "s1")
    book.ended("s1", {0: BAD}, {})
    assert stream(book, "two", "s2", user="alice").own(0, History(), 5).votes == {}
    clock.now += 61
    assert stream(book, "three", "s3").own(0, History(), 5).votes == {}


def test_an_address_asks_for_a_review_at_most_and_is_never_denied(tmp_path: Path) -> None:
    """Two people behind one address: the stranger's votes stand beside those that may cut, and nobody is denied."""
    book, _, rows = identities(tmp_path, "{by: addr}")
    stream(book, "one", "s1")
    assert not book.deny("s1", "incident")
    book.ended("s1", {0: BAD}, {0: BAD})
    neighbour = stream(book, "two", "s2")
    assert neighbour.own(0, History(), 5).votes == {}
    assert neighbour.beside(0, History(), 5).votes == BAD.votes
    assert rows.added == []
    book.ended("s2", {}, {})
    assert stream(book, "one", "s3").own(0, History(), 5).votes == BAD.votes  # its own key's votes are its own


async def test_a_cut_denies_the_account_until_its_time_is_over_or_it_is_taken_back(tmp_path: Path) -> None:
    """New keys do not help; over a restart neither; an undo of the incident and the end of the time do."""
    book, clock, rows = identities(tmp_path, more="enforcement: {deny_identity_for: 60s}")
    stream(book, "one", "s1")
    assert book.deny("s1", "incident-1")
    assert not book.admits(key("two"), {"user": "mallory"}, "198.51.100.7")
    assert book.admits(key("two"), {"user": "alice"}, "192.0.2.1")
    again = Identities(book.config, SECRET, rows, clock=clock, wall=clock)  # type: ignore[arg-type]
    await again.load()
    assert not again.admits(key("three"), {"user": "mallory"}, "")
    again.undo("incident-1")
    assert again.admits(key("three"), {"user": "mallory"}, "")
    assert len(rows.lifted) == 1
    clock.now += 61
    assert book.admits(key("two"), {"user": "mallory"}, "")
    assert (book.counters.denied_total, again.counters.denied_total) == (1, 1)


def test_an_account_with_many_streams_is_shared(tmp_path: Path) -> None:
    """`user=guest` is nobody: above `most_streams` at once nothing is carried over or denied, and health notes it."""
    book, _, _ = identities(tmp_path, "{by: 'query:user', most_streams: 2}")
    for number in range(3):
        stream(book, f"guest-{number}", f"s{number}", user="guest")
    assert not book.deny("s0", "incident")
    assert "identity.most_streams" in book.notes()[0]
    book.ended("s0", {0: BAD}, {})
    assert stream(book, "guest-4", "s4", user="guest").own(0, History(), 5).votes == {}


def test_a_token_counts_only_with_its_signature(tmp_path: Path) -> None:
    """A forged, a foreign and a missing token name nobody; with `required` such a publisher stays out."""
    (tmp_path / "secret").write_text(TOKEN_SECRET)
    text = f"{{by: 'jwt:sub', required: true, token_secret: {{file: {tmp_path / 'secret'}}}}}"
    book, clock, _ = identities(tmp_path, text)
    genuine = bearer_token(TOKEN_SECRET, {"sub": "mallory"})
    assert book.admits(key("one"), {"token": genuine}, "")
    book.opened("s1", key("one"))
    assert book.deny("s1", "incident")
    head, _, signature = genuine.split(".")
    other_payload = bearer_token("another-secret-of-16", {"sub": "alice"}).split(".")[1]
    late = bearer_token(TOKEN_SECRET, {"sub": "alice", "exp": clock.now - 1000})
    for token in ("", f"{head}.{other_payload}.{signature}", bearer_token("x" * 32, {"sub": "alice"}), late, "a.b.c"):
        assert not book.admits(key("two"), {"token": token}, "")
    assert not book.admits(key("two"), {"token": bearer_token(TOKEN_SECRET, {"sub": "mallory", "n": 1})}, "")
    assert book.admits(key("two"), {"token": bearer_token(TOKEN_SECRET, {"sub": "alice"})}, "")
    assert book.counters.unnamed_total == 5


def test_a_token_that_nobody_could_check_is_refused_in_the_config(tmp_path: Path) -> None:
    """`jwt:sub` without a secret is a fault at its line, under `identity` and under `streams`."""
    file = tmp_path / "stopframe.yaml"
    for text in ("identity: {by: 'jwt:sub'}", "streams: [{match: a, identity: 'jwt:sub'}]", "identity: {by: ip}"):
        file.write_text(text)
        with pytest.raises(ConfigError):
            load_config(file)


@given(
    value=st.text(max_size=5000),
    rule=st.sampled_from([Rule(Kind.ARGUMENT, "user"), Rule(Kind.ADDRESS), Rule(Kind.KEY), Rule(Kind.TOKEN)]),
)
def test_hostile_values_become_short_hashes(value: str, rule: Rule) -> None:
    """Whatever a publisher writes, an account is 26 plain characters, never the value, and none where there is none."""
    found = told_identity(rule, SECRET, {"user": value}, value, lambda: {"sub": value})
    assert (found is None) == (rule.kind is Kind.KEY or not value)
    if found is not None:
        assert len(found.name) == 26
        assert found.name.isascii()
        assert Rule.parse(str(rule)) == rule


@given(st.lists(st.sampled_from([Step.OFF, Step.REVIEW, Step.CUT]), max_size=8), st.integers(0, 8))
def test_own_votes_are_never_pushed_out(past: list[Step], own: int) -> None:
    """A joined history holds at most n votes, ends with the stream's own, and what found no room is handed back."""
    mine = History({"c": (Step.OFF,) * min(own, 5)}, SequenceHistory())
    whole, left = joined(History({"c": tuple(past)}), mine, 5)
    assert len(whole.votes["c"]) <= max(5, len(mine.votes["c"]))
    assert whole.votes["c"][len(whole.votes["c"]) - len(mine.votes["c"]) :] == mine.votes["c"]
    assert ("c" in left.votes) == (len(mine.votes["c"]) == 5)


def test_the_book_is_bounded_and_a_clean_stream_does_not_wash_a_bad_one() -> None:
    """The account heard of longest ago makes room; of two streams that overlapped the worse one counts."""
    book = VoteBook(most=2)
    for name in ("a", "b", "c"):
        book.give(name, {0: BAD}, 0.0)
    assert (len(book), book.forgotten_total) == (2, 1)
    book.give("c", {0: History({"cards/bad": (Step.REVIEW,) + (Step.OFF,) * 4})}, 1.0)
    assert book.take("c", 0, History(), 5, since=0.0).votes == BAD.votes


async def test_denials_lie_on_disk_without_a_name(tmp_path: Path) -> None:
    """A store keeps them over restarts and forgets those that are over."""
    clock = Clock()
    async with Database(tmp_path / "d.db") as database:
        config = Config(state_dir=tmp_path, identity=IdentitySection(by=Rule(Kind.ARGUMENT, "user")))
        book = Identities(config, SECRET, Denials(database), clock=clock, wall=clock)
        stream(book, "one", "s1")
        book.deny("s1", "incident-1")
    assert b"mallory" not in (tmp_path / "d.db").read_bytes()
    async with Database(tmp_path / "d.db") as database:
        assert [one.incident_id for one in await Denials(database).load(round(clock.now * 1000))] == ["incident-1"]
        assert await Denials(database).load(round((clock.now + 601) * 1000)) == []


class Borrowed:
    """What others voted: two frames at cut, in front of the first own one."""

    def __init__(self, *, is_address: bool) -> None:
        self.is_address = is_address

    def own(self, track: int, history: History, most: int) -> History:
        return history if self.is_address else joined(BAD, history, most)[0] if not history.votes else history

    def beside(self, track: int, history: History, most: int) -> History | None:
        if not self.is_address:
            return None
        return history if history.votes else joined(BAD, history, most)[0]


@pytest.mark.parametrize(("is_address", "action"), [(False, Step.CUT), (True, Step.REVIEW)])
def test_a_third_vote_cuts_by_account_and_asks_for_a_review_by_address(*, is_address: bool, action: Step) -> None:
    """One frame of a stream completes what its account voted; what a neighbour voted only has people look."""
    judge = Judge("S", "s1", None)  # type: ignore[arg-type]
    judge.lender = Borrowed(is_address=is_address)
    policy = PolicySettings(classes={"cards/bad": ClassRule(Step.CUT, 0.7, 0.9)})
    inspection = Inspection(
        90, is_stable=True, is_low_information=False, fingerprint=bytes(32),
        scores=(ClassScore("cards", "bad", 0.95, "0" * 64),),
    )  # fmt: skip
    seen = Observation("S", "s1", 1, "interval", 1.0, 1.0, 1.0, 1.0, is_corrupt=False, inspection=inspection)
    verdict = judge._decide(policy, seen, 0)
    assert verdict.action is action
    assert {signal.step for signal in verdict.signals} == {action}

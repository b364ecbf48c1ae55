"""A second opinion from an HMA on loopback: what it is sent, what its word may do, and that it holds up nobody."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

import detector.second_opinion as module
from detector.api.hma import hma_routes
from detector.api.server import HttpServer
from detector.config.config import Config
from detector.config.references import Secret
from detector.config.second_opinion import SecondOpinionSection
from detector.config.servers import HookUrl
from detector.events import Decision, Observation, Step
from detector.exchanges.hma_client import ANSWER_BYTES, HmaClient, HmaUnavailable, RemoteMatch, _matches
from detector.metrics import Metrics
from detector.policy import Verdict
from detector.second_opinion import MOST_WAITING, SecondOpinion, SecondOpinionParts
from models.evidence import Inspection
from streams.keeper import Nursery
from tests.contract.test_hma_server import BRIDGE, BRIDGE_EDITED, OTHER, TOKEN, Served, put
from tests.waiting import until

NOTHING = Verdict(Step.OFF, is_live=True, signals=(), votes=(0, 5), weak_hit=False, is_low_information=False)
ANSWER = {"PARTNER": [{"bank_content_id": 1001, "distance": "4"}]}


def _sample(session: str = "s1", fingerprint: str = BRIDGE, quality: int = 90, **changes: Any) -> Observation:
    inspection = Inspection(quality, changes.pop("is_stable", True), False, bytes.fromhex(fingerprint))
    return Observation(f"stream-{session}", session, 1, "keyframe", 0.0, 0.0, 0.0, 0.0, False, inspection)


class Ear:
    """The service's end: keeps the decisions, and says which sessions are live."""

    def __init__(self) -> None:
        self.heard: list[Decision] = []
        self.gone: set[str] = set()
        self.metrics = Metrics()

    async def hear(self, decision: Decision) -> bool:
        self.heard.append(decision)
        return decision.session not in self.gone

    def count(self, end: str) -> float:
        return self.metrics.value("stopframe_second_opinions_total", end=end)


@asynccontextmanager
async def _remote(answer: Callable[[Request], Any]) -> AsyncIterator[tuple[str, list[Request]]]:
    """Some server that takes look-ups; gives its URL and what it was asked."""
    asked: list[Request] = []
    app = FastAPI()

    @app.get("/m/lookup")
    async def lookup(request: Request) -> Any:
        asked.append(request)
        given = answer(request)
        return await given if asyncio.iscoroutine(given) else given

    async with HttpServer(app, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.port}", asked


def _section(url: str | None, **options: Any) -> SecondOpinionSection:
    options = {"timeout": "10s", "per_second": 200.0, **options}
    return SecondOpinionSection(url=None if url is None else HookUrl.parse(url), **options)


@asynccontextmanager
async def _asking(section: SecondOpinionSection | Callable[[], SecondOpinionSection]) -> AsyncIterator[Any]:
    ear = Ear()
    ask = section if callable(section) else lambda: section
    opinion = SecondOpinion(SecondOpinionParts(ask, lambda: True, ear.hear, ear.metrics))
    task = asyncio.create_task(opinion.works()[0].run())
    try:
        yield opinion, ear
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_its_word_is_a_review_and_it_is_sent_a_hash_alone() -> None:
    """One signal of a bank called `hma:NAME`; the request holds 64 hex digits, the type, the banks and the token."""
    async with _remote(lambda _: ANSWER) as (url, asked):
        section = _section(url, name="partner", token=Secret("test", TOKEN), banks=("PARTNER",))
        async with _asking(section) as (opinion, ear):
            opinion.offer(_sample(), NOTHING)
            await until(lambda: ear.count("matched") == 1)
    assert dict(asked[0].query_params) == {"signal": BRIDGE, "signal_type": "pdq", "banks": "PARTNER"}
    assert asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "stream" not in str(asked[0].headers) + str(asked[0].url)
    decision = ear.heard[0]
    (signal,) = decision.signals
    assert (decision.action, signal.step, decision.votes) == (Step.REVIEW, Step.REVIEW, (1, 1))
    assert (signal.kind, signal.bank, signal.entry, signal.distance) == ("hash", "hma:partner", "PARTNER/1001", 4)
    assert (signal.source, signal.exchange, signal.threshold) == ("hma:partner/PARTNER/1001", "partner", 31)


async def test_our_own_routes_are_an_hma(tmp_path: Path) -> None:
    """Two nodes of Stopframe: one asks the other as HMA, behind its token, and finds what that one's bank holds."""
    number = put(tmp_path, "LIST", "bridge", BRIDGE)
    options = {"http": {"token": Secret("test", TOKEN)}, "hma": {"enabled": True}}
    served = Served(Config.model_validate({"state_dir": str(tmp_path), **options}))
    app = FastAPI()
    async with hma_routes(app, served, Nursery("streams.reader:main")), HttpServer(app, "127.0.0.1", 0) as server:
        section = _section(f"http://127.0.0.1:{server.port}/hma", token=Secret("test", TOKEN), timeout="5s")
        async with HmaClient(section) as client:
            assert await client.lookup(bytes.fromhex(BRIDGE_EDITED)) == (RemoteMatch("LIST", number, 10),)
            assert await client.lookup(bytes.fromhex(OTHER)) == ()
        async with HmaClient(_section(f"http://127.0.0.1:{server.port}/hma")) as client:
            with pytest.raises(HmaUnavailable, match="it answered 401"):
                await client.lookup(bytes.fromhex(OTHER))


async def test_only_what_is_new_and_clear_is_asked_about() -> None:
    """Not a sample in which something was found, not noise, not what was asked about already; not without a server."""
    found = Verdict(Step.REVIEW, is_live=True, signals=(), votes=(1, 1), weak_hit=False, is_low_information=False)
    near = f"{int(BRIDGE, 16) ^ 0b111:064x}"
    async with _remote(lambda _: {}) as (url, asked), _asking(_section(url)) as (opinion, ear):
        opinion.offer(_sample(), found)
        opinion.offer(_sample(quality=49), NOTHING)
        opinion.offer(_sample(is_stable=False), NOTHING)
        opinion.beside(lambda *_: None)(_sample(), NOTHING)
        await until(lambda: ear.count("clean") == 1)
        opinion.offer(_sample(fingerprint=near), NOTHING)
        opinion.offer(_sample(fingerprint=OTHER), NOTHING)
        await until(lambda: ear.count("clean") == 2)
        assert [one.query_params["signal"] for one in asked] == [BRIDGE, OTHER]
        assert not ear.heard
    async with _asking(_section(None)) as (opinion, ear):
        opinion.offer(_sample(), NOTHING)
        assert not opinion._line.has_work.is_set()


async def test_the_newest_sample_waits_and_nobody_else() -> None:
    """Offering never waits; of each stream one sample does, of all a bounded number; what left is counted."""
    go_on = asyncio.Event()

    async def slow(_: Request) -> dict[str, Any]:
        await go_on.wait()
        return ANSWER

    async with _remote(slow) as (url, asked), _asking(_section(url, at_once=1, timeout="30s")) as (opinion, ear):
        opinion.offer(_sample("first"), NOTHING)
        await until(lambda: len(asked) == 1)
        opinion.offer(_sample("second"), NOTHING)
        opinion.offer(_sample("second", OTHER), NOTHING)
        assert ear.count("replaced") == 1
        for number in range(MOST_WAITING + 5):
            opinion.offer(_sample(f"crowd-{number}"), NOTHING)
        assert ear.count("replaced") == 1 + 6
        assert len(asked) == 1
        opinion.ended("crowd-200")
        assert ear.count("late") == 1
        ear.gone.add("first")
        go_on.set()
        await until(lambda: ear.count("matched") >= 3)
        assert ear.count("late") == 2
        assert not any(one.query_params["signal"] == BRIDGE and one is not asked[0] for one in asked[:1])


async def test_no_faster_than_the_operator_said() -> None:
    """`per_second` holds for all streams together."""
    async with _remote(lambda _: {}) as (url, asked), _asking(_section(url, per_second=2.0)) as (opinion, ear):
        began_at = time.monotonic()
        for number in range(20):
            opinion.offer(_sample(f"s{number}"), NOTHING)
        await until(lambda: ear.count("clean") == 2)
        assert len(asked) <= 2 + 2.0 * (time.monotonic() - began_at)


async def _endless(_: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10 << 4):
            yield b"[" * (64 << 10)

    return StreamingResponse(pieces(), media_type="application/json")


async def _never(_: Request) -> None:
    await asyncio.sleep(3)


HOSTILE: dict[str, Callable[[Request], Any]] = {
    "no JSON": lambda _: Response(b"\xff\xfe{", media_type="application/json"),
    "deep": lambda _: Response(b"[" * 200_000, media_type="application/json"),
    "ten megabytes": _endless,
    "list": lambda _: [],
    "text for matches": lambda _: {"BANK": "all"},
    "no content id": lambda _: {"BANK": [{"distance": "4"}]},
    "huge number": lambda _: Response(b'{"BANK": [{"bank_content_id": 1%s, "distance": "4"}]}' % (b"0" * 5000)),
    "distance as words": lambda _: {"BANK": [{"bank_content_id": 1, "distance": "-4"}]},
    "bank of control characters": lambda _: {"\u202e\n": [{"bank_content_id": 1, "distance": "4"}]},
    "elsewhere": lambda _: RedirectResponse("http://127.0.0.1:1/"),
    "fault": lambda _: Response(status_code=500),
    "silence": _never,
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_server_harms_nothing(kind: str) -> None:
    """Each is no answer, counted; after three of them nobody is asked for a while, and health has a note."""
    options = {"timeout": "100ms" if kind == "silence" else "5s", "at_once": 1}
    async with _remote(HOSTILE[kind]) as (url, asked), _asking(_section(url, **options)) as (opinion, ear):
        for number in range(3):
            opinion.offer(_sample(f"s{number}"), NOTHING)
        await until(lambda: ear.count("failed") == 3)
        (note,) = opinion.notes()
        assert "remote is not to be had: it" in note
        opinion.offer(_sample("later"), NOTHING)
        assert ear.count("skipped") == 1
        assert len(asked) == 3
        assert not ear.heard


async def test_it_is_asked_again_and_by_the_config_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause one question shows that it is back; another URL counts for the next sample."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.05)
    is_well = False

    def answer(_: Request) -> Any:
        return ANSWER if is_well else Response(status_code=503)

    async with _remote(answer) as (url, _), _remote(lambda _: {}) as (elsewhere, asked_there):
        sections = [_section(url)]
        async with _asking(lambda: sections[-1]) as (opinion, ear):
            for number in range(3):
                opinion.offer(_sample(f"s{number}"), NOTHING)
            await until(lambda: bool(opinion.notes()))
            is_well = True
            await asyncio.sleep(0.3)
            opinion.offer(_sample("back"), NOTHING)
            await until(lambda: ear.count("matched") == 1)
            assert opinion.notes() == []
            sections.append(_section(elsewhere))
            opinion.offer(_sample("moved"), NOTHING)
            await until(lambda: ear.count("clean") == 1)
            assert len(asked_there) == 1


async def test_a_fault_of_ours_ends_one_answer_alone() -> None:
    """What goes wrong while one is heard is logged; the next is asked all the same."""
    async with _remote(lambda _: ANSWER) as (url, _), _asking(_section(url)) as (opinion, ear):
        hear, faults = ear.hear, iter([True, False])

        async def broken(decision: Decision) -> bool:
            if next(faults):
                raise RuntimeError("a fault")
            return await hear(decision)

        object.__setattr__(opinion._parts, "heard", broken)
        opinion.offer(_sample("one"), NOTHING)
        opinion.offer(_sample("two"), NOTHING)
        await until(lambda: ear.count("matched") == 1)


@given(st.one_of(st.binary(max_size=200), st.recursive(st.integers() | st.text(), st.lists).map(json.dumps)))
def test_any_answer_is_read_or_refused(body: bytes | str) -> None:
    """Nothing that comes back makes the client fail in another way, and what it takes is short and near."""
    with suppress(HmaUnavailable):
        found = _matches(body.encode() if isinstance(body, str) else body, frozenset())
        assert all(0 <= one.distance <= 31 for one in found)


def test_many_matches_are_cut_down_to_the_nearest() -> None:
    """Sixteen of thousands; what is beyond HMA's own limit is none, and of other banks than asked neither."""
    body = json.dumps(
        {"A": [{"bank_content_id": n, "distance": str(n % 40)} for n in range(900)], "B": ANSWER["PARTNER"]}
    )
    found = _matches(body.encode(), frozenset({"A"}))
    assert len(found) == 16
    assert {(one.bank, one.distance) for one in found} == {("A", 0)}
    assert len(body) < ANSWER_BYTES

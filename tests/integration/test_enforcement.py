"""The cut and its proof: against a scripted server on a clock that is passed in, and against the embedded one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from detector.config.addresses import ListenAddress
from detector.enforcement import CutTarget, Enforcer, EnforcerSettings
from detector.events import CutResult, CutState, Publisher, StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.none import NoIngest
from detector.ingest.revocations import FileRevocations, Revocations
from tests.fixtures_scripted_server import KEY, START, Records, Server, Time
from tests.slack import SLACK_SECONDS
from tests.waiting import until

TARGET = CutTarget("stream", "session", KEY, "c1", "incident", hit_at=98.0)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def server(clock: Time) -> Server:
    server = Server(clock)
    server.go_live()
    return server


@pytest.fixture
def records() -> Records:
    return Records()


@contextlib.asynccontextmanager
async def _enforcing(server: IngestServer, records: Records, clock: Time, **settings: float) -> AsyncIterator[Enforcer]:
    made = Enforcer(
        server, records, EnforcerSettings(**settings), clock=clock, wall_clock=lambda: 5000 + clock(), sleep=clock.sleep
    )
    async with made as enforcer:
        yield enforcer


async def test_a_cut_is_proved(server: Server, records: Records, clock: Time) -> None:
    """Revoke, then cut, then a second of silence and an empty list: only then is it confirmed, and written down."""
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.attempts, outcome.count, outcome.returns) == (CutState.CONFIRMED, 1, 1, 0)
    assert outcome.gone_at == START
    assert outcome.confirmed_at == pytest.approx(START + 1.0, abs=0.06)
    assert server.calls == ["revoke", "cut", "publishers", "publishers"]
    assert server.is_revoked(KEY)
    assert records.states() == [("incident", "pending"), ("incident", "confirmed")]
    proof = records.told[-1][1]
    assert (proof.gone_at_ms, proof.time_to_cut_ms) == (5_100_000, 2000)
    assert proof.confirmed_at_ms == pytest.approx(5_101_000, abs=60)


async def test_everyone_who_asks_shares_one_cut(server: Server, records: Records, clock: Time) -> None:
    """Many calls for one session are one cut with one outcome, then and later; each incident is told of it."""
    async with _enforcing(server, records, clock) as enforcer:
        targets = [CutTarget("stream", "session", KEY, "c1", f"incident-{n}") for n in range(5)]
        outcomes = await asyncio.gather(*(enforcer.cut(t, last_packet_at=server.last_packet_at) for t in targets))
        late = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert {*outcomes, late} == {outcomes[0]}
    assert server.calls.count("cut") == 1
    confirmed = {incident for incident, state in records.states() if state == "confirmed"}
    assert confirmed == {*(f"incident-{n}" for n in range(5)), "incident"}


async def test_a_cut_goes_on_without_its_caller(server: Server, records: Records, clock: Time) -> None:
    """The session that asked ends with its stream; the proof is still made."""
    async with _enforcing(server, records, clock) as enforcer:
        caller = asyncio.create_task(enforcer.cut(TARGET, last_packet_at=server.last_packet_at), name="caller")
        await until(lambda: "cut" in server.calls)
        caller.cancel()
        await until(lambda: enforcer.counters.cuts_total == {CutState.CONFIRMED: 1})
    assert records.states()[-1] == ("incident", "confirmed")


async def test_a_failing_server_is_asked_again(server: Server, records: Records, clock: Time) -> None:
    """Errors are retried with growing pauses; a key that cannot be revoked at first does not hold the cut back."""
    server.failures = {"revoke": 2, "publishers": 1}
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.count, outcome.attempts) == (CutState.CONFIRMED, 1, 3)
    assert server.calls[:3] == ["revoke", "cut", "publishers"]
    assert enforcer.counters.unavailable_total == 3


async def test_a_cut_without_a_denied_key_is_not_confirmed(server: Server, records: Records, clock: Time) -> None:
    """Dropping a connection alone does not last: without the key revoked the cut fails, and says why."""
    server.failures = {"revoke": 10**6}
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.detail) == (CutState.FAILED, "revoke failed")


@pytest.mark.parametrize("what", ["revoke", "cut", "publishers"])
async def test_a_hanging_server_costs_no_more_than_the_deadline(
    what: str, server: Server, records: Records, clock: Time
) -> None:
    """Whichever question hangs, the cut ends within its deadline, as failed, naming the silence."""
    server.hanging = {what}
    loop = asyncio.get_running_loop()
    begun = loop.time()
    quick = EnforcerSettings(deadline_seconds=0.4, call_seconds=0.1, quiet_seconds=0.05)
    async with Enforcer(server, records, quick) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=lambda: None)
    assert outcome.state is CutState.FAILED
    assert "did not answer" in outcome.detail
    assert loop.time() - begun < 2.0 + SLACK_SECONDS


async def test_a_publisher_that_the_server_cannot_see_is_uncuttable(
    server: Server, records: Records, clock: Time
) -> None:
    """Count 0, nobody listed, packets keep arriving: as after a server reload; said within seconds, not at the end."""
    server.leave()
    server.keeps_streaming = True
    async with _enforcing(server, records, clock, deadline_seconds=60) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.count, outcome.gone_at) == (CutState.UNCUTTABLE, 0, None)
    assert clock() - START < 6
    assert "packets keep arriving" in outcome.detail


async def test_a_polite_answer_is_no_proof(server: Server, records: Records, clock: Time) -> None:
    """A server that drops nobody and goes on listing the publisher makes a failed cut, however often it is asked."""
    server.drops = False
    async with _enforcing(server, records, clock, deadline_seconds=10) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.detail) == (CutState.FAILED, "the ingest server still lists the publisher")
    assert outcome.attempts > 3
    assert START + 9 < clock() < START + 13


async def test_packets_after_the_cut_are_no_proof(server: Server, records: Records, clock: Time) -> None:
    """Dropped and unlisted, yet packets arrive: not confirmed."""
    server.keeps_streaming = True
    async with _enforcing(server, records, clock, deadline_seconds=10) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.count, outcome.detail) == (CutState.FAILED, 1, "packets keep arriving")


async def test_a_publisher_that_left_by_itself_is_not_called_cut(server: Server, records: Records, clock: Time) -> None:
    """Nobody was there to cut: not confirmed, but said to have left, with the key revoked."""
    server.leave()
    server.gone_at = START - 1
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.has_left, outcome.gone_at) == (CutState.FAILED, True, None)
    assert server.is_revoked(KEY)
    assert clock() - START < 4


async def test_a_reconnect_before_the_cut_does_not_help(server: Server, records: Records, clock: Time) -> None:
    """The publisher is on another connection by now: whoever holds the denied key is cut."""
    server.leave()
    server.go_live("c2")
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.count) == (CutState.CONFIRMED, 1)


async def test_a_publisher_that_comes_back_at_once_is_cut_again(server: Server, records: Records, clock: Time) -> None:
    """Each return on a server that lets the denied key in is cut again, until it stays away."""
    server.comes_back = 3
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, outcome.count, server.board.current()) == (CutState.CONFIRMED, 4, [])


async def test_a_return_while_the_proof_is_made_is_cut_again(server: Server, records: Records, clock: Time) -> None:
    """A publisher who is back within the second of silence is counted, cut again, and only then is it confirmed."""

    def last_packet_at() -> float | None:
        if server.calls.count("cut") == 1 and clock() > START + 0.5 and not server.board.current():
            server.go_live("c2")
            server.gone_at = START
        return server.gone_at

    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=last_packet_at)
    assert (outcome.state, outcome.count, outcome.returns) == (CutState.CONFIRMED, 2, 1)


async def test_watching_goes_on_when_the_server_was_away(server: Server, records: Records, clock: Time) -> None:
    """A server that cannot tell of changes for a while is asked again, and returns are found afterwards."""
    server.revoked.add(KEY)
    server.failures = {"changes": 3}
    async with _enforcing(server, records, clock) as enforcer:
        await until(lambda: enforcer.returns_total == 1)
    assert server.failures == {"changes": 0}


async def test_a_return_that_cannot_be_cut_is_tried_until_it_is_gone(
    server: Server, records: Records, clock: Time
) -> None:
    """A denied publisher whom the server will not drop is tried past the deadline, until it is off the list."""
    server.revoked.add(KEY)
    server.drops = False
    async with _enforcing(server, records, clock, deadline_seconds=5) as enforcer:
        await until(lambda: clock() > START + 20)
        assert server.calls.count("cut") > 10
        server.leave()
        await until(lambda: not enforcer._watch._returning)
        assert enforcer.returns_total == 0


async def test_a_return_long_after_the_cut_is_cut_and_counted(server: Server, records: Records, clock: Time) -> None:
    """The denied key is watched for as long as the service runs, through errors; other keys are left alone."""
    async with _enforcing(server, records, clock) as enforcer:
        await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
        clock.now += 3600
        server.board.add(Publisher(StreamKey("edge", "live", "innocent"), "c8", since_at=0.0))
        server.failures = {"cut": 2}
        server.go_live("c9")
        await until(lambda: enforcer.returns_total == 1)
        assert [p.connection for p in server.board.current()] == ["c8"]
        assert server.failures == {"cut": 0}


async def test_a_denied_publisher_that_is_live_at_the_start_is_cut(
    server: Server, records: Records, clock: Time
) -> None:
    """After a restart, who publishes a revoked key is cut without being found again."""
    server.revoked.add(KEY)
    async with _enforcing(server, records, clock) as enforcer:
        await until(lambda: enforcer.returns_total == 1)
    assert server.board.current() == []


async def test_undo_restores_and_ends_a_cut_under_way(server: Server, records: Records, clock: Time) -> None:
    """An operator's undo lets the key publish again, and a cut that cannot finish stops trying."""
    server.drops = False
    async with _enforcing(server, records, clock, deadline_seconds=10**6) as enforcer:
        cut = asyncio.create_task(enforcer.cut(TARGET, last_packet_at=server.last_packet_at), name="cut")
        await until(lambda: server.calls.count("cut") > 4)
        await enforcer.undo(KEY)
        outcome = await asyncio.wait_for(cut, 20)
        assert (outcome.state, outcome.detail) == (CutState.FAILED, "an operator took the cut back")
        assert not server.is_revoked(KEY)
        server.drops = True
        again = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
        assert again.state is CutState.CONFIRMED


async def test_undo_is_on_disk_before_the_key_is_allowed(
    server: Server, records: Records, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash right after the key is allowed leaves no cut that the next start would go on with."""
    told_before = []
    restore = server.restore

    async def watched(key: StreamKey) -> None:
        told_before.extend(records.states())
        await restore(key)

    monkeypatch.setattr(server, "restore", watched)
    async with _enforcing(server, records, clock) as enforcer:
        await enforcer.undo(KEY, incident_id="i1")
        assert told_before == [("i1", "failed")]
        records.is_frozen = True
        server.revoked.add(KEY)
        await enforcer.undo(KEY, incident_id="i1")
        assert not server.is_revoked(KEY), "a disk that hangs must not keep the key denied"
        assert enforcer.journal.unrecorded_total == 1


async def test_undo_says_when_the_server_does_not_answer(server: Server, records: Records, clock: Time) -> None:
    """An operator learns that the key is still denied."""
    server.failures = {"restore": 1}
    async with _enforcing(server, records, clock) as enforcer:
        with pytest.raises(IngestUnavailable, match="restore failed"):
            await enforcer.undo(KEY)


async def test_what_is_not_ours_to_cut_is_uncuttable(server: Server, records: Records, clock: Time) -> None:
    """Without an ingest server, and for a stream watched by its URL, nothing is tried and the reason is told."""
    async with _enforcing(NoIngest(), records, clock) as enforcer:
        alone = await enforcer.cut(TARGET, last_packet_at=lambda: None)
    elsewhere = CutTarget("other", "1", StreamKey("url", "", "cam"))
    async with _enforcing(server, records, clock) as enforcer:
        foreign = await enforcer.cut(elsewhere, last_packet_at=lambda: None)
        assert await enforcer.cut(elsewhere, last_packet_at=lambda: None) == foreign
        assert enforcer.counters.cuts_total == {CutState.UNCUTTABLE: 1}
    assert (alone.state, foreign.state, server.calls) == (CutState.UNCUTTABLE, CutState.UNCUTTABLE, [])
    assert "`ingest`" in alone.detail
    assert "URL" in foreign.detail


async def test_a_full_disk_keeps_nobody_on_air(server: Server, records: Records, clock: Time) -> None:
    """What cannot be written down is counted; the cut is made and proved."""
    records.is_broken = True
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, enforcer.journal.unrecorded_total) == (CutState.CONFIRMED, 2)


async def test_a_frozen_disk_keeps_nobody_on_air(server: Server, records: Records, clock: Time) -> None:
    """A disk that neither takes nor refuses holds up the cut for a moment only, and is counted."""
    records.is_frozen = True
    async with _enforcing(server, records, clock, record_seconds=0.02) as enforcer:
        async with asyncio.timeout(20):
            outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
    assert (outcome.state, enforcer.journal.unrecorded_total) == (CutState.CONFIRMED, 2)


async def test_no_key_is_ever_logged(
    server: Server, records: Records, clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cuts, failures and returns are logged without the key."""
    server.comes_back = 1
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)
        server.go_live("c9")
        await until(lambda: enforcer.returns_total == 1)
    printed = capsys.readouterr()
    assert "cut.confirmed" in printed.out + printed.err
    assert "secret-key" not in printed.out + printed.err + repr(outcome) + repr(records.told)


async def test_a_cut_does_not_wait_until_its_denial_is_on_disk(clock: Time, records: Records) -> None:
    """The key is denied before the cut is asked for, and a disk busy with it holds up only the verdict."""
    is_written = asyncio.Event()
    order: list[str] = []

    class _SlowDisk(Server):
        async def revoke(self, key: StreamKey) -> None:
            self.revoked.add(key)
            await is_written.wait()
            order.append("written")

        async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
            order.append(f"cut, denied: {self.is_revoked(key)}")
            asyncio.get_running_loop().call_later(0.05, is_written.set)
            return await super().cut(key, connection)

    server = _SlowDisk(clock)
    server.go_live()
    async with _enforcing(server, records, clock) as enforcer:
        outcome = await enforcer.cut(TARGET, last_packet_at=server.last_packet_at)

    assert (outcome.state, outcome.attempts) == (CutState.CONFIRMED, 1)
    assert order == ["cut, denied: True", "written"]


@pytest.mark.integration
async def test_the_embedded_server_is_cut_for_real(records: Records, tmp_path: Path) -> None:
    """On real sockets: media stops at once, the proof takes a second, the encoder's reconnect gets 403."""
    revocations = Revocations(FileRevocations(tmp_path / "revoked"), lambda key: key.name)
    quick = EnforcerSettings(quiet_seconds=0.2)
    packets: list[float] = []
    loop = asyncio.get_running_loop()

    async def media() -> AsyncIterator[bytes]:
        while True:
            yield b"\x47" * 1316
            await asyncio.sleep(0.005)

    async with (
        EmbeddedIngest(EmbeddedSettings(listen=ListenAddress("127.0.0.1", 0)), revocations, "edge") as server,
        Enforcer(server, records, quick) as enforcer,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        url = server.reader_source(KEY)[1]
        publisher = asyncio.create_task(client.post(url, content=media()), name="publisher")
        await until(lambda: server.counters.bytes_in_total > 0)

        async def read() -> None:
            async with client.stream("GET", url) as response:
                async for _ in response.aiter_raw():
                    packets.append(loop.time())  # noqa: PERF401 - each as it comes

        reader = asyncio.create_task(read(), name="reader")
        await until(lambda: len(packets) > 5)
        (live,) = await server.publishers()
        asked_at = loop.time()
        target = CutTarget("stream", "session", KEY, live.connection, "incident", hit_at=asked_at)
        outcome = await enforcer.cut(target, last_packet_at=lambda: packets[-1])

        assert (outcome.state, outcome.count) == (CutState.CONFIRMED, 1)
        assert outcome.gone_at is not None
        assert outcome.gone_at <= asked_at + 0.5 + SLACK_SECONDS
        assert packets[-1] <= outcome.gone_at + 0.5 + SLACK_SECONDS
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(publisher, 20)
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(reader, 20)
        assert (await client.post(url, content=b"x")).status_code == 403
        await enforcer.undo(KEY)
        assert (await client.post(url, content=b"x")).status_code == 200

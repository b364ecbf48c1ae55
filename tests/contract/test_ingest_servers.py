"""What every ingest server must do, run over each of them.

To add a server: one line in `INGEST_SERVERS`, and one in `BENCHES` of `tests/ingest_benches.py` with a way to publish.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

from detector.events import Publisher, StreamKey
from detector.ingest.adapter import (
    IngestUnavailable,
    PublisherChange,
    PublisherEnded,
    PublisherStarted,
    answer_within,
)
from detector.ingest.board import PublisherBoard
from detector.ingest.registry import ENTRY_POINT_GROUP, INGEST_SERVERS, ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations, RevocationStoreError
from tests.ingest_benches import BENCHES, made, opened
from tests.waiting import until

CUTTING = [pytest.param(name, marks=bench.marks) for name, bench in sorted(BENCHES.items()) if bench.stage]
CUTTING_NAMES = [
    pytest.param(kind, name, marks=bench.marks)
    for kind, bench in sorted(BENCHES.items())
    if bench.stage
    for name in bench.names
]
DENYING = [pytest.param(n, marks=b.marks) for n, b in sorted(BENCHES.items()) if b.stage and b.denies]
REMOTE = sorted(name for name, bench in BENCHES.items() if bench.at_port)


async def _next(changes: AsyncIterator[PublisherChange]) -> PublisherChange:
    return await asyncio.wait_for(anext(changes), 30)


def test_every_server_is_tested() -> None:
    """A server in the registry without a bench here would be an untested one."""
    assert set(BENCHES) == set(INGEST_SERVERS)
    with pytest.raises(LookupError, match="use one of ant-media"):
        ingest_kind("nonesuch")


def test_a_server_from_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group `stopframe.ingest` adds a server without touching this repository."""
    point = EntryPoint("theirs", "detector.ingest.registry:INGEST_SERVERS", ENTRY_POINT_GROUP)
    monkeypatch.setattr("detector.ingest.registry.entry_points", lambda group: [point] if "stopframe" in group else [])
    assert id(ingest_kind("theirs")) == id(INGEST_SERVERS)
    with pytest.raises(LookupError, match="srs, theirs"):
        ingest_kind("nonesuch")


def test_a_board_can_be_set_from_a_list() -> None:
    """A server that is asked rather than listened to replaces its board; who stays keeps the time since when."""
    board, key = PublisherBoard(), StreamKey("edge", "live", "x")
    board.replace([Publisher(key, "1", since_at=1.0), Publisher(key, "2", since_at=1.0)])
    board.replace([Publisher(key, "2", since_at=9.0), Publisher(key, "3", since_at=9.0)])
    assert [(p.connection, p.since_at) for p in board.current()] == [("2", 1.0), ("3", 9.0)]


@pytest.mark.parametrize("kind", sorted(INGEST_SERVERS))
def test_settings_are_strict(kind: str) -> None:
    """Settings carry the word for their kind, are frozen, have defaults, and refuse a key that they do not know."""
    settings = ingest_kind(kind).settings
    assert settings.model_validate({}).kind == kind
    assert settings.model_config["frozen"] is True
    with pytest.raises(ValidationError):
        settings.model_validate({"no_such_key": 1})


@pytest.mark.parametrize("kind", [pytest.param(n, marks=b.marks) for n, b in sorted(BENCHES.items())])
async def test_an_idle_server_has_nobody(kind: str, tmp_path: Path) -> None:
    """Without publishers the list is empty, a cut counts 0, nothing is revoked; `changes()` ends with the server."""
    key = StreamKey("edge", "live", "nobody")
    async with contextlib.AsyncExitStack() as stack:
        if BENCHES[kind].stage:
            server, _ = await stack.enter_async_context(opened(kind, tmp_path))
        else:
            server = await stack.enter_async_context(made(kind, tmp_path, BENCHES[kind].settings))
        assert server.name == "edge"
        assert await server.publishers() == []
        assert (await server.cut(key)).count == 0
        assert (await server.cut(key, "1")).count == 0
        assert not server.is_revoked(key)
        assert server.problems() == []
        changes = server.changes()
        waiting = asyncio.create_task(anext(changes, None), name="changes")
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, 30) is None


@pytest.mark.parametrize("kind", sorted(name for name, bench in BENCHES.items() if not bench.stage))
async def test_a_server_that_cannot_cut_says_so(kind: str, tmp_path: Path) -> None:
    """Where nothing can be cut, that is said beforehand, and each attempt ends in a sentence with the remedy."""
    key = StreamKey("edge", "live", "x")
    async with made(kind, tmp_path, BENCHES[kind].settings) as server:
        assert not server.can_cut
        for ask in (server.revoke, server.restore):
            with pytest.raises(IngestUnavailable, match="`ingest`"):
                await ask(key)
        with pytest.raises(IngestUnavailable, match="`ingest`"):
            server.reader_source(key)


@pytest.mark.parametrize(("kind", "name"), CUTTING_NAMES)
async def test_a_publisher_is_listed_cut_and_gone(kind: str, name: str, tmp_path: Path) -> None:
    """Whatever its name, a publisher is listed, told of, cut once with its connection's id, and told to have ended."""
    key = StreamKey("edge", BENCHES[kind].app, name)
    async with opened(kind, tmp_path) as (server, stage):
        changes = server.changes()
        async with stage.publish(server, key):
            started = await _next(changes)
            assert isinstance(started, PublisherStarted)
            assert await server.publishers() == [started.publisher]
            assert started.publisher.key == key
            connection = started.publisher.connection
            assert (await server.cut(key, f"not-{connection}")).count == 0
            assert (await server.cut(StreamKey("elsewhere", key.app, key.name))).count == 0
            assert (await server.cut(key, connection)).count == 1
            assert await _next(changes) == PublisherEnded(key, connection)
            assert await server.publishers() == []
            assert (await server.cut(key, connection)).count == 0


@pytest.mark.parametrize("kind", DENYING)
async def test_revoking_denies_until_restored(kind: str, tmp_path: Path) -> None:
    """Revoking leaves a live publisher alone and denies the next, over a restart too; an undo lets in within 5 s."""
    key = StreamKey("edge", BENCHES[kind].plain_app, BENCHES[kind].names[-1])
    async with opened(kind, tmp_path) as (server, stage):
        changes = server.changes()
        async with stage.publish(server, key):
            await _next(changes)
            await server.revoke(key)
            await server.revoke(key)
            assert [p.key for p in await server.publishers()] == [key]
        await _next(changes)
        assert await stage.is_denied(server, key)
    async with opened(kind, tmp_path) as (server, stage):
        assert server.is_revoked(key)
        if BENCHES[kind].denies_there:
            await server.revoke(key)  # this stand-in was restarted, too, and forgot
        assert await stage.is_denied(server, key)
        async with asyncio.timeout(30):
            await server.restore(key)
            assert not await stage.is_denied(server, key)
        await server.restore(key)
        assert not server.is_revoked(key)


@pytest.mark.parametrize("kind", CUTTING)
async def test_a_late_consumer_is_told_the_present(kind: str, tmp_path: Path) -> None:
    """Who begins to follow late hears of everyone live; who falls behind hears a true end for every start."""
    keys = [StreamKey("edge", BENCHES[kind].plain_app, str(n)) for n in range(3)]
    async with opened(kind, tmp_path) as (server, stage), contextlib.AsyncExitStack() as stack:
        early = server.changes()
        for key in keys:
            await stack.enter_async_context(stage.publish(server, key))
        seen = [await _next(early) for _ in keys]
        late = server.changes()
        told = {c.publisher.key for c in [await _next(late) for _ in keys] if isinstance(c, PublisherStarted)}
        assert told == set(keys)
        await server.cut(keys[0])
        await server.cut(keys[1])
        ended = [await _next(early), await _next(early)]
        assert [type(c) for c in seen + ended] == [PublisherStarted] * 3 + [PublisherEnded] * 2
        assert [p.key for p in await server.publishers()] == [keys[2]]


@pytest.mark.parametrize("is_listening", [False, True])
@pytest.mark.parametrize("kind", REMOTE)
async def test_a_server_that_is_down_or_hangs_costs_its_time_limit(
    kind: str, *, is_listening: bool, tmp_path: Path
) -> None:
    """What needs its answer fails in time with a sentence; denying keys, reading and watching go on without it."""
    key = StreamKey("edge", "live", "secret-key")
    at_port = BENCHES[kind].at_port
    assert at_port is not None
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if is_listening:
            silent.listen()
        async with made(kind, tmp_path, at_port(silent.getsockname()[1])) as server:
            for ask in (server.publishers, lambda: server.cut(key), lambda: server.cut(key, "1")):
                async with asyncio.timeout(20):
                    with pytest.raises(IngestUnavailable) as caught:
                        await ask()
                assert "secret" not in str(caught.value)
            changes = asyncio.create_task(anext(server.changes(), None), name="changes")
            await until(lambda: len(server.problems()) == 1)
            assert "ingest." in server.problems()[0] or "did not answer" in server.problems()[0]
            if BENCHES[kind].denies_there:
                for tell in (server.revoke, server.restore):
                    with pytest.raises(IngestUnavailable):
                        await tell(key)
                assert server.is_revoked(key)
            else:
                await server.revoke(key)
                assert server.is_revoked(key)
                await server.restore(key)
                assert server.reader_source(key)[1].startswith(("http://", "rtmp://"))
            assert not changes.done()
    assert await changes is None


async def test_a_question_that_hangs_is_given_up() -> None:
    """A server that does not answer costs its time limit, and the error says so."""
    with pytest.raises(IngestUnavailable, match=r"did not answer within 0\.0 s"):
        await answer_within(0.01, asyncio.Event().wait())


@pytest.mark.parametrize("content", [b"good_id\nbad id\n", b"\xff\n", b"\n"])
def test_a_damaged_list_of_revoked_keys_is_never_an_empty_one(content: bytes, tmp_path: Path) -> None:
    """A list that cannot be read stops the start, with the file and the remedy, instead of letting everyone in."""
    path = tmp_path / "revoked"
    path.write_bytes(content)
    with pytest.raises(RevocationStoreError, match=r"revoked.*restore"):
        FileRevocations(path).load()


async def test_a_full_disk_does_not_keep_a_key_alive(tmp_path: Path) -> None:
    """What cannot be written is still in force, and is counted."""
    revocations = Revocations(FileRevocations(tmp_path / "missing" / "revoked"), lambda key: key.name)
    key = StreamKey("edge", "live", "x")
    await revocations.add(key)
    assert (key in revocations, revocations.unsaved_total) == (True, 1)


async def test_many_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    """Concurrent revocations do not overwrite each other, and a new reader of the file finds them all."""
    store = FileRevocations(tmp_path / "revoked")
    revocations = Revocations(store, lambda key: key.name)
    keys = [StreamKey("edge", "live", f"k{n}") for n in range(20)]
    await asyncio.gather(*(revocations.add(key) for key in keys))
    given_up = asyncio.create_task(revocations.add(keys[0]), name="given up")
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(*(revocations.remove(key) for key in keys[:5]))
    assert store.load() == {key.name for key in keys[5:]}
    assert all(key in Revocations(store, lambda key: key.name) for key in keys[5:])
    assert [path.name for path in store._path.parent.iterdir() if "revoked" in path.name] == ["revoked"]

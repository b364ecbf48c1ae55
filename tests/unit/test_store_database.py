"""The database: what was committed stays, what the disk refuses is said by name."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.schema import STEPS
from tests.waiting import until


def _put(value: str) -> Callable[[sqlite3.Connection], int]:
    return lambda c: c.execute("INSERT INTO retained_topics VALUES (?)", (value,)).rowcount


def _all(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT topic FROM retained_topics ORDER BY topic")]


def _modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_file_is_private(tmp_path: Path) -> None:
    """The file and its companions are readable by their owner alone, even where a wider file was there before."""
    path = tmp_path / "s.db"
    path.touch(mode=0o666)
    async with Database.open(path) as db:
        await db.write(_put("a"))
        modes = _modes(tmp_path)

    assert modes == {0o600}


async def test_one_named_thread_owns_the_connection(tmp_path: Path) -> None:
    """Every job runs on the one database thread, and that thread ends with the context."""
    async with Database.open(tmp_path / "s.db") as db:
        names = set(await asyncio.gather(*(db.read(lambda _: threading.current_thread().name) for _ in range(20))))

    assert names == {"stopframe-database"}
    assert "stopframe-database" not in {t.name for t in threading.enumerate()}


async def test_settings_make_a_commit_durable(tmp_path: Path) -> None:
    """The connection writes ahead and waits for the disk at every commit."""
    async with Database.open(tmp_path / "s.db") as db:
        journal = await db.read(lambda c: c.execute("PRAGMA journal_mode").fetchone()[0])
        synchronous = await db.read(lambda c: c.execute("PRAGMA synchronous").fetchone()[0])

    assert (journal, synchronous) == ("wal", 2)


async def test_migrations_run_once_and_keep_rows(tmp_path: Path) -> None:
    """Opening again finds the newest version and the rows of before."""
    for value in ("a", "b"):
        async with Database.open(tmp_path / "s.db") as db:
            await db.write(_put(value))
            version = await db.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0])

    async with Database.open(tmp_path / "s.db") as db:
        assert await db.read(_all) == ["a", "b"]
    assert version == len(STEPS)


async def test_newer_file_is_refused(tmp_path: Path) -> None:
    """A file of a newer version is left alone, and the error says what to do."""
    connection = sqlite3.connect(tmp_path / "s.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreUnavailable, match="newer Stopframe: upgrade"):
        await Database.open(tmp_path / "s.db").__aenter__()
    assert "stopframe-database" not in {t.name for t in threading.enumerate()}


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda p: p.write_bytes(b"no database at all, just text" * 200), "no SQLite database: move it away"),
        (lambda p: p.mkdir(), "check state_dir"),
        (lambda p: p.parent.chmod(0o700) or p.symlink_to("/nonexistent/x/y"), "check state_dir"),
    ],
)
async def test_unusable_file_is_one_sentence(tmp_path: Path, prepare: Callable[[Path], object], words: str) -> None:
    """A file that cannot be a database surfaces as `StoreUnavailable` with its remedy."""
    prepare(tmp_path / "s.db")

    with pytest.raises(StoreUnavailable, match=words):
        await Database.open(tmp_path / "s.db").__aenter__()


@dataclass
class _Hold:
    """A job that keeps the thread until it is over."""

    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: sqlite3.Connection) -> bool:
        self.begun.set()
        return self.over.wait(60)


async def test_failed_job_leaves_its_batch_alone(tmp_path: Path) -> None:
    """Of writes that share a commit, one that fails is undone alone, and its own error reaches its caller."""

    def half(connection: sqlite3.Connection) -> None:
        _put("half")(connection)
        raise LookupError("mine")

    async with Database.open(tmp_path / "s.db") as db:
        hold = _Hold()
        blocker = asyncio.create_task(db.read(hold))
        await until(hold.begun.is_set)
        jobs = [asyncio.create_task(db.write(work)) for work in (_put("a"), half, _put("b"), _put("a"))]
        await asyncio.sleep(0)
        hold.over.set()
        results = await asyncio.gather(blocker, *jobs, return_exceptions=True)

        assert await db.read(_all) == ["a", "b"]
    assert [type(r) for r in results[1:]] == [int, LookupError, int, sqlite3.IntegrityError]


async def test_full_disk_is_named_and_over_when_there_is_room(tmp_path: Path) -> None:
    """A write that finds no room raises `StoreUnavailable`, leaves nothing, and works again once there is room."""
    async with Database.open(tmp_path / "s.db") as db:
        pages = await db.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await db.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())

        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await db.write(_put("x" * 100_000))
        assert await db.read(_all) == []

        await db.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
        await db.write(_put("y"))
        assert await db.read(_all) == ["y"]


async def test_faulty_statement_is_a_bug_not_a_disk(tmp_path: Path) -> None:
    """A mistake in a statement surfaces as SQLite's own error."""
    async with Database.open(tmp_path / "s.db") as db:
        with pytest.raises(sqlite3.OperationalError, match="no such table: absent"):
            await db.read(lambda c: c.execute("SELECT * FROM absent"))


async def test_queue_is_bounded_and_close_finishes_it(tmp_path: Path) -> None:
    """Past its limit the queue refuses by name; what it took is still written when the database closes."""
    hold = _Hold()
    async with Database.open(tmp_path / "s.db", queue_limit=2) as db:
        blocker = asyncio.create_task(db.read(hold))
        await until(hold.begun.is_set)
        waiting = [asyncio.create_task(db.write(_put(v))) for v in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="cannot keep up"):
            await db.write(_put("c"))
        hold.over.set()
    await asyncio.gather(blocker, *waiting)

    with pytest.raises(StoreUnavailable, match="closed"):
        await db.write(_put("d"))
    async with Database.open(tmp_path / "s.db") as db:
        assert await db.read(_all) == ["a", "b"]


async def test_a_disk_that_does_not_answer_holds_nobody_for_ever(tmp_path: Path) -> None:
    """Whoever waits for a frozen disk is told so after a while; what was asked for may still happen."""
    async with Database.open(tmp_path / "s.db", answer_seconds=0.05) as db:
        thaw = _Hold()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await db.read(thaw)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await db.write(_put("late"))
        thaw.over.set()
    async with Database.open(tmp_path / "s.db") as db:
        assert await db.read(_all) == ["late"]


async def test_cancelled_caller_does_not_stop_the_thread(tmp_path: Path) -> None:
    """A caller that gave up leaves the database in order for the next one."""
    async with Database.open(tmp_path / "s.db") as db:
        hold = _Hold()
        task = asyncio.create_task(db.write(hold))
        await until(hold.begun.is_set)
        task.cancel()
        hold.over.set()
        await db.write(_put("after"))

        assert await db.read(_all) == ["after"]


_WRITER = """
import asyncio, sys
from detector.store.database import Database

async def main():
    async with Database.open(sys.argv[1]) as db:
        async def put(n):
            await db.write(lambda c: c.execute("INSERT INTO retained_topics VALUES (?)", (f"{n:09d}",)).rowcount)
            print(f"{n:09d}", flush=True)
        n = 0
        while True:
            await asyncio.gather(*(put(n + i) for i in range(8)))
            n += 8

asyncio.run(main())
"""


def _killed_writer(path: Path, lines: int) -> list[str]:
    """Let a process write until it reported so many lines, kill it, and return every line that it got out."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _WRITER, str(path)]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(lines)]
        writer.kill()
        return told + [line for line in writer.stdout.read().split("\n") if len(line) == 9]


@pytest.mark.parametrize("lines", [3, 40, 133])
async def test_kill_9_loses_no_committed_row(tmp_path: Path, lines: int) -> None:
    """Whatever the moment of a SIGKILL, every write that had returned is there afterwards."""
    told = _killed_writer(tmp_path / "s.db", lines)

    async with Database.open(tmp_path / "s.db") as db:
        kept = await db.read(_all)
        check = await db.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0])
    assert set(told) <= set(kept)
    assert check == "ok"


async def test_a_file_that_is_removed_or_replaced_is_begun_again(tmp_path: Path) -> None:
    """A database under which the file goes does not write into nowhere: what lies at the path is used, or begun."""
    path = tmp_path / "s.db"
    async with Database.open(path) as db:
        await db.write(_put("lost"))
        path.unlink()
        await db.write(_put("after"))
        assert await db.read(_all) == ["after"]
        path.rename(tmp_path / "aside.db")
        await db.write(_put("again"))
        assert await db.read(_all) == ["again"]
    async with Database.open(path) as db:
        assert await db.read(_all) == ["again"]


@pytest.mark.parametrize("damage", [b"no database at all " * 100, None])
async def test_a_file_that_cannot_be_used_now_refuses_until_it_can(tmp_path: Path, damage: bytes | None) -> None:
    """Where opening must not fail, each job is refused in a sentence, and taken as soon as the file is usable."""
    path = tmp_path / "s.db"
    if damage is None:
        (blocker := sqlite3.connect(path, isolation_level=None)).execute("BEGIN EXCLUSIVE")
    else:
        path.write_bytes(damage)
    async with Database.open(path, must_open=False) as db:
        with pytest.raises(StoreUnavailable, match=r"move it away|another process"):
            await db.write(_put("refused"))
        if damage is None:
            blocker.close()
        else:
            path.unlink()
        await asyncio.sleep(1)
        await db.write(_put("taken"))
        assert await db.read(_all) == ["taken"]


async def test_damage_under_a_running_database_is_a_sentence(tmp_path: Path) -> None:
    """Pages overwritten while the file is open give a refusal with its remedy at each job, and no dead thread."""
    path = tmp_path / "s.db"
    async with Database.open(path) as db:
        await db.write(
            lambda c: (
                c.executemany("INSERT INTO retained_topics VALUES (?)", [(f"{n:09d}",) for n in range(9999)]).rowcount
            )
        )
    async with Database.open(path) as db:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xee" * (path.stat().st_size - 4096))
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="damaged: move it away"):
                await db.read(_all)


async def test_a_newer_file_is_refused_even_where_opening_need_not_succeed(tmp_path: Path) -> None:
    """No time makes a newer version's file usable: it stops the start."""
    connection = sqlite3.connect(tmp_path / "s.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="newer Stopframe: upgrade"):
        await Database.open(tmp_path / "s.db", must_open=False).__aenter__()


async def test_what_was_left_for_later_is_written_in_order_and_kept_until_then(tmp_path: Path) -> None:
    """Works that the disk refused are kept by name, the last of each, and written once it takes them."""
    async with Database.open(tmp_path / "s.db") as db:
        pages = await db.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await db.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        for value in ("a", "b", "a2"):
            db.write_later(value[0], _put(value * 50_000))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await db.write_late()
        await db.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())

        assert [await db.write_late(), await db.write_late()] == [2, 0]
        rows = await db.read(
            lambda c: [r[0][:2] for r in c.execute("SELECT topic FROM retained_topics ORDER BY topic DESC")]
        )
        assert rows == ["bb", "a2"]

"""A wall clock that is set by an hour, or by years, while the service runs: nothing is lost, late or removed for it."""

import ast
import asyncio
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.alerts.clock import Clock, SteadyWall
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.ids import RisingIds
from detector.alerts.sink import Receipt
from detector.store.database import Database
from detector.store.outbox import Outbox
from tests.fixtures_delivery import FakeSink
from tests.slack import SLACK_SECONDS
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOUR_MS = 3_600_000
_QUICK = DeliverySettings(
    window_alerts=4, backoff_first_seconds=0.05, backoff_limit_seconds=0.2, attempt_timeout_seconds=5
)

_WALL_CLOCK_READERS = {
    "detector/allow_list.py": "until when people let a stream go uncut",
    "detector/ingest/aws_ivs.py": "the date that a request is signed with",
    "detector/ingest/livekit.py": "the date that a token is signed with",
    "detector/ingest/platform.py": "the date that a request is signed with",
    "detector/analysis/worker.py": "until when a bank or an entry rests: people gave a date",
    "detector/alerts/clock.py": "turned into a clock that does not step",
    "detector/api/hma_banks.py": "whether a bank or an entry rests, for a client of HMA",
    "detector/exchanges/feedback_courier.py": "when feedback is sent again, over restarts",
    "detector/banks/judgements.py": "when somebody judged an entry",
    "detector/accounts.py": "the time that an account is filed under",
    "detector/cli/command.py": "when a command is issued, and its number",
    "detector/cli/keys.py": "the last day of a key that is retired",
    "detector/cli/verify.py": "whether a message is over",
    "detector/trust/commands.py": "whether a command is over, as its sender wrote: it lives five minutes at most",
    "detector/cli/hashes_judge.py": "until when an entry rests",
    "detector/cli/hashes_lists.py": "the date that an exported list bears",
    "detector/cli/hashes_match.py": "whether a bank or an entry rests",
    "detector/cli/hashes_show.py": "whether a bank or an entry rests",
    "detector/cli/lists.py": "how old a list is; when a manifest is issued and its number, until when it is good",
    "detector/cli/report.py": "which days to show",
    "detector/cut_journal.py": "the time that is written beside a monotonic one",
    "detector/cutter/cutter.py": "whether an alert is over, as its sender wrote; times in acknowledgements",
    "detector/cutter/door.py": "whether a request was signed within the last minutes, as its sender wrote",
    "detector/cut_work.py": "the time that is written beside a monotonic one; which alerts are over",
    "detector/exchanges/__main__.py": "handed on to a sync: the range that an exchange is asked for",
    "detector/exchanges/care.py": "how old a list is, over restarts; a clock that is set back makes none wait longer",
    "detector/exchanges/job.py": "handed on to a client: whether a manifest is over, as its signer wrote",
    "detector/exchanges/transport.py": "a date until which an exchange asks for patience",
    "detector/banks/incident.py": "how long an incident's frames are kept, over restarts",
    "detector/remote/line.py": "whether what was signed is still good, numbers of commands that rise over restarts",
    "detector/remote/setup.py": "handed on to remote/cuts, unless a rehearsal steps it",
    "detector/identities.py": "until when an account is denied, over restarts; whether a token is over",
    "detector/response.py": "ids that only rise, times in alerts",
    "detector/service.py": "the time of an undo",
    "detector/session.py": "the time that status shows",
}
"""Every module that reads the wall clock, and what for: none of it decides what is looked at, sent or cut,
but for what people let rest until a date, and how long what was cut is remembered."""


@dataclass
class Machine:
    """A machine whose wall clock a test sets."""

    set_by_ms: int = 0
    alerts: int = field(default=0)

    def wall_ms(self) -> int:
        """What its clock shows."""
        return round(time.time() * 1000) + self.set_by_ms

    def clock(self) -> Clock:
        """Its two clocks."""
        return Clock(wall_ms=self.wall_ms)

    def alert(self, *, minutes: float = 10) -> "SomeAlert":
        """The next alert, made by its clock."""
        self.alerts += 1
        return SomeAlert(f"a{self.alerts}", f"s{self.alerts}", self.wall_ms() + round(minutes * 60_000))


@dataclass(frozen=True)
class SomeAlert:
    """As little of an alert as delivery needs."""

    alert_id: str
    stream_id: str
    expires_at_ms: int
    incident_id: str | None = None
    urgency: int = 1

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        """Not read here."""
        return f"{seq}, {durable}".encode()


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS, 30 * 365 * 24 * HOUR_MS])
async def test_open_alerts_outlive_a_step_and_are_not_held_back(step_ms: int, tmp_path: Path) -> None:
    """Alerts that nobody takes yet, in memory and on disk, neither expire by a step nor wait it out."""
    machine = Machine()
    listening = False
    sink = FakeSink(answer=lambda _: Receipt.ACCEPTED if listening else Receipt.NOBODY_LISTENS)
    async with (
        Database.open(tmp_path / "s.db") as db,
        Delivery(Outbox(db), [sink], settings=_QUICK, clock=machine.clock()) as delivery,
    ):
        for _ in range(20):  # far more than memory holds
            await delivery.submit(machine.alert())
        await until(lambda: len(sink.tried) > 10)
        machine.set_by_ms += step_ms
        after = machine.alert()
        await delivery.submit(after)
        await asyncio.sleep(1.3)  # expired alerts are looked for every second
        assert (delivery.expired_total, delivery.problems()) == (0, [])

        listening = True
        began_at = time.monotonic()
        await until(lambda: len(sink.accepted) == 21)
        assert time.monotonic() - began_at < 3 + SLACK_SECONDS
        told = {notice.alert_id: notice for notice in sink.accepted}
        assert abs(told["a21"].expires_at_ms - after.expires_at_ms) < 10_000
        assert abs(told["a1"].expires_at_ms - machine.wall_ms() - 600_000) < 30_000


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
async def test_a_restart_after_a_step_neither_expires_nor_revives(step_ms: int, tmp_path: Path) -> None:
    """What is open at the end of a run has as long to live in the next one, by the clock as it stands then."""
    machine = Machine()
    silent = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with (
        Database.open(tmp_path / "s.db") as db,
        Delivery(Outbox(db), [silent], settings=_QUICK, clock=machine.clock()) as delivery,
    ):
        await delivery.submit(machine.alert())
        machine.set_by_ms += step_ms
        await asyncio.sleep(1.3)
        await delivery.submit(machine.alert(minutes=-1))

    sink = FakeSink()
    async with (
        Database.open(tmp_path / "s.db") as db,
        Delivery(Outbox(db), [sink], settings=_QUICK, clock=machine.clock()) as delivery,
    ):
        await until(lambda: sink.accepted)
        await asyncio.sleep(0.3)
        assert sink.ids() == ["a1"]
        assert abs(sink.accepted[0].expires_at_ms - machine.wall_ms() - 600_000) < 30_000


async def test_an_alert_still_expires_in_its_own_time(tmp_path: Path) -> None:
    """A clock that was set back does not keep an alert alive."""
    machine = Machine()
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with (
        Database.open(tmp_path / "s.db") as db,
        Delivery(Outbox(db), [sink], settings=_QUICK, clock=machine.clock()) as delivery,
    ):
        await delivery.submit(machine.alert(minutes=0.02))
        machine.set_by_ms -= HOUR_MS
        await until(lambda: delivery.expired_total == 1)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=50))
def test_a_steady_clock_goes_with_the_monotonic_one(steps: list[int]) -> None:
    """Whatever the wall clock is set to, time goes by as fast as it does, and the step is known to two seconds."""
    now, wall = 5.0, 10**9
    steady = SteadyWall(Clock(lambda: now, lambda: wall))
    for number, step in enumerate(steps, start=1):
        now += 1
        wall += 1000 + step
        assert steady.wall_ms() == 10**9 + 1000 * number
        assert abs(steady.step_ms() - (wall - steady.wall_ms())) <= 2000


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=100), st.integers(1, 100))
def test_ids_rise_whatever_the_clock_does(times: list[int], each: int) -> None:
    """Each id is greater than the one before, over steps back and within one millisecond."""
    clock = iter([at for at in times for _ in range(each)])
    ids = RisingIds(lambda: next(clock))
    made = [ids.next() for _ in range(len(times) * each)]
    assert all(before < after for before, after in itertools.pairwise(made))


def test_a_full_counter_moves_the_time_on() -> None:
    """More ids in one millisecond than the counter holds rise all the same."""
    ids = RisingIds(lambda: 1)
    made = [ids.next() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_who_reads_the_wall_clock_is_known() -> None:
    """No module reads the wall clock but those that say why: samples, deadlines and cuts go by the monotonic one."""
    found = {
        str(path.relative_to(ROOT))
        for folder in ("detector", "models", "streams")
        for path in (ROOT / folder).rglob("*.py")
        if any(_reads_wall_clock(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == set(_WALL_CLOCK_READERS)


def _reads_wall_clock(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr)
        in {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
    )

"""What a rehearsal is asked for, what it refuses, and that without one nothing is there."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.alerts.alert import PAYLOAD_LIMIT_BYTES, unsigned
from detector.alerts.mqtt_connection import connect
from detector.cli.options import read_rehearsal
from detector.cli.output import CommandFailed
from detector.config.config import Config
from detector.config.units import Duration
from detector.ingest.revocations import FileRevocations, RevocationStoreError
from detector.settings import session_settings
from detector.simulation.disk_full import DiskFull
from detector.simulation.reading import PacketLoss
from detector.simulation.registry import FAULTS, NoSuchFault, faults_of
from detector.simulation.rehearsal import Rehearsal
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from streams import wire
from streams.job import Job, SourceKind

_SETTINGS = session_settings(Config(), "live/key", SourceKind.HTTP_TS, "http://127.0.0.1/live/key")
_EVERY_FAULT = ",".join(FAULTS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("packet-los", "did you mean packet-loss"),
        ("nothing", "there are packet-loss, decode-error"),
        ("packet-loss=101%", "more than the whole"),
        ("packet-loss=0%", "is nothing"),
        ("packet-loss=x", "is no share"),
        ("packet-loss@9s-3s", "before it begins"),
        ("broker-drop=30", "is no duration"),
        ("broker-drop=0s", "is no time"),
        ("broker-drop=30s@1s-2s", "leave the end out"),
        ("clock-step=--1h", "is no duration"),
        ("slow-model=1s,slow-model=2s", "named twice"),
        ("a b", "is no fault; write"),
        ("", "is no fault; write"),
        ("packet-loss," * 99, "too long"),
    ],
)
def test_what_cannot_be_simulated_is_one_sentence(text: str, sentence: str) -> None:
    """Whoever mistypes reads what would be right."""
    with pytest.raises(NoSuchFault, match=sentence) as refused:
        faults_of(text)
    assert "\n" not in str(refused.value)


@given(
    st.text(max_size=40) | st.lists(st.sampled_from([*FAULTS, "=", "@", "-", "5%", "1s", ","]), max_size=8).map("".join)
)
def test_anything_else_is_refused_by_name_or_comes_back_as_it_was(text: str) -> None:
    """No text raises anything but a refusal, and what is taken reads the same again."""
    with contextlib.suppress(NoSuchFault):
        told = str(Rehearsal(faults_of(text)))
        assert str(Rehearsal(faults_of(told))) == told


def test_each_fault_has_a_usual_amount_and_begins_after_a_while() -> None:
    """A bare name is enough."""
    assert [str(fault) for fault in faults_of("broker-drop,packet-loss,clock-step=-1h@1m")] == [
        "broker-drop=30s@10s",
        "packet-loss=5%@10s",
        "clock-step=-1h@1m",
    ]
    assert len(faults_of(_EVERY_FAULT)) == len(FAULTS)


def test_a_fault_holds_from_its_beginning_to_its_end() -> None:
    """Before, during and after, by the monotonic clock."""
    now = [100.0]
    fault = PacketLoss("5%", Duration.parse("2s"), Duration.parse("4s"), lambda: now[0])
    said = []
    for now[0] in (101.9, 102.0, 103.9, 104.0):
        said.append((fault.is_on, fault.note().rpartition(": ")[2]))
    assert said == [(False, "not begun yet"), (True, "under way"), (True, "under way"), (False, "over")]


def test_without_faults_everything_is_handed_back() -> None:
    """A run in earnest goes by the very objects that it is given."""
    rehearsal, store = Rehearsal(), FileRevocations(Path("nowhere"))
    assert rehearsal.session(_SETTINGS) is _SETTINGS
    assert rehearsal.denials(store) is store
    assert rehearsal.connect() is connect
    assert rehearsal.sign(unsigned) is unsigned
    assert type(rehearsal.database(Path("nowhere"))) is Database
    assert (rehearsal.notes(), rehearsal.objection(_config(live=True))) == ([], None)


def _config(*, live: bool) -> Config:
    return Config.model_validate({"enforcement": {"live": live}})


def test_a_rehearsal_cuts_nobody_by_accident() -> None:
    """It objects to a config that lets anybody be cut, unless it was told that it may."""
    faults = faults_of("packet-loss")
    key, why = Rehearsal(faults).objection(_config(live=True)) or ("", "")
    assert key == "enforcement.live"
    assert "--may-cut" in why
    assert Rehearsal(faults).objection(_config(live=False)) is None
    assert Rehearsal(faults, may_cut=True).objection(_config(live=True)) is None


def test_a_fault_that_would_show_nothing_is_refused() -> None:
    """A silent cutter without one, slow models without any."""
    silent = Rehearsal(faults_of("cutter-silent"), may_cut=True)
    assert "enforcement.where" in str(silent.objection(_config(live=True)))
    slow = Rehearsal(faults_of("slow-model"))
    assert "no models" in str(slow.objection(Config.model_validate({"models": []})))


def test_a_reload_that_turns_cuts_on_is_a_fault(tmp_path: Path) -> None:
    """The file of a rehearsal says so at the line, whenever it is read."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("state_dir: state\nenforcement:\n  live: false\n")
    file = Rehearsal(faults_of("packet-loss")).file(path)
    assert file.read().config is not None
    path.write_text("state_dir: state\nenforcement:\n  live: true\n")
    reading = file.read()
    assert reading.config is None
    assert str(reading.faults[0]).startswith(f"{path}:3: enforcement.live: a rehearsal must not cut")


def test_the_reader_is_told_of_the_damage() -> None:
    """The job crosses the wire with it, the same for the same stream and another for another."""
    rehearsal = Rehearsal(faults_of("packet-loss=20%@5s-9s,decode-error"))
    job = rehearsal.session(_SETTINGS).job
    packed = wire.pack(job)
    kind, _ = wire.parse_header(packed[: wire.HEADER.size])
    told = wire.parse_body(kind, packed[wire.HEADER.size :])
    assert isinstance(told, Job)
    assert told.damage == job.damage
    assert [(one.loses, one.ratio) for one in job.damage] == [(True, 0.2), (False, 0.05)]
    assert job.damage[0].ends_at - job.damage[0].begins_at == pytest.approx(4)
    assert rehearsal.session(_SETTINGS).job.damage == job.damage
    other = session_settings(Config(), "live/b", SourceKind.HTTP_TS, "http://127.0.0.1/live/b")
    assert rehearsal.session(other).job.damage[0].seed != job.damage[0].seed


def test_every_alert_says_what_is_simulated() -> None:
    """The mark is signed with the rest, and is never longer than its schema lets it be."""
    marked = Rehearsal(faults_of(_EVERY_FAULT)).sign(lambda body: {**body, "sig": "s"})({"alert_id": "a"})
    assert marked["simulated"].startswith("packet-loss=5%@10s,")
    assert len(marked["simulated"]) <= 200 < PAYLOAD_LIMIT_BYTES
    assert set(marked) == {"alert_id", "simulated", "sig"}


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[tuple[DiskFull, Database]]:
    fault = DiskFull("30s", Duration.parse("0s"), None)
    async with Rehearsal((fault,)).database(tmp_path / "s.db") as database:
        yield fault, database


async def test_a_full_disk_speaks_with_sqlites_own_words(full: tuple[DiskFull, Database], tmp_path: Path) -> None:
    """Rows are refused, what is there can be read, and afterwards rows are taken again; keys alike."""
    fault, database = full
    denials = Rehearsal((fault,)).denials(FileRevocations(tmp_path / "revoked"))
    with pytest.raises(StoreUnavailable, match="the disk is full: free space"):
        await database.write(lambda c: c.execute("SELECT 1").fetchone())
    for change in (denials.add, denials.remove):
        with pytest.raises(RevocationStoreError, match="rehearsal"):
            change("a")
    assert await database.read(lambda c: c.execute("SELECT 1").fetchone()) == (1,)
    fault.started_at -= 60
    assert await database.write(lambda c: c.execute("SELECT 2").fetchone()) == (2,)
    denials.add("a")
    assert denials.load() == {"a"}


@pytest.mark.parametrize(
    ("simulate", "may_cut", "sentence"),
    [("slow", False, "--simulate: 'slow' cannot be simulated"), (None, True, "--may-cut goes with --simulate")],
)
def test_the_command_refuses_in_one_sentence(simulate: str | None, may_cut: bool, sentence: str) -> None:  # noqa: FBT001 - a parameter
    """Exit 2, before anything is opened."""
    with pytest.raises(CommandFailed, match=sentence) as refused:
        read_rehearsal(simulate, may_cut=may_cut)
    assert refused.value.exit_code == 2

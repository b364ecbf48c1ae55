"""Lists by those who mean harm, or do not care, in small steps: clocks that jump, old trust, slow theft."""

import asyncio
import json
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

import detector.exchanges.sync as sync_module
from detector.config.config import Config
from detector.exchanges import care
from detector.exchanges.care import Exchanges
from detector.exchanges.records import Outcome, SyncState, read_source, write_state
from detector.exchanges.schedule import is_stale, pause_seconds
from detector.metrics import Metrics
from detector.store.database import Database
from detector.store.feedback import FeedbackRow, FeedbackStore, Verdict
from models.lists.registry import FORMATS
from tests.contract.test_exchanges import PEERS, Peer, filled, had, held
from tests.exchange_servers import NOW, Asked, FakeExchange, Holdings, Reply, made_up
from tests.fixtures_own_list import BANK, OwnList

HOUR = 3600.0


def test_a_clock_that_was_set_back_holds_no_list_up() -> None:
    """A list that was had by a clock years ahead is fetched at once, and is of unknown age until then."""
    ahead = SyncState("peer", "PEER", Outcome.SYNCED, tried_at=2e9, fresh_at=2e9, retry_at=2.1e9)
    now, looks = 1.8e9, 0
    while (pause := pause_seconds(ahead, HOUR, now, now, 0.5)) > 0 and looks < 10:
        now, looks = now + min(pause, 1.0), looks + 1  # as the service does, which looks each second
    assert looks == 0
    assert pause_seconds(None, HOUR, 2e9, now, 0.5) == 0.0
    assert is_stale(ahead, HOUR, now, now)
    assert not is_stale(ahead, HOUR, now, 2e9 - 60)  # a clock that is put right by a minute alarms nobody


async def test_a_clock_that_was_set_back_holds_no_feedback_up(tmp_path: Path) -> None:
    """What was to be sent again in a minute of a year to come is sent now; what waits for its minute waits."""
    async with Database.open(tmp_path / "stopframe.db") as database:
        store = FeedbackStore(database)
        await store.note(FeedbackRow("peer", "PEER", "42-a", (), Verdict.CONFIRMED, 1))
        (row,) = await store.rows()
        await store.attempt(row, 2_000_000_000_000)
        assert await store.due("peer", 2_000_000_030_000, 9) == []
        assert len(await store.due("peer", 2_000_000_061_000, 9)) == 1
        assert len(await store.due("peer", 1_800_000_000_000, 9)) == 1


HASH = bytes(made_up(1)[0]).hex()
NCMEC = '<queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2"><images>{}</images></queryResult>'


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("tat", json.dumps({"results": [{"id": 1, "deleted": "True", "hash_digest": HASH, "algorithm": "PDQ"}]})),
        ("tat", json.dumps({"results": [{"id": 1, "deleted": 1, "hash_digest": HASH, "algorithm": "PDQ"}]})),
        ("threatexchange", json.dumps({"data": [{"id": "1", "should_delete": "true", "indicator": HASH}]})),
        (
            "stopncii",
            json.dumps({"hashRecords": [{"signalType": "ImagePDQ", "hashValue": HASH, "hashStatus": "withdrawn"}]}),
        ),
        ("ncmec", NCMEC.format('<deletedImage><member id="042"/><id> a1 </id></deletedImage>')),
    ],
)
def test_a_withdrawal_counts_however_it_is_written(form: str, text: str, tmp_path: Path) -> None:
    """True as a word or a number, another case, leading zeros: what is taken back is not passed over as a bad row."""
    (tmp_path / "page").write_text(text)
    contents = FORMATS[form].read(tmp_path / "page")
    assert (len(contents), contents.bad.count) == (0, 0), contents.bad
    assert list(contents.withdrawn) == {"ncmec": ["42-a1"], "stopncii": [f"ImagePDQ:{HASH}"]}.get(form, ["1"])


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.kind.value)
async def test_another_server_of_an_exchange_is_asked_for_all_that_it_has(peer: Peer, tmp_path: Path) -> None:
    """From the test environment to the real one: its older entries come, and what only the other one had goes."""
    tried, _ = filled(peer)
    real, values = filled(peer, 20)
    async with FakeExchange(peer.server(tried)) as first, FakeExchange(peer.server(real)) as second:
        await had(peer, tmp_path, first.url)
        state = await had(peer, tmp_path, second.url, NOW + HOUR)
    assert (state.outcome, state.rows) == (Outcome.SYNCED, 20), state.sentence
    assert set(held(tmp_path).values()) == set(values)


async def test_a_full_disk_has_no_exchange_asked_in_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync came to holds for its pause, though it could not be written down."""
    asked, enough = [], asyncio.Event()

    async def had_now(job: object) -> SyncState:
        asked.append(job)
        enough.set()
        return SyncState("own", "OWN", Outcome.SYNCED, tried_at=time.time(), fresh_at=time.time())

    write_state(tmp_path, SyncState("own", "OWN", Outcome.SYNCED, tried_at=1.0, fresh_at=1.0))
    monkeypatch.setattr(care, "_in_process", had_now)
    monkeypatch.setattr(care, "_LOOK_SECONDS", 0.005)
    section = {"name": "own", "kind": "file", "bank": "OWN", "path": str(tmp_path / "own.json")}
    config = Config.model_validate({"state_dir": str(tmp_path), "exchanges": [section]})
    task = asyncio.create_task(Exchanges(lambda: config, Metrics()).run())
    async with asyncio.timeout(20):
        await enough.wait()
    await asyncio.sleep(0.2)  # some forty looks
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(asked) == 1


async def test_a_sync_that_cannot_be_written_down_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that does not fit on the disk is a sentence, not a fault."""
    own = OwnList(tmp_path)
    own.put(made_up(5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sync_module, "write_state", full)
    state = await own.sync()
    assert (state.outcome, own.rows()) == (Outcome.FAILED, 5)
    assert "cannot be written down (No space left on device)" in state.sentence


async def test_a_list_that_could_not_be_written_lends_its_version_to_no_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full amid the intake leaves rows, checkpoint and the version that alerts name as they were."""
    own = OwnList(tmp_path)
    own.put(made_up(50))
    await own.sync()
    before = read_source(tmp_path / BANK)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    own.put(made_up(60))
    monkeypatch.setattr(sync_module, "take_in", full)
    state = await own.sync()
    assert (state.outcome, state.rows) == (Outcome.FAILED, 50)
    assert "No space left on device" in state.sentence
    assert read_source(tmp_path / BANK) == before
    monkeypatch.undo()
    assert (await own.sync()).version == "2"


async def test_a_clock_that_was_ahead_for_a_while_loses_no_entry(tmp_path: Path) -> None:
    """What NCMEC was given while our clock was ahead of its own comes with the next sync of a clock that is right."""
    peer = PEERS[3]
    holdings, _ = filled(peer)
    whole = peer.server(holdings)
    now = NOW

    def dated(asked: Asked) -> Reply:
        return replace(whole(asked), headers=(f"date: {formatdate(now, usegmt=True)}",))

    async with FakeExchange(dated) as exchange:
        await had(peer, tmp_path, exchange.url, now + 3000)
        holdings.put("42-50", made_up(1, seed=50)[0], NOW + 60)
        now = NOW + 7200
        await had(peer, tmp_path, exchange.url, now)
    assert "42-50" in held(tmp_path)


async def test_a_list_that_has_nothing_yet_is_had(tmp_path: Path) -> None:
    """Tech Against Terrorism has no checkpoint for an ideology without hashes; what comes later comes whole."""
    peer, holdings = PEERS[1], Holdings()
    async with FakeExchange(peer.server(holdings)) as exchange:
        state = await had(peer, tmp_path, exchange.url)
        assert (state.outcome, state.rows) == (Outcome.SYNCED, 0), state.sentence
        for number, value in enumerate(made_up(5)):
            holdings.put(str(number), value, NOW + number)
        for _ in range(2):
            state = await had(peer, tmp_path, exchange.url, NOW + HOUR)
            assert (state.outcome, state.rows) == (Outcome.SYNCED, 5), state.sentence

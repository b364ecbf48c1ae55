"""Lists that are poisoned, stale or made to harm: nothing of them counts before it has been found right."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import detector.exchanges.sync as sync_module
from detector.exchanges.canaries import canary_planes, canary_views, matching_too_much
from detector.exchanges.job import SyncJob
from detector.exchanges.records import Outcome
from detector.exchanges.sync import sync
from detector.trust.signing import Signer
from models.bank_store import bank_stats, load_bank, notes
from models.hashing.registry import hash_algorithms
from models.lists.contents import ListContents, ListedRows
from models.radii import UNGATED
from tests.exchange_servers import NOW, made_up
from tests.fixtures_own_list import BANK, OwnList

STRANGER = Signer.of_seed(b"s" * 32)


def _altered(own: OwnList) -> None:
    said = json.loads(own.manifest.read_text())
    own.manifest.write_text(json.dumps(said | {"rows": said["rows"] + 1}))


def _unsigned(own: OwnList) -> None:
    said = json.loads(own.manifest.read_text())
    own.manifest.write_text(json.dumps({name: value for name, value in said.items() if name not in ("sig", "key_id")}))


def _other_bytes(own: OwnList) -> None:
    (own.folder / "own.txt").write_text(own.text.replace(own.text[4:8], "0000", 1))


def _the_list_itself(own: OwnList) -> None:
    own.manifest.write_text(own.text)


def _longer(own: OwnList) -> None:
    (own.folder / "own.txt").write_text(own.text + f"pdq {'7' * 64}\n")


UNBELIEVABLE: dict[str, tuple[dict[str, Any], Callable[[OwnList], None] | None, str]] = {
    "a key that nobody trusts": ({"signer": STRANGER}, None, "if it is one of yours"),
    "no signature": ({}, _unsigned, "carries no signature"),
    "a manifest that was altered": ({}, _altered, "is not what key"),
    "a list that was altered": ({}, _other_bytes, "is not the file that was signed"),
    "a list that was added to": ({}, _longer, "is not the file that was signed"),
    "the manifest of another list": ({"name": "others"}, None, "is of another list"),
    "the list in the manifest's place": ({}, _the_list_itself, "name FILE.manifest.json"),
    "an older version": ({"version": 1}, None, "older than 5"),
    "the same version with another list": ({"version": 5}, None, "signed twice"),
    "a manifest that is over": ({"expires_ms": round(NOW * 1000) - 1}, None, "its time is over"),
    "a manifest of the future": ({"issued_ms": round(NOW * 1000) + 3_600_000}, None, "issued in the future"),
    "another number of rows": ({"rows": 7}, None, "its manifest says 7"),
    "a file elsewhere": ({"file": "../own.txt"}, None, "lacks what a manifest says"),
}


@pytest.mark.parametrize("fault", UNBELIEVABLE)
async def test_of_a_list_that_is_not_believed_no_row_is_taken(fault: str, tmp_path: Path) -> None:
    """Wrong signature, wrong list, wrong time, wrong version: the list in force stays as it was, to the byte."""
    own = OwnList(tmp_path, version=4)
    own.put(made_up(50))
    assert (await own.sync()).rows == 50
    before = (tmp_path / BANK / "bank.json").read_bytes()
    changes, spoil, sentence = UNBELIEVABLE[fault]
    own.put(made_up(55), **changes)
    if spoil is not None:
        spoil(own)
    state = await own.sync()
    assert state.outcome in (Outcome.REFUSED, Outcome.FAILED)
    assert sentence in state.sentence
    assert (tmp_path / BANK / "bank.json").read_bytes() == before
    assert load_bank(tmp_path / BANK).rows_of("pdq") == 50
    own.put(made_up(55))
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_a_key_that_may_not_sign_lists_signs_none(tmp_path: Path) -> None:
    """With no key trusted for lists, none is taken, whatever else the keys are trusted for."""
    own = OwnList(tmp_path, keys=())
    own.put(made_up(5))
    state = await own.sync()
    assert (state.outcome, (tmp_path / BANK).exists()) == (Outcome.REFUSED, False)


async def test_a_row_that_matches_what_every_stream_shows_may_only_ask_for_reviews(tmp_path: Path) -> None:
    """Of 20 rows of common screens among 500 each that matches over 0.1 % is held back at once, and no other.

    They are of the screens as they are, mirrored, turned and inverted: streams are looked at in all these ways.
    """
    draw = np.random.default_rng(4)
    common = [view[matching_too_much(view, [view], UNGATED)] for view in canary_views("pdq")]
    poison = np.concatenate([view[draw.choice(len(view), 2, replace=False)] for view in common])
    rows = np.concatenate([made_up(250), poison, made_up(250, seed=2)])
    own = OwnList(tmp_path)
    own.put(rows)
    state = await own.sync()
    assert (state.outcome, state.quarantined, state.rows) == (Outcome.SYNCED, 20, 520), state.sentence
    noted = notes(tmp_path / BANK)
    assert {name for name, note in noted.items() if note.quarantined} == {row.tobytes().hex() for row in poison}
    assert bank_stats(tmp_path / BANK).generation == "gen-00000001"  # no generation had them and did not hold them back


def test_a_view_of_a_harmless_picture_is_what_its_pixels_hash_to() -> None:
    """Mirrored, turned and inverted in the spectrum they come to the hashes of changed pixels, but for a few bits."""
    planes = list(canary_planes())[::60]
    ways = [np.asarray, np.fliplr, np.flipud, np.rot90, lambda plane: 255 - plane]
    ways += [lambda plane: np.rot90(plane, 2), lambda plane: np.rot90(plane, 3), np.transpose]
    for way in ways:
        changed = [hash_algorithms()["pdq"].hash_plane(np.ascontiguousarray(way(plane))).value for plane in planes]
        rows = np.array([np.frombuffer(value, np.uint8) for value in changed])
        apart = [np.median(np.bitwise_count(rows ^ view[::60]).sum(axis=1)) for view in canary_views("pdq")]
        assert min(apart) <= 2


async def test_what_an_operator_calls_harmless_is_asked_too(tmp_path: Path) -> None:
    """A row near what a negative bank holds is held back."""
    rows = made_up(300)
    own = OwnList(tmp_path)
    own.put(rows[:299])
    await own.sync()
    mine = sync_module.take_in
    mine(tmp_path / "banks/MINE", replace(ListContents(), rows=_listed(rows[299:300] ^ np.uint8(1))), stem="mine")
    own.put(rows)
    job = SyncJob(
        exchange="own",
        kind="file",
        bank_dir=str(tmp_path / BANK),
        state_dir=str(tmp_path),
        most_rows=1000,
        most_change=0.1,
        path=str(own.manifest),
        keys=own.keys,
        harmless=(str(tmp_path / "banks/MINE"), str(tmp_path / "banks/GONE")),
    )
    state = await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)
    assert (state.outcome, state.quarantined) == (Outcome.SYNCED, 1), state.sentence
    assert notes(tmp_path / BANK)[rows[299].tobytes().hex()].quarantined


def _listed(hashes: NDArray[np.uint8]) -> dict[str, Any]:
    return {"pdq": ListedRows(hashes, np.arange(1, len(hashes) + 1))}


async def test_a_generation_that_does_not_load_gives_way_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are damaged as they are written bring the old list back, and the next sync tries again."""
    rows = made_up(300)
    own = OwnList(tmp_path)
    own.put(rows[:250])
    await own.sync()
    whole = sync_module.take_in

    def damaging(bank_dir: Path, *given: Any, **more: Any) -> Any:
        intake = whole(bank_dir, *given, **more)
        for path in (bank_dir / intake.generation).rglob("rows*"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return intake

    own.put(rows)
    monkeypatch.setattr(sync_module, "take_in", damaging)
    state = await own.sync()
    assert state.outcome == Outcome.FAILED
    assert "the old one is in force again" in state.sentence
    assert load_bank(tmp_path / BANK).rows_of("pdq") == 250
    monkeypatch.undo()
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 300)


async def test_a_sync_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Killed at any moment, the old list or the new one is in force, whole, and the next sync ends with the new one."""
    rows = made_up(3000)
    own = OwnList(tmp_path, most_change=1.0)
    own.put(rows[:1000])
    # The process goes by the real time.
    now = round(time.time() * 1000)
    job = SyncJob(
        exchange="own",
        kind="file",
        bank_dir=str(tmp_path / BANK),
        state_dir=str(tmp_path),
        most_rows=100_000,
        most_change=1.0,
        path=str(own.manifest),
        keys=own.keys,
    )
    own.put(rows[:1000], issued_ms=now, expires_ms=now + 10**7)
    took = await _run(job, None)
    drawn = random.Random(5)
    for attempt in range(3):
        count = 1000 + (attempt + 1) * 150
        own.put(rows[:count], issued_ms=now, expires_ms=now + 10**7)
        await _run(job, took * drawn.uniform(0.6, 1.1))
        assert load_bank(tmp_path / BANK).rows_of("pdq") in range(1000, count + 1, 150)
    assert (await sync(job.client(), job.adoption(), time.time)).rows == count


async def _run(job: SyncJob, killed_after: float | None) -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "detector.exchanges",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    if killed_after is None:
        said, _ = await process.communicate(job.encode())
        assert json.loads(said)["outcome"] == Outcome.SYNCED, said
        return time.monotonic() - began
    assert process.stdin is not None
    process.stdin.write(job.encode())
    process.stdin.close()
    await asyncio.sleep(killed_after)
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.wait()
    return 0.0

"""The self-test's judgement, with a pool and a broker that do as they are told."""

import dataclasses
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from detector.alerts.messages import message_schema
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.analysis.pool import FrameDropped
from detector.canary import secret_picture
from detector.metrics import Metrics
from detector.model_check import CheckedModel
from detector.selftest import SelfTest
from models.bank_store import (
    CANARY_BANK,
    BankMissing,
    BankNameError,
    add_entries,
    bank_names,
    load_bank,
    open_bank,
    put_canary,
)
from models.cascade import TEST, Asking
from models.evidence import ClassScore, HashMatch, Inspection, Opinion
from models.hashing.registry import hash_algorithms
from streams.frame import PLANE_SIDE, Frame

_SECRET = b"s" * 32


def _sees(frame: Frame, banks: Path) -> Inspection:
    """What a healthy process finds in a frame."""
    found = hash_algorithms()["pdq"].hash_plane(np.frombuffer(frame.plane, np.uint8).reshape(PLANE_SIDE, PLANE_SIDE))
    try:
        rows = open_bank(banks / CANARY_BANK).rows("pdq")
    except (BankMissing, OSError):
        rows = None
    matches: tuple[HashMatch, ...] = ()
    if rows is not None and rows.hashes.tobytes() == found.value:
        matches = (HashMatch(CANARY_BANK, "canary", "pdq", 256, 0, 31, "identity", 100, Opinion.POSITIVE, "gen-1"),)
    share = found.value[0] / 255
    scores = (ClassScore("m", "a", share, "0" * 64), ClassScore("m", "b", 1 - share, "0" * 64))
    return Inspection(100, True, False, found.value, matches, scores, stage_seconds={"hash": 0.001})


class _Pool:
    """Two processes; `spoil` is what becomes of their answers."""

    workers = 2

    def __init__(self, banks: Path) -> None:
        self.reloads = 0
        self.restarted: list[int] = []
        self.spoil: Any = lambda inspection: inspection
        self.spoiled = {0, 1}
        self._banks = banks

    def is_ready(self, process: int) -> bool:
        return process < self.workers

    def reload_banks(self) -> None:
        self.reloads += 1

    def restart(self, process: int) -> None:
        self.restarted.append(process)

    async def inspect_canary(
        self, frame: Frame, process: int, *, deadline_at: float, asking: Asking = TEST
    ) -> Inspection:
        answer = _sees(frame, self._banks)
        spoilt: Inspection = self.spoil(answer) if process in self.spoiled else answer
        return spoilt


class _Topic:
    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []
        self.receipt: Receipt | None = Receipt.ACCEPTED

    async def send_selftest(self, report: Mapping[str, Any]) -> Receipt:
        self.sent.append(report)
        if self.receipt is None:
            raise SinkUnavailable("no answer")
        return self.receipt


class _Bench:
    def __init__(self, banks: Path) -> None:
        self.pool, self.topic, self.metrics = _Pool(banks), _Topic(), Metrics()
        self.selftest = SelfTest(
            pool=self.pool,  # type: ignore[arg-type]  # all of it that is used
            secret=_SECRET,
            banks_dir=banks,
            models=[CheckedModel("m", frozenset({"a", "b"}))],
            topic=self.topic,
            metrics=self.metrics,
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Bench:
    # A busy disk is none that hangs.
    monkeypatch.setattr("detector.selftest._DISK_SECONDS", 60.0)
    return _Bench(tmp_path)


def test_the_picture_is_the_deployments_own() -> None:
    """One secret gives one picture, another gives one whose hash is as far away as chance allows."""
    one, again = secret_picture(_SECRET, "canary"), secret_picture(_SECRET, "canary")
    others = [secret_picture(_SECRET, "decoy 1"), secret_picture(b"t" * 32, "canary")]

    assert one == again
    for other in others:
        apart = int.from_bytes(one.fingerprint) ^ int.from_bytes(other.fingerprint)
        assert apart.bit_count() > 80


async def test_the_entry_is_put_once_and_no_operator_meets_it(bench: _Bench, tmp_path: Path) -> None:
    """The reserved bank is written where it is missing or damaged, is in no list, and takes no entry of anybody."""
    await bench.selftest.start()
    await bench.selftest.start()
    assert bench.pool.reloads == 1

    (tmp_path / CANARY_BANK / "bank.json").write_text("{}")
    result = await bench.selftest.start()
    assert (bench.pool.reloads, result.ok) == (2, True)

    assert bank_names(tmp_path) == []
    with pytest.raises(BankNameError):
        load_bank(tmp_path / CANARY_BANK)
    with pytest.raises(BankNameError):
        add_entries(tmp_path / CANARY_BANK, np.zeros((1, 32), np.uint8), ["x"])


async def test_an_entry_that_could_not_be_written_at_the_start_is_put_as_soon_as_it_can(tmp_path: Path) -> None:
    """Where the folder refuses, health says why; the next test after it takes files again is green."""
    (tmp_path / "banks").write_text("in the way")
    bench = _Bench(tmp_path / "banks")
    assert not (await bench.selftest.start()).ok
    (problem,) = bench.selftest.problems()
    assert "cannot be written (Not a directory)" in problem
    assert not (await bench.selftest.test()).ok
    assert bench.pool.reloads == 0

    (tmp_path / "banks").unlink()
    assert (await bench.selftest.test()).ok
    assert (bench.pool.reloads, bench.selftest.problems()) == (1, [])


async def test_an_entry_that_got_lost_or_changed_is_put_again_before_the_next_test(
    bench: _Bench, tmp_path: Path
) -> None:
    """Somebody who removes the bank, or puts in one of another deployment, has it for one test at most."""
    await bench.selftest.start()
    shutil.rmtree(tmp_path / CANARY_BANK)
    assert (await bench.selftest.test()).ok
    put_canary(tmp_path, bytes(32))
    assert (await bench.selftest.test()).ok
    assert bench.pool.reloads == 3


async def test_a_write_that_failed_after_it_had_taken_effect_is_put_in_force(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may refuse the last step alone: what is right on it then is taken up all the same."""

    def write_and_fail(folder: Path, fingerprint: bytes) -> bool:
        put_canary(folder, fingerprint)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("detector.selftest.put_canary", write_and_fail)
    await bench.selftest.start()
    monkeypatch.undo()
    await bench.selftest.test()
    assert bench.pool.reloads == 1


async def test_a_disk_that_hangs_ends_no_test(bench: _Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test goes on without it, keeps one thread waiting and no more, and says what it waits for."""
    monkeypatch.setattr("detector.selftest._DISK_SECONDS", 0.05)
    thaw, calls = threading.Event(), []

    def hang(folder: Path, fingerprint: bytes) -> bool:
        calls.append(folder)
        return thaw.wait(30) and put_canary(folder, fingerprint)

    monkeypatch.setattr("detector.selftest.put_canary", hang)
    bench.pool.spoil = lambda inspection: replace(inspection, matches=())
    try:
        await bench.selftest.start()
        await bench.selftest.test()
        assert "the disk does not answer" in bench.selftest.problems()[0]
        assert calls == [tmp_path]
    finally:
        thaw.set()
    monkeypatch.setattr("detector.selftest._DISK_SECONDS", 60.0)
    bench.pool.spoil = lambda inspection: inspection
    assert (await bench.selftest.test()).ok


async def test_a_good_result_says_what_each_stage_took(bench: _Bench) -> None:
    """What is sent fits the schema, names both processes, and leaves no problem."""
    await bench.selftest.start()
    result = await bench.selftest.test()

    jsonschema.validate(bench.topic.sent[-1], message_schema("selftest"))
    assert (result.ok, result.processes, bench.selftest.problems()) == (True, 2, [])
    assert {"hash", "decide", "total", "wait"} <= set(result.stages_ms)
    assert bench.metrics.value("stopframe_selftests_total", state="ok") == 2
    assert bench.metrics.value("stopframe_selftest_last_success_seconds") == result.at_ms / 1000


def _dropped(cause: str) -> Any:
    def spoil(_: Inspection) -> Inspection:
        raise FrameDropped(cause)

    return spoil


_CONSTANT: list[Inspection] = []


def _constant(inspection: Inspection) -> Inspection:
    """The first answer for ever: right for the first picture, and for no other."""
    _CONSTANT.append(inspection)
    return _CONSTANT[0]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_dropped("stale"), "did not answer in time"),
        (_dropped("crash"), "ended at the self-test's picture"),
        (lambda seen: replace(seen, matches=()), "did not find the canary"),
        (lambda seen: replace(seen, matches=tuple(replace(m, distance=3) for m in seen.matches)), "3 bits"),
        (lambda seen: replace(seen, fingerprint=bytes(32)), "wrong hash of the canary"),
        (_constant, "wrong hash of a second picture"),
        (lambda seen: replace(seen, scores=()), "model m gave no valid answer in analysis process 0 and 1"),
        (lambda seen: replace(seen, failed_models=("m",)), "model m gave no valid answer in analysis process 0 and 1"),
        (lambda seen: replace(seen, scores=seen.scores[:1]), "does not fit its labels in analysis process 0 and 1"),
        (lambda seen: replace(seen, is_low_information=True), "policy did not act"),
    ],
)
async def test_each_way_to_be_broken_is_told_after_two_misses(bench: _Bench, spoil: Any, why: str) -> None:
    """One miss may be chance; two in a row are a problem that says what was wrong; one success ends it."""
    _CONSTANT.clear()
    await bench.selftest.start()
    bench.pool.spoil = spoil
    missed = await bench.selftest.test()
    assert not missed.ok
    assert bench.selftest.problems() == []

    _CONSTANT.clear()
    await bench.selftest.test()
    (problem,) = [one for one in bench.selftest.problems() if why in one]
    assert "restart stopframe" in problem
    jsonschema.validate(bench.topic.sent[-1], message_schema("selftest"))
    assert bench.topic.sent[-1]["ok"] is False

    bench.pool.spoil = lambda inspection: inspection
    await bench.selftest.test()
    assert bench.selftest.problems() == []


async def test_a_failed_start_is_told_at_once(bench: _Bench) -> None:
    """No process at all, or one that finds nothing: health is red from the first moment."""
    bench.pool.workers = 0
    await bench.selftest.start()
    (problem,) = bench.selftest.problems()
    assert "no analysis process is running" in problem


@pytest.mark.parametrize(
    ("receipt", "is_told"),
    [
        (None, True),
        (Receipt.NOT_AUTHORIZED, True),
        (Receipt.REFUSED, True),
        (Receipt.NOBODY_LISTENS, False),
        (Receipt.ACCEPTED, False),
    ],
)
async def test_a_broker_that_takes_nothing_is_told(bench: _Bench, receipt: Receipt | None, *, is_told: bool) -> None:
    """Two results in a row that were not taken are a problem; a topic without subscribers is none."""
    await bench.selftest.start()
    bench.topic.receipt = receipt
    await bench.selftest.test()
    assert bench.selftest.problems() == []
    await bench.selftest.test()

    assert any("cannot be published" in problem for problem in bench.selftest.problems()) is is_told
    assert bench.metrics.value("stopframe_selftests_total", state="unsent") == (2 if is_told else 0)


async def test_each_process_with_a_broken_model_is_replaced_once_also_where_another_is_told_of(bench: _Bench) -> None:
    """What memory spoils in a second process, while the first cannot be mended, the file mends there as well."""
    await bench.selftest.start()
    bench.pool.spoil = lambda found: dataclasses.replace(found, failed_models=("m",), scores=())
    bench.pool.spoiled = {0}
    for _ in range(4):
        await bench.selftest.test()
    assert bench.pool.restarted == [0]
    bench.pool.spoiled = {0, 1}
    for _ in range(4):
        await bench.selftest.test()
    assert bench.pool.restarted == [0, 1]

    bench.pool.spoiled = set()
    await bench.selftest.test()
    bench.pool.spoiled = {0}
    for _ in range(4):
        await bench.selftest.test()
    assert bench.pool.restarted == [0, 1, 0]

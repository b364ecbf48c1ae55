"""Real analysis processes: what they find, and what happens when one dies, hangs or is swamped."""

import asyncio
import functools
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from detector.analysis.channel import Channel
from detector.analysis.looks import TrackLooks
from detector.analysis.messages import Kind, ModelSetup, ViewSetup, WorkerSetup
from detector.analysis.pool import AnalysisPool, FrameDropped, PoolSettings
from detector.banks.readings import base_folders
from detector.cards import synthetic_card
from models.bank_store import CANARY_BANK, add_entries, put_canary
from models.hashing.registry import hash_algorithms
from models.hashing.scenes import Look
from models.hashing.view_table import Tier
from models.hashing.viewing import packed
from models.manifest import load_manifest
from models.shelves import state_of
from streams.frame import Frame, SampleReason
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration


def frame_of(seed: int, number: int = 1) -> Frame:
    now = time.monotonic()
    plane = luma(seed).tobytes()
    return Frame(number, now, now, None, SampleReason.KEYFRAME, False, 256, 256, plane, picture(seed).tobytes())


@functools.cache
def picture(seed: int) -> np.ndarray:
    return synthetic_card(seed, 256, 256)


@functools.cache
def luma(seed: int) -> np.ndarray:
    red, green, blue = (picture(seed)[:, :, channel].astype(float) for channel in range(3))
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.asarray(gray.reshape(64, 4, 64, 4).mean(axis=(1, 3)), np.uint8)


def put_on_bank(banks: Path, seed: int, entry: str) -> None:
    fingerprint = hash_algorithms()["pdq"].hash_plane(luma(seed))
    add_entries(banks / "CARDS", np.frombuffer(fingerprint.value, np.uint8)[None], [entry])


@asynccontextmanager
async def pool_of(
    tmp_path: Path,
    *,
    workers: int = 1,
    queue: int = 64,
    model_timeout: float = 5.0,
    models: tuple[str, ...] = (),
    views: ViewSetup | None = None,
) -> AsyncIterator[AnalysisPool]:
    banks = tmp_path / "banks"
    banks.mkdir(exist_ok=True)
    setup = WorkerSetup(
        banks_folder=str(banks),
        bank_limits={},
        models=tuple(ModelSetup(name, str(load_manifest(name).path)) for name in models),
        readable_paths=(str(banks),),
        sandbox="prefer",
        memory_limit_bytes=8 << 30,
        views=views or ViewSetup(0.003, tuple(Tier)),
    )
    async with AnalysisPool(PoolSettings(workers, queue, model_timeout, setup)) as pool:
        yield pool


def worker_pids() -> list[int]:
    """The forked processes: grandchildren of this one under the analysis forkserver."""
    pids = []
    for child in psutil.Process().children():
        if any("detector.analysis.worker:main" in word for word in child.cmdline()):
            pids += [grandchild.pid for grandchild in child.children()]
    return pids


async def test_a_long_bank_is_taken_up_once_it_was_read_elsewhere(tmp_path: Path) -> None:
    """No process stops to read a long list while frames wait; it stays with what it has until the service says so."""
    async with pool_of(tmp_path) as pool:
        put_on_bank(tmp_path / "banks", 7, "seven")
        (base,) = base_folders(tmp_path / "banks" / "CARDS")
        with (base / "room").open("wb") as file:
            file.truncate(129 << 20)  # looks long
        pool.reload_banks()
        before = await pool.inspect(frame_of(7), deadline_at=time.monotonic() + 30)

        setup = replace(pool._settings.setup, read_bases=(state_of(base),))
        pool.reconfigure(replace(pool._settings, setup=setup))
        after = await pool.inspect(frame_of(7), deadline_at=time.monotonic() + 30)

    assert before.matches == ()
    assert [match.entry for match in after.matches] == ["seven"]


async def test_a_known_picture_is_matched_and_scored(tmp_path: Path) -> None:
    """A frame of a banked card comes back with its entry, and every class of the model with its score."""
    put_on_bank(tmp_path / "banks", 7, "seven")

    async with pool_of(tmp_path, models=("standin-cards",)) as pool:
        found = await pool.inspect(frame_of(7), deadline_at=time.monotonic() + 30)
        other = await pool.inspect(frame_of(8), deadline_at=time.monotonic() + 30)

    assert [(match.bank, match.entry, match.distance) for match in found.matches] == [("CARDS", "seven", 0)]
    assert other.matches == ()
    assert {score.label for score in found.scores} == {"other", "smptebars", "testsrc2", "mandelbrot"}


async def test_a_new_entry_is_in_force_after_a_reload(tmp_path: Path) -> None:
    """What a command adds while the service runs, its first bank even, matches from the next frame on; nothing dies."""
    async with pool_of(tmp_path) as pool:
        before = await pool.inspect(frame_of(3), deadline_at=time.monotonic() + 30)
        put_on_bank(tmp_path / "banks", 3, "three")
        pool.reload_banks()
        after = await pool.inspect(frame_of(3), deadline_at=time.monotonic() + 30)

    assert before.matches == ()
    assert [match.entry for match in after.matches] == ["three"]
    assert pool.restarts == 0


def shown(content: np.ndarray, number: int = 1) -> Frame:
    """A frame with these (256, 256, 3) pixels, as a reader would scale it."""
    gray = content.astype(float) @ (0.299, 0.587, 0.114)
    plane = gray.reshape(64, 4, 64, 4).mean(axis=(1, 3)).astype(np.uint8)
    now = time.monotonic()
    return Frame(number, now, now, None, SampleReason.KEYFRAME, False, 1280, 720, plane.tobytes(), content.tobytes())


def turned(seed: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(picture(seed)))


async def test_a_stream_is_looked_at_in_every_way_once_a_scene_and_in_turn(tmp_path: Path) -> None:
    """What a track was looked at lately goes with its frames: a still scene's dear views are not run again."""
    put_on_bank(tmp_path / "banks", 7, "seven")
    looks, found = TrackLooks(), []

    async with pool_of(tmp_path, views=ViewSetup(1.0, tuple(Tier))) as pool:
        for number in range(6):
            frame = shown(turned(7), number)
            found.append(await pool.inspect(frame, deadline_at=time.monotonic() + 30, look=looks.look(frame)))
            looks.heard(found[-1])

    assert [(match.entry, match.view) for match in found[0].matches] == [("seven", "turn_right")]
    assert found[0].matches[0].tier == Tier.PER_SCENE
    assert [set(one.tier_seconds) for one in found] == [
        set(Tier),
        *[{Tier.EVERY_SAMPLE, Tier.IN_TURN}] * 3,
        {Tier.EVERY_SAMPLE, Tier.EDGES},
        {Tier.EVERY_SAMPLE},
    ]
    assert all(one.matches == () for one in found[1:])
    assert found[0].views_run > 30 > found[1].views_run > found[5].views_run == 2
    assert sum(one.views_left_out for one in found) == 0


def _edited(seed: int) -> dict[str, np.ndarray]:
    """A picture edited so that each kind of search for shapes finds something, and pictures with nothing in them."""
    known, other = picture(seed), picture(seed + 1)
    inside, barred = other // 2, known.copy()
    inside[50:220, 40:210] = known[:170, :170]
    barred[:50] = barred[-50:] = 0
    corners = np.array([(20, 30), (240, 10), (230, 240), (30, 220)], dtype=np.float32)
    frame = np.array([(0, 0), (256, 0), (256, 256), (0, 256)], dtype=np.float32)
    filmed = cv2.warpPerspective(known, cv2.getPerspectiveTransform(frame, corners), (256, 256))
    noise = np.random.default_rng(seed).integers(0, 256, known.shape, dtype=np.uint8)
    squares = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((32, 32)))[..., None] * np.full(3, 255)
    flat = {f"flat {level}": np.full_like(known, level) for level in (0, 77, 255)}
    shown = {"inside": inside, "barred": barred, "filmed": filmed, "noise": noise, "squares": squares.astype(np.uint8)}
    return {"known": known, "turned": turned(seed), "negative": 255 - known, **shown, **flat}


async def test_no_view_needs_anything_that_the_cage_keeps_away(tmp_path: Path) -> None:
    """Every family of views and every picture, in a real process: nothing is loaded late, nothing divides by zero."""
    put_on_bank(tmp_path / "banks", 7, "seven")
    overlay = np.zeros((64, 64), dtype=bool)
    overlay[50:, :40] = True
    looks = [None, *(Look(turn, overlay=packed(mask)) for turn, mask in enumerate((None, overlay, ~overlay, None)))]
    sizes = [(1280, 720), (720, 1280), (1, 16384), (16384, 1), (1, 1)]
    matched = set()

    async with pool_of(tmp_path, views=ViewSetup(1.0, tuple(Tier))) as pool:
        for content in _edited(7).values():
            for look, (width, height) in zip(looks, sizes, strict=True):
                frame = replace(shown(content), width=width, height=height)
                found = await pool.inspect(frame, deadline_at=time.monotonic() + 30, look=look)
                matched |= {match.view for match in found.matches}
        restarts = pool.restarts

    assert restarts == 0
    assert {"identity", "turn_right", "inverted"} <= matched
    assert any(view.startswith(("rect", "quad", "trim")) for view in matched)


async def test_a_budget_that_is_too_short_leaves_views_out_and_says_so(tmp_path: Path) -> None:
    """Identity and mirror are always run; a longer budget is taken up by the processes that run."""
    put_on_bank(tmp_path / "banks", 7, "seven")

    async with pool_of(tmp_path, views=ViewSetup(1e-6, tuple(Tier))) as pool:
        short = [await pool.inspect(frame_of(seed), deadline_at=time.monotonic() + 30) for seed in (1, 2, 3, 4, 7)]
        setup = replace(pool._settings.setup, views=ViewSetup(1.0, tuple(Tier)))
        pool.reconfigure(replace(pool._settings, setup=setup))
        long = await pool.inspect(shown(turned(7)), deadline_at=time.monotonic() + 30)
        picture_of = await pool.inspect(shown(turned(7)), deadline_at=time.monotonic() + 30, look=None)

    assert [one.views_run for one in short[1:]] == [2] * 4
    assert all(one.views_left_out > 30 for one in short[1:])
    assert [match.entry for match in short[4].matches] == ["seven"]
    assert [match.entry for match in long.matches] == [match.entry for match in picture_of.matches] == ["seven"]
    assert long.views_left_out == picture_of.views_left_out == 0
    assert picture_of.views_run > long.views_run


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_killed_process_delays_no_verdict_by_a_second(tmp_path: Path, workers: int) -> None:
    """`kill -9` of a process under load: its frame goes to another, every frame is judged, and a fresh one starts."""
    async with pool_of(tmp_path, workers=workers) as pool:
        slowest = 0.0
        for number in range(60):
            if number == 20:
                os.kill(worker_pids()[0], signal.SIGKILL)
            began = time.monotonic()
            await pool.inspect(frame_of(1, number), deadline_at=began + 30)
            slowest = max(slowest, time.monotonic() - began)
        restarts = pool.restarts
        async with asyncio.timeout(30):
            while pool.ready_workers < workers:
                await asyncio.sleep(0.02)

    assert restarts == 1
    assert slowest < 1.0 + SLACK_SECONDS


async def test_an_idle_process_that_dies_is_replaced_before_the_next_frame(tmp_path: Path) -> None:
    """Nobody has to send a frame to find out that a process is gone."""
    async with pool_of(tmp_path) as pool:
        first = worker_pids()
        os.kill(first[0], signal.SIGKILL)
        async with asyncio.timeout(30):
            while pool.restarts == 0 or pool.ready_workers == 0:
                await asyncio.sleep(0.02)

        assert worker_pids() != first


async def test_a_frame_past_its_deadline_is_dropped_not_shown_late(tmp_path: Path) -> None:
    """Nobody is cut for what was on screen some time ago."""
    async with pool_of(tmp_path) as pool:
        with pytest.raises(FrameDropped, match="stale"):
            await pool.inspect(frame_of(1), deadline_at=time.monotonic() - 1)

        assert pool.dropped["stale"] == 1


async def test_a_full_queue_drops_the_frame_nearest_its_deadline(tmp_path: Path) -> None:
    """Memory is bounded under overload, and what is dropped is counted."""
    async with pool_of(tmp_path, queue=3) as pool:
        for pid in worker_pids():
            os.kill(pid, signal.SIGSTOP)
        now = time.monotonic()
        waiting = [
            asyncio.ensure_future(pool.inspect(frame_of(1, number), deadline_at=now + 20 + number))
            for number in range(6)
        ]
        await asyncio.sleep(0.2)
        for pid in worker_pids():
            os.kill(pid, signal.SIGCONT)
        answers = await asyncio.gather(*waiting, return_exceptions=True)

    dropped = [number for number, answer in enumerate(answers) if isinstance(answer, FrameDropped)]
    assert len(dropped) == pool.dropped["overload"] >= 2
    assert max(dropped) < 5, "the frame with most time left is kept"


async def test_a_full_queue_keeps_the_frames_of_the_highest_risk(tmp_path: Path) -> None:
    """However near its deadline, a frame of a stream at risk is not dropped for one of a stream that is not."""
    async with pool_of(tmp_path, queue=3) as pool:
        for pid in worker_pids():
            os.kill(pid, signal.SIGSTOP)
        now = time.monotonic()
        waiting = [
            asyncio.ensure_future(pool.inspect(frame_of(1, number), deadline_at=now + 20 + number, risk=number < 3))
            for number in range(8)
        ]
        await asyncio.sleep(0.2)
        for pid in worker_pids():
            os.kill(pid, signal.SIGCONT)
        answers = await asyncio.gather(*waiting, return_exceptions=True)

    dropped = [number for number, answer in enumerate(answers) if isinstance(answer, FrameDropped)]
    assert len(dropped) == pool.dropped["overload"] >= 4
    assert min(dropped) >= 3


async def test_each_answer_says_what_it_cost(tmp_path: Path) -> None:
    """The sum over a run's frames is what the process used, by the kernel's own account, within its grain."""
    async with pool_of(tmp_path) as pool:
        (process,) = (psutil.Process(pid) for pid in worker_pids())
        before = sum(process.cpu_times()[:2])
        found = [await pool.inspect(frame_of(1, n), deadline_at=time.monotonic() + 30) for n in range(100)]
        used = sum(process.cpu_times()[:2]) - before

    assert all(inspection.cpu_seconds > 0 for inspection in found)
    assert sum(inspection.cpu_seconds for inspection in found) == pytest.approx(used, abs=0.05)


async def test_a_process_that_hangs_is_replaced_and_its_frame_judged_by_another(tmp_path: Path) -> None:
    """A stopped process costs its frame the model's time, never the verdict."""
    async with pool_of(tmp_path, model_timeout=0.5) as pool:
        os.kill(worker_pids()[0], signal.SIGSTOP)

        inspection = await pool.inspect(frame_of(1), deadline_at=time.monotonic() + 30)

        assert inspection.quality > 50
        assert pool.restarts == 1


async def test_a_model_that_hangs_its_process_three_times_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model cannot stop all others: after three losses it is quarantined, and health says which."""
    async with pool_of(tmp_path, model_timeout=0.3, models=("standin-cards",)) as pool:
        for slot in pool._slots:
            for _ in range(3):
                slot.stage = "model:standin-cards"
                pool._note_loss(slot, TimeoutError())
        os.kill(worker_pids()[0], signal.SIGKILL)
        async with asyncio.timeout(30):
            while pool.restarts < 4 or pool.ready_workers == 0:
                await asyncio.sleep(0.02)
        inspection = await pool.inspect(frame_of(1), deadline_at=time.monotonic() + 30)

        assert inspection.scores == ()
        assert any("standin-cards was taken out" in problem for problem in pool.problems())


async def test_one_hostile_stream_takes_no_model_out_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its frames end their processes, it loses its own frames; three streams are needed for blame."""
    async with pool_of(tmp_path, model_timeout=0.3, models=("standin-cards",)) as pool:
        answer = pool._answer

        async def ends_its_process(slot: Any, channel: Channel, wanted: Kind) -> bytes:
            if slot.stream in ("", "GOOD"):
                return await answer(slot, channel, wanted)
            slot.stage = "model:standin-cards"
            raise EOFError

        monkeypatch.setattr(pool, "_answer", ends_its_process)

        async def lose(stream: str) -> None:
            with pytest.raises(FrameDropped, match="crash"):
                await pool.inspect(frame_of(1), deadline_at=time.monotonic() + 30, stream=stream)

        for _ in range(4):
            await lose("HOSTILE")
        assert pool.restarts < 8, "a stream that did it before is not believed to have been there by chance"
        await lose("SECOND")
        inspection = await pool.inspect(frame_of(1), deadline_at=time.monotonic() + 30, stream="GOOD")
        assert inspection.scores, "the model still looks at everybody else"
        assert not any("taken out" in problem for problem in pool.problems())

        await lose("THIRD")
        assert any("standin-cards was taken out" in problem for problem in pool.problems())


async def test_the_processes_hold_no_environment_and_no_network(tmp_path: Path) -> None:
    """What looks at a stranger's pixels has no secret to tell and nobody to tell it to."""
    async with pool_of(tmp_path) as pool:
        state = pool.state()
        pid = worker_pids()[0]
        environment = Path(f"/proc/{pid}/environ").read_bytes() if os.geteuid() == 0 else b""

    assert state is not None
    assert state.missing_cage == ()
    assert b"HOME=" not in environment


async def test_leaving_the_pool_leaves_no_process(tmp_path: Path) -> None:
    """Every process ends with the pool."""
    async with pool_of(tmp_path, workers=2):
        pids = worker_pids()
        assert len(pids) == 2

    assert worker_pids() == []
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def test_the_canary_goes_to_the_process_that_it_is_for(tmp_path: Path) -> None:
    """Each process answers its own; the reserved bank is in force in both, and no other frame ever hears of it."""
    found = hash_algorithms()["pdq"].hash_plane(luma(5))
    assert put_canary(tmp_path / "banks", found.value)
    async with pool_of(tmp_path, workers=2) as pool:
        deadline_at = time.monotonic() + 30
        answers = [await pool.inspect_canary(frame_of(5), process, deadline_at=deadline_at) for process in (0, 1)]
        ordinary = await pool.inspect(frame_of(5), deadline_at=deadline_at)

    assert [[(m.bank, m.distance) for m in answer.matches] for answer in answers] == [[(CANARY_BANK, 0)]] * 2
    assert ordinary.fingerprint == found.value
    assert ordinary.matches == ()


async def test_a_canary_goes_first_and_waits_for_no_longer_than_told(tmp_path: Path) -> None:
    """It passes frames that wait; a process that is stopped costs it its deadline, and counts as no dropped frame."""
    async with pool_of(tmp_path, queue=200) as pool:
        waiting = [asyncio.create_task(pool.inspect(frame_of(1), deadline_at=time.monotonic() + 30)) for _ in range(50)]
        await asyncio.sleep(0)
        await pool.inspect_canary(frame_of(2), 0, deadline_at=time.monotonic() + 30)
        assert not all(task.done() for task in waiting)
        await asyncio.gather(*waiting)

        (pid,) = worker_pids()
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(FrameDropped):
            await pool.inspect_canary(frame_of(2), 0, deadline_at=time.monotonic() + 0.3)
        assert time.monotonic() - began < 1 + SLACK_SECONDS
        assert pool.dropped.total() == 0

"""The incident bank: what goes in, for how long, and on whom it may act."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.alerts.alert import uuid7
from detector.banks import incident as incident_bank
from detector.banks.incident import FRAMES_KEPT, IncidentBank, IncidentBankSettings
from detector.cards import synthetic_card
from detector.metrics import Metrics
from detector.trail import Trail
from models.bank_store import INCIDENT_BANK, BankMissing, open_bank
from models.evidence import Inspection
from models.hashing.registry import hash_algorithms
from models.hashing.second_tests import difference_hash
from models.hashing.spectrum import spectrum_of
from streams.frame import PICTURE_SIDE, PLANE_SIDE, Frame, SampleReason
from tests.waiting import until


def incident(number: int = 0, at_ms: int | None = None) -> str:
    return uuid7(at_ms if at_ms is not None else time.time_ns() // 1_000_000, number.to_bytes(10))


def _plane(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = PICTURE_SIDE // PLANE_SIDE
    luma = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.asarray(luma.reshape(PLANE_SIDE, step, PLANE_SIDE, step).mean(axis=(1, 3)), np.uint8)


@dataclass(frozen=True)
class Shown:
    """One frame as a stream shows it, and what was found in it."""

    frame: Frame
    inspection: Inspection


def shown(seed: int, *, is_mirrored: bool = False) -> Shown:
    picture = synthetic_card(seed, PICTURE_SIDE, PICTURE_SIDE)
    picture = np.ascontiguousarray(picture[:, ::-1]) if is_mirrored else picture
    plane = _plane(picture)
    found = hash_algorithms()["pdq"].hash_plane(plane)
    frame = Frame(
        0, 0.0, 0.0, None, SampleReason.KEYFRAME, False, 640, 360, plane.tobytes(), picture.tobytes()
    )  # fmt: skip
    second = difference_hash(spectrum_of(plane))
    return Shown(frame, Inspection(found.quality, found.is_stable, False, found.value, second=second))


@dataclass
class Scene:
    folder: Path
    now: float = 100.0
    wall: float = field(default_factory=time.time)
    reloads: int = 0
    forgotten: list[str] = field(default_factory=list)
    settings: IncidentBankSettings = field(default_factory=IncidentBankSettings)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.bank = IncidentBank(
            self.folder,
            reload=self._reload,
            metrics=self.metrics,
            settings=lambda: self.settings,
            forget=self.forgotten.append,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def _reload(self) -> None:
        self.reloads += 1

    def fate(self, state: str) -> float:
        return self.metrics.value("stopframe_incident_frames_total", state=state)

    def rows(self) -> dict[str, int]:
        """How many rows each incident has on disk."""
        try:
            rows = open_bank(self.folder / INCIDENT_BANK).rows("pdq")
        except BankMissing:
            return {}
        names = [] if rows is None else [rows.names[number] for number in range(len(rows.hashes))]
        return {name: names.count(name) for name in set(names)}

    def cut(self, trail: Trail, *frames: Shown, name: str | None = None) -> str:
        name = name or incident()
        for number, one in enumerate(frames):
            trail.saw(self.now + number, one.inspection)
            trail.hit(self.now + number, one.frame, one.inspection.fingerprint)
        self.bank.cut_made(name, trail)
        return name

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.bank.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def may_cut(trail: Trail, entry: str) -> bool | None:
    return trail._standing(trail, entry)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_frames_that_hit_go_in_and_act_on_who_comes_after(scene: Scene) -> None:
    """A cut stores its frames, has them taken up, and may cut only whoever began later; the others are looked at."""
    early, offender = scene.bank.follow("early", "s-early"), scene.bank.follow("bad", "s-bad")
    async with scene.running():
        scene.now += 10
        name = scene.cut(offender, shown(1), shown(2))
        await until(scene.rows)
        await until(lambda: scene.reloads)
    scene.now += 1
    late = scene.bank.follow("late", "s-late")
    assert scene.rows()[name] >= 2
    assert scene.fate("stored") == 2
    assert [may_cut(one, name) for one in (late, early, offender)] == [True, False, None]
    assert may_cut(late, incident(9)) is None
    assert scene.metrics.value("stopframe_incidents_known") == 1


@pytest.mark.parametrize("is_mirrored", [False, True])
async def test_nothing_goes_in_that_another_live_stream_showed(scene: Scene, *, is_mirrored: bool) -> None:
    """A rival's picture, the right way round or mirrored, is left out; the frames beside it are not."""
    rival, offender = scene.bank.follow("rival", "s1"), scene.bank.follow("bad", "s2")
    rival.saw(scene.now, shown(1, is_mirrored=is_mirrored).inspection)
    async with scene.running():
        name = scene.cut(offender, shown(1), shown(2))
        await until(lambda: scene.fate("stored"))
    assert (scene.fate("anothers"), scene.fate("stored")) == (1, 1)
    hashes = open_bank(scene.folder / INCIDENT_BANK).rows("pdq")
    assert hashes is not None
    assert shown(1).inspection.fingerprint not in {row.tobytes() for row in hashes.hashes}
    assert scene.rows().keys() == {name}


async def test_own_hours_and_cut_streams_protect_nothing(scene: Scene) -> None:
    """What the offender itself showed, or one who was cut for it, is no reason to leave it out."""
    accomplice, offender = scene.bank.follow("other", "s1"), scene.bank.follow("bad", "s2")
    accomplice.saw(scene.now, shown(1).inspection)
    accomplice.is_cut = True
    async with scene.running():
        scene.cut(offender, shown(1))
        await until(lambda: scene.fate("stored"))
    assert scene.fate("anothers") == 0


async def test_who_left_an_hour_ago_protects_nothing_but_who_just_left_does(scene: Scene) -> None:
    """A rival who reconnects at the wrong moment is protected all the same."""
    for name, away in (("gone", 3700.0), ("just left", 5.0)):
        rival = scene.bank.follow(name, name)
        rival.saw(scene.now, shown(1 if away > 3600 else 2).inspection)
        scene.bank.left(rival, name)
        rival.left_at = scene.now - away
    async with scene.running():
        scene.cut(scene.bank.follow("bad", "s"), shown(1), shown(2))
        await until(lambda: scene.fate("stored"))
    assert (scene.fate("stored"), scene.fate("anothers")) == (1, 1)


async def test_reconnecting_does_not_make_a_stream_new(scene: Scene) -> None:
    """Who was there before the incident and comes back is not cut for it; who was away for long is as new."""
    rival = scene.bank.follow("rival", "s1")
    scene.now += 10
    async with scene.running():
        name = scene.cut(scene.bank.follow("bad", "s2"), shown(1))
        await until(scene.rows)
    scene.now += 5
    scene.bank.left(rival, "s1")
    scene.now += 60
    back = scene.bank.follow("rival", "s3")
    assert may_cut(back, name) is False
    scene.bank.left(back, "s3")
    scene.now += 700
    assert may_cut(scene.bank.follow("rival", "s4"), name) is True


def test_a_session_that_ends_after_the_next_began_ends_nothing(scene: Scene) -> None:
    """Ends may come late: the trail belongs to the session that is there."""
    scene.bank.follow("stream", "s1")
    trail = scene.bank.follow("stream", "s2")
    scene.bank.left(trail, "s1")
    assert trail.left_at is None


async def test_frames_alike_and_frames_too_many_are_left_out(scene: Scene) -> None:
    """However long a stream goes on hitting while it is cut, an incident has a handful of frames."""
    offender = scene.bank.follow("bad", "s")
    async with scene.running():
        name = scene.cut(offender, shown(1), shown(1), shown(2))
        for seed in range(3, 9):
            scene.now += 1
            scene.cut(offender, shown(seed), name=name)
        await until(lambda: scene.fate("stored") == FRAMES_KEPT)
        await asyncio.sleep(0.05)
    assert scene.fate("stored") == FRAMES_KEPT


async def test_undo_takes_everything_back(scene: Scene) -> None:
    """The entries go from disk and from the breaker, and the stream is never cut by the bank again."""
    offender = scene.bank.follow("bad", "s")
    async with scene.running():
        name = scene.cut(offender, shown(1))
        await until(scene.rows)
        await scene.bank.withdraw(name, "bad")
        other = scene.cut(scene.bank.follow("worse", "s2"), shown(3))
        await until(lambda: other in scene.rows())
    assert name not in scene.rows()
    assert set(scene.forgotten) == {f"{INCIDENT_BANK}/{name}"}
    scene.now += 1000
    assert may_cut(scene.bank.follow("late", "s3"), name) is None
    assert may_cut(scene.bank.follow("bad", "s4"), other) is False


async def test_entries_expire(scene: Scene) -> None:
    """After `keep` the frames go, without anybody doing anything."""
    scene.settings = IncidentBankSettings(keep_seconds=60.0)
    async with scene.running():
        first = scene.cut(scene.bank.follow("bad", "s"), shown(1))
        await until(scene.rows)
        scene.wall += 61
        second = scene.cut(scene.bank.follow("worse", "s2"), shown(2))
        await until(lambda: scene.rows().keys() == {second})
    assert may_cut(scene.bank.follow("late", "s3"), first) is None


async def test_a_restart_goes_on_with_what_is_on_disk(scene: Scene) -> None:
    """Entries outlive the service; who is there as soon as it is may have been there before, and is not cut."""
    async with scene.running():
        name = scene.cut(scene.bank.follow("bad", "s"), shown(1))
        await until(scene.rows)
    again = Scene(scene.folder, now=500.0)
    early = again.bank.follow("early", "s1")
    async with again.running():
        await until(lambda: again.metrics.value("stopframe_incidents_known"))
    again.now += 31
    late = again.bank.follow("late", "s2")
    assert (may_cut(early, name), may_cut(late, name)) == (False, True)
    later = Scene(scene.folder, now=500.0, wall=time.time() + 25 * 3600)
    async with later.running():
        later.cut(later.bank.follow("worse", "s"), shown(2))  # the work goes round
        await until(lambda: name not in later.rows())


async def test_a_bank_switched_off_takes_nothing(scene: Scene) -> None:
    """With `step: off` no frame is kept."""
    scene.settings = IncidentBankSettings(is_on=False)
    async with scene.running():
        scene.cut(scene.bank.follow("bad", "s"), shown(1))
        await asyncio.sleep(0.05)
    assert scene.rows() == {}


async def test_a_disk_that_refuses_is_a_problem_and_no_more(scene: Scene) -> None:
    """What cannot be written is counted and told with the remedy; the next that works clears it."""
    (scene.folder / INCIDENT_BANK).write_text("not a folder")
    async with scene.running():
        scene.cut(scene.bank.follow("bad", "s"), shown(1))
        await until(lambda: scene.fate("failed"))
        assert "see to the disk" in scene.bank.problems()[0]
        (scene.folder / INCIDENT_BANK).unlink()
        scene.cut(scene.bank.follow("worse", "s2"), shown(2))
        await until(lambda: scene.fate("stored"))
    assert scene.bank.problems() == []


async def test_the_oldest_incident_makes_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank holds a bounded number of incidents."""
    monkeypatch.setattr(incident_bank, "INCIDENTS_KEPT", 3)
    names = [
        scene.cut(scene.bank.follow(f"bad {number}", f"s{number}"), shown(number), name=incident(number))
        for number in range(5)
    ]
    async with scene.running():
        await until(lambda: scene.fate("stored") == len(names))
        await until(lambda: scene.rows().keys() == set(names[2:]))


def test_a_flood_of_cuts_waits_in_bounded_memory(scene: Scene) -> None:
    """Cuts that come faster than the disk takes them are counted, and the first ones kept."""
    for number in range(70):
        scene.cut(scene.bank.follow(f"bad {number}", f"s{number}"), shown(number % 3), name=incident(number))
    assert scene.fate("no_room") == 6


async def test_an_undone_cut_gives_a_stream_its_pictures_back(scene: Scene) -> None:
    """Who was cut by mistake is protected by what it showed before, as everybody else is."""
    rival = scene.bank.follow("rival", "s")
    async with scene.running():
        mistaken = scene.cut(rival, shown(1), shown(2))
        await until(lambda: mistaken in scene.rows())
        await scene.bank.withdraw(mistaken, "rival")
        scene.bank.follow("rival", "s2")
        later = scene.cut(scene.bank.follow("bad", "s3"), shown(2), shown(5))
        await until(lambda: scene.fate("stored") == 3)
    assert (later in scene.rows(), scene.fate("anothers")) == (True, 1)


async def test_a_flood_of_short_streams_washes_no_trail_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival that is away for a while stays protected, whoever comes and goes meanwhile."""
    monkeypatch.setattr(incident_bank, "_TRAILS_KEPT", 8)
    rival = scene.bank.follow("rival", "s")
    for number in range(4):
        rival.saw(scene.now + number, shown(number).inspection)
    scene.bank.left(rival, "s")
    for number in range(30):
        short = scene.bank.follow(f"short-{number}", f"t{number}")
        short.saw(scene.now, shown(40 + number % 3).inspection)
        scene.bank.left(short, f"t{number}")
    async with scene.running():
        scene.cut(scene.bank.follow("bad", "s3"), shown(2), shown(5))
        await until(lambda: scene.fate("stored") == 1)
    assert scene.fate("anothers") == 1
    assert len(scene.bank._trails) == 8
    assert scene.bank.follow("rival", "s4").began_at == 100.0


async def test_incidents_without_frames_cost_the_others_no_place(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts of which nothing can be taken, as what they showed is another's too, push no incident out of the bank."""
    monkeypatch.setattr(incident_bank, "INCIDENTS_KEPT", 2)
    rival = scene.bank.follow("rival", "r")
    rival.saw(scene.now, shown(9).inspection)
    async with scene.running():
        kept = scene.cut(scene.bank.follow("bad", "s"), shown(1), name=incident(0))
        for number in range(1, 5):
            scene.cut(scene.bank.follow(f"bad-{number}", f"s{number}"), shown(9), name=incident(number))
        await until(lambda: scene.fate("anothers") == 4)
        last = scene.cut(scene.bank.follow("worse", "w"), shown(3), name=incident(6))
        await until(lambda: scene.fate("stored") == 2)
        await asyncio.sleep(0)
    assert scene.rows().keys() == {kept, last}


async def test_frames_that_look_like_anothers_take_no_place(scene: Scene) -> None:
    """Showing what an accomplice shows, four times over, does not keep the fifth frame out."""
    scene.bank.follow("accomplice", "a")
    for number in range(FRAMES_KEPT):
        scene.bank._trails["accomplice"].saw(scene.now + number, shown(number).inspection)
    offender = scene.bank.follow("bad", "s")
    async with scene.running():
        name = scene.cut(offender, *(shown(number) for number in range(FRAMES_KEPT)))
        await until(lambda: scene.fate("anothers") == FRAMES_KEPT)
        scene.cut(offender, shown(30), name=name)
        await until(lambda: scene.fate("stored") == 1)
    assert scene.rows().keys() == {name}

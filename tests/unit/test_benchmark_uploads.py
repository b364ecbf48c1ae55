"""The benchmark of uploads: what it sends is what it says, and a promise that was not kept fails its check."""

import io
import itertools
import zlib

import av
import pytest

from benchmarks import upload_material, uploads
from benchmarks.uploads import Crowd, Sent, Watched

PLAN = uploads._FULL
STEADY = {"readers_more": 0, "stuck_s": 10.5, "steady_ended": "end_of_stream"}
BOMBS = {"png": "422 unknown resolution", "mp4": "200 unknown deadline", "mkv": "413 the file is longer."}
LEFT = {"held_bytes": 0.0, "readers_more": 0.0}


def test_a_png_bomb_is_a_whole_picture() -> None:
    """Every row that its head promises is there."""
    content = upload_material.png_bomb(1000)
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start])

    assert len(zlib.decompress(content[start + 4 : start + 4 + length])) == 1000 * (1 + 125)
    assert len(content) < 2000


def test_an_mp4_bomb_has_as_many_pictures_as_it_says() -> None:
    """All of them decode, from a few bytes each."""
    content = upload_material.mp4_bomb(300, 640, 360)
    with av.open(io.BytesIO(content), "r", format="mp4") as source:
        frames = [(frame.width, frame.height) for frame in source.decode(video=0)]

    assert frames == [(640, 360)] * 301
    assert len(content) < 301 * 100


def test_a_long_clip_is_packets_all_the_way() -> None:
    """It has the length that was asked for, to a few packets, and stays a transport stream."""
    packet = b"\x47" + bytes(187)
    content = upload_material.long_clip(packet * 10, 200_000, rounds=4)

    assert abs(len(content) - 200_000) < 4 * 188
    assert len(content) % 188 == 0
    assert set(content[::188]) == {0x47}


def test_endless_matroska_goes_on() -> None:
    """Whatever is taken of it, there is more, and it is what its first bytes say."""
    parts = list(itertools.islice(upload_material.endless_matroska(), 50))

    assert parts[0].startswith(b"\x1a\x45\xdf\xa3")
    assert len({len(part) for part in parts[1:]}) == 1


def _watched(*, delay: float = 0.1, judged: float = 8.0) -> Watched:
    return Watched([delay] * 9, 110 << 20, 30 << 20, 200 << 20, 5, judged)


def _failing(
    crowd: Crowd,
    *,
    trickles: dict[str, object] = STEADY,
    bombs: dict[str, str] = BOMBS,
    left: dict[str, float] = LEFT,
    watched: Watched | None = None,
) -> set[str]:
    figures = uploads._Figures(PLAN, Crowd(), crowd, dict(trickles), dict(bombs), dict(left))
    crowded = watched or _watched()
    return {
        check.what
        for check in figures.checks(Watched([0.05] * 9, 100 << 20, judged_a_second=8.0), crowded, [crowded], 0.0)
        if not check.ok
    }


def _told(decision: str, *, complete: bool = True) -> dict[str, object]:
    return {"decision": decision, "complete": complete}


def test_a_run_in_which_all_went_well_passes() -> None:
    """Copies found, clean ones allowed, nothing late, lost or left."""
    crowd = Crowd()
    crowd.took(Sent(b"", "cut"), 200, _told("cut"), 0.1)
    crowd.took(Sent(b"", "allow"), 200, _told("allow"), 0.1)

    assert _failing(crowd) == set()


@pytest.mark.parametrize(
    ("sent", "status", "told", "fails"),
    [
        ("cut", 200, _told("allow"), "planted copies found"),
        ("allow", 200, _told("cut"), "clean files called anything but that"),
        ("allow", 200, _told("unknown", complete=False), "clean files called anything but that"),
        ("cut", 429, {"error": "later."}, "files of 50 at once that were not answered"),
    ],
)
def test_a_wrong_answer_fails_its_check(sent: str, status: int, told: dict[str, object], fails: str) -> None:
    """Each kind of wrong answer one check, and no other."""
    crowd = Crowd()
    crowd.took(Sent(b"", sent), status, told, 0.1)

    assert _failing(crowd) == {fails}


def test_what_is_late_large_or_left_fails_its_check() -> None:
    """Delay, memory, processes, silence and rests have a check each."""
    heavy = Watched([0.1] * 9, 200 << 20, 160 << 20, 400 << 20, 5, 8.0)

    assert _failing(Crowd(), watched=_watched(delay=0.4)) == {"live samples later with 50 uploads at once, p95"}
    assert _failing(Crowd(), watched=_watched(judged=7.0)) == {"live frames judged with 50 uploads at once"}
    assert len(_failing(Crowd(), watched=heavy)) == 2
    assert len(_failing(Crowd(), trickles={"readers_more": 1, "stuck_s": 20.0, "steady_ended": "deadline"})) == 3
    assert len(_failing(Crowd(), bombs={"png": "200 allow end_of_stream"})) == 1
    assert len(_failing(Crowd(), left={"held_bytes": 1.0, "readers_more": 0.0})) == 1

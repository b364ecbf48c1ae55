"""`stopframe scan`: what was planted is found, everything else is not, and every second is accounted for."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.cards import synthetic_card
from detector.media_files import find_media
from detector.scan import InOrder
from models.bank_store import add_entries
from models.hashing.registry import hash_algorithms
from tests.fixtures_cli import CommandLine, Run

pytestmark = pytest.mark.integration


def _summaries(run: Run) -> dict[str, dict[str, Any]]:
    return {line["summary"]["media"]: line["summary"] for line in run.lines if "summary" in line}


def _detections(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.lines if "summary" not in line]


def _remux(source: Path, target: Path) -> None:
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)


def _total_seconds(summary: dict[str, Any]) -> float:
    coverage = summary["coverage"]
    return float(coverage["seen_s"] + coverage["skipped_s"] + coverage["blind_s"])


def test_scan_finds_what_was_planted_in_a_folder(stopframe: CommandLine) -> None:
    """Planted cards are found under their entries, at their time and through their view; nothing else is; exit 1."""
    stopframe.picture("known/one.png", 1)
    stopframe.picture("known/two.png", 2)
    assert stopframe("hashes", "add", "CARDS", "known/one.png", "known/two.png").code == 0
    stopframe.write_config("banks: {CARDS: {step: cut}}\n")
    stopframe.picture("media/copy.jpg", 1, (500, 281))
    stopframe.picture("media/sub/other.png", 3)
    stopframe.clip("media/clip.ts", "card:5:2,card:2:2,card:6:2")
    stopframe.clip("media/clean.ts", "card:7:2")
    (stopframe.folder / "media/notes.txt").write_text("no picture")

    run = stopframe("scan", "media")

    assert run.code == 1, run.err
    found = {(one["media"], one["signal"], one["bank"], one["entry"], one["decision"]) for one in _detections(run)}
    assert found == {
        ("media/copy.jpg", "hash", "CARDS", "one", "cut"),
        ("media/clip.ts", "hash", "CARDS", "two", "cut"),
    }
    assert {one["time_s"] for one in _detections(run) if one["media"] == "media/copy.jpg"} == {0.0}
    assert all(2.0 <= one["time_s"] < 4.0 for one in _detections(run) if one["media"] == "media/clip.ts")
    assert all(one["distance"] <= 10 and one["view"] == "identity" for one in _detections(run))
    summaries = _summaries(run)
    assert list(summaries) == ["media/clean.ts", "media/clip.ts", "media/copy.jpg", "media/sub/other.png"]
    assert _total_seconds(summaries["media/clip.ts"]) == pytest.approx(6.0, abs=0.001)
    assert _total_seconds(summaries["media/clean.ts"]) == pytest.approx(2.0, abs=0.001)
    assert summaries["media/copy.jpg"]["coverage"] == {"seen_s": 0.0, "skipped_s": 0.0, "blind_s": 0.0}
    assert summaries["media/copy.jpg"]["frames"] == {"picture": 1}
    assert summaries["media/clip.ts"]["frames"]["scene_change"] == 3
    assert "1 file that is no media was passed over" in run.err


def _far_video(state_dir: Path, cards: list[int], bits: int) -> None:
    """Bank the cards as a video, one a second, each hash `bits` away from the card's own."""
    pdq, draw, rows = hash_algorithms()["pdq"], Random(1), []
    for card in cards:
        grey = synthetic_card(card, 64, 64).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        value = int.from_bytes(pdq.hash_plane(grey.astype(np.uint8)).value)
        value ^= sum(1 << place for place in draw.sample(range(256), bits))
        rows.append(np.frombuffer(value.to_bytes(32), np.uint8))
    places = np.arange(len(cards), dtype=np.int32) * 1000
    add_entries(state_dir / "banks" / "FILMS", np.stack(rows), ["film"] * len(cards), positions_ms=places)


def test_scan_finds_a_video_by_several_frames(stopframe: CommandLine) -> None:
    """Frames too far off to act alone are a sequence together, told with their number; a still one of them is none."""
    _far_video(stopframe.folder / "state", [21, 22, 23, 24, 25, 26], 58)
    stopframe.write_config("banks: {FILMS: {step: cut}}\n")
    stopframe.clip("plays.ts", "card:21:1,card:22:1,card:23:1,card:24:1")
    stopframe.clip("still.ts", "card:21:4")
    stopframe.clip("other.ts", "card:1:1,card:2:1,card:3:1,card:4:1")

    run = stopframe("scan", "plays.ts", "still.ts", "other.ts")

    found = _detections(run)
    assert {(one["media"], one["signal"], one["entry"], one["decision"]) for one in found} == {
        ("plays.ts", "sequence", "film", "cut")
    }
    assert found[0]["frames"] in (2, 3)
    assert 0.9 < found[0]["time_s"] < 2.1
    assert 50 < found[0]["distance"] <= 72


def _mux(sources: list[Path], target: Path) -> None:
    """Put the videos of `sources` into one file, as tracks."""
    with contextlib.ExitStack() as opened:
        written = opened.enter_context(av.open(str(target), "w"))
        reads = [opened.enter_context(av.open(str(source))) for source in sources]
        tracks = [written.add_stream_from_template(read.streams.video[0]) for read in reads]
        packets = [
            (float(packet.dts * packet.time_base), number, packet)
            for number, read in enumerate(reads)
            for packet in read.demux(video=0)
            if packet.dts is not None
        ]
        for _, number, packet in sorted(packets, key=lambda one: one[:2]):
            packet.stream = tracks[number]
            written.mux(packet)


def test_scan_looks_at_every_video_track(stopframe: CommandLine) -> None:
    """A card in the second track is found and told with its track; a track that ends first was seen to its end."""
    stopframe.picture("known/two.png", 2)
    assert stopframe("hashes", "add", "CARDS", "known/two.png").code == 0
    stopframe.clip("first.ts", "card:5:9")
    stopframe.clip("second.ts", "card:6:2,card:2:2")
    _mux([stopframe.folder / "first.ts", stopframe.folder / "second.ts"], stopframe.folder / "both.ts")

    run = stopframe("scan", "both.ts")

    assert run.code == 1, run.err
    assert {(one["track"], one["entry"]) for one in _detections(run)} == {(1, "two")}
    summary = _summaries(run)["both.ts"]
    assert _total_seconds(summary) == pytest.approx(9.0, abs=0.1)
    assert summary["coverage"]["blind_s"] == 0.0


def test_scan_runs_the_classifiers_by_the_same_policy(stopframe: CommandLine) -> None:
    """A class acts on k of n frames of a clip, and on the one frame of a picture."""
    stopframe.write_config('classes: {"standin-cards/smptebars": {step: cut}}\n')
    bars = Path(__file__).parents[2] / "models/zoo/standin-cards/smptebars.png"
    stopframe.clip("bars.ts", "card:11:2,smptebars:5")

    run = stopframe("scan", "bars.ts", str(bars))

    assert run.code == 1, run.err
    of_clip = [one for one in _detections(run) if one["media"] == "bars.ts"]
    of_picture = [one for one in _detections(run) if one["media"] == str(bars)]
    assert of_clip[0]["time_s"] == pytest.approx(4.0, abs=0.5)  # the third frame that votes
    assert [(one["model"], one["label"], one["decision"]) for one in of_picture] == [
        ("standin-cards", "smptebars", "cut")
    ]
    assert of_picture[0]["score"] > 0.9


def test_scan_says_what_was_black(stopframe: CommandLine) -> None:
    """Time without anything to see is skipped, with its cause; nothing was found, so exit 0."""
    stopframe.clip("black.ts", "black:4")

    run = stopframe("scan", "black.ts")

    assert run.code == 0, run.err
    coverage = _summaries(run)["black.ts"]["coverage"]
    assert coverage["skipped_s"] == pytest.approx(4.0, abs=0.001)
    assert coverage["causes"] == {"low_information": pytest.approx(4.0, abs=0.001)}


def test_scan_exits_2_for_inputs_that_cannot_be_read(stopframe: CommandLine) -> None:
    """A named file that is missing or no media is told in one sentence and a summary; the others are scanned on."""
    (stopframe.folder / "broken.mp4").write_bytes(os.urandom(4000))
    (stopframe.folder / "empty.png").write_bytes(b"")
    (stopframe.folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    stopframe.clip("good.ts", "card:5:1")

    run = stopframe("scan", "broken.mp4", "missing.ts", "empty.png", "cut.jpg", "good.ts")

    assert run.code == 2
    summaries = _summaries(run)
    assert list(summaries) == ["broken.mp4", "missing.ts", "empty.png", "cut.jpg", "good.ts"]
    assert summaries["broken.mp4"]["error"]["code"] == "not_media"
    assert summaries["missing.ts"]["error"]["code"] == "unreadable"
    assert "error" in summaries["empty.png"]
    assert "error" in summaries["cut.jpg"]
    assert "error" not in summaries["good.ts"]
    assert all(f"{name}: " in run.err for name in ("broken.mp4", "missing.ts", "empty.png", "cut.jpg"))
    assert "good.ts" not in run.err


def test_scan_of_nothing_says_so(stopframe: CommandLine) -> None:
    """An empty folder finds nothing and tells why; an empty name is refused, and never the current folder."""
    stopframe.picture("one.png", 1)
    (stopframe.folder / "empty").mkdir()

    folder, name = stopframe("scan", "empty"), stopframe("scan", "")

    assert (folder.code, folder.out) == (0, "")
    assert "nothing was looked at" in folder.err
    assert (name.code, len(name.lines)) == (2, 1)
    assert "is no name of a file" in name.err


def test_scan_of_a_folder_fails_for_a_broken_film_and_passes_over_text(stopframe: CommandLine) -> None:
    """In a folder only what never claimed to be media is passed over."""
    folder = stopframe.folder / "media"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(os.urandom(4000))
    (folder / "readme").write_text("text")

    run = stopframe("scan", "media")

    assert run.code == 2
    assert list(_summaries(run)) == ["media/film.mp4"]
    assert "1 file that is no media was passed over" in run.err


def test_a_film_with_a_hole_was_not_read(stopframe: CommandLine) -> None:
    """Seconds that came and could not be decoded are blind, with their cause, and the exit code says so."""
    film = stopframe.folder / "film.mp4"
    _remux(stopframe.folder / stopframe.clip("film.ts", "testsrc:15"), film)
    content = bytearray(film.read_bytes())
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    fifth = (end - begin) // 5
    content[begin + fifth : end - fifth] = bytes(end - begin - 2 * fifth)
    film.write_bytes(content)

    run = stopframe("scan", "film.mp4")

    summary = _summaries(run)["film.mp4"]
    assert run.code == 2
    assert _total_seconds(summary) == pytest.approx(15.0, abs=0.1)
    assert summary["coverage"]["blind_s"] == summary["coverage"]["causes"]["decode_errors"] > 3.0
    assert summary["error"]["code"] == "decode_errors"


def test_scan_live_samples_at_real_pace(stopframe: CommandLine) -> None:
    """A file that is scanned live takes its own time, is sampled by keyframes, and is accounted for as exactly."""
    stopframe.picture("two.png", 2)
    assert stopframe("hashes", "add", "CARDS", "two.png").code == 0
    stopframe.clip("clip.ts", "card:5:2,card:2:2")

    begun_at = time.monotonic()
    run = stopframe("scan", "--live", "clip.ts")

    assert time.monotonic() - begun_at > 3.5
    assert run.code == 1, run.err
    assert {one["entry"] for one in _detections(run)} == {"two"}
    summary = _summaries(run)["clip.ts"]
    assert _total_seconds(summary) == pytest.approx(4.0, abs=0.001)
    assert summary["frames"]["keyframe"] >= 3


def test_scan_never_shows_the_key_in_a_url(stopframe: CommandLine) -> None:
    """Of a URL only scheme and host are repeated, whatever goes wrong."""
    run = stopframe(
        "scan", "http://127.0.0.1:1/live/s3cret", "rtmp://user:s3cret@127.0.0.1:1/live/s3cret", "ftp://s3cret"
    )

    assert run.code == 2
    assert "s3cret" not in run.out + run.err
    assert list(_summaries(run)) == ["http://127.0.0.1:1", "rtmp://127.0.0.1:1", "ftp://"]


def test_scan_refuses_to_look_with_half_its_lists(stopframe: CommandLine) -> None:
    """A bank that the config names and that does not exist is an error, not a clean result."""
    stopframe.write_config("banks: {MISSING: {step: cut}}\n")
    stopframe.picture("one.png", 1)

    run = stopframe("scan", "one.png")

    assert (run.code, run.out) == (2, "")
    assert "bank MISSING of the config does not exist" in run.err


def test_a_crashed_reader_is_one_files_blindness(stopframe: CommandLine) -> None:
    """A file whose reader dies is told as such, and the files after it are scanned."""
    stopframe.clip("long.ts", "card:5:8")
    stopframe.clip("good.ts", "card:6:1")
    process = stopframe.start("scan", "--live", "long.ts", "good.ts")
    try:
        _kill_a_reader(process.pid)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    summaries = {s["media"]: s for s in (json.loads(text)["summary"] for text in out.splitlines())}
    codes = Counter(summary.get("error", {}).get("code") for summary in summaries.values())
    assert process.returncode == 2, err
    assert list(summaries) == ["long.ts", "good.ts"]
    assert codes == {"reader_crashed": 1, None: 1}


def _kill_a_reader(pid: int) -> None:
    """Kill the first reader: the eldest child of the warm process that forks readers."""
    deadline_at = time.monotonic() + 30
    while time.monotonic() < deadline_at:
        for child in _children(pid):
            if b"streams.reader:main" not in Path(f"/proc/{child}/cmdline").read_bytes():
                continue
            if readers := _children(child):
                time.sleep(1.0)
                os.kill(min(readers), signal.SIGKILL)
                return
        time.sleep(0.05)
    raise AssertionError("no reader was seen")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_ctrl_c_ends_a_scan_at_once(stopframe: CommandLine) -> None:
    """SIGINT ends a scan with exit 130, no traceback and no process left."""
    stopframe.clip("long.ts", "card:5:30")
    process = stopframe.start("scan", "--live", "long.ts")
    children: list[int] = []
    deadline = time.monotonic() + 60
    while not children and time.monotonic() < deadline:
        time.sleep(0.1)
        children = _children(process.pid)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    begun_at = time.monotonic()
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert time.monotonic() - begun_at < 15
    assert "Traceback" not in err
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_folder_never_leads_out_of_itself(tmp_path: Path) -> None:
    """Links that leave the folder, and links to folders, are not followed; the rest comes sorted."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "b", outside):
        folder.mkdir(parents=True)
    for file in (inside / "z.png", inside / "a.png", inside / "b/c.png", outside / "secret.png"):
        file.write_bytes(b"x")
    (inside / "out.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "same.png").symlink_to(inside / "a.png")
    os.mkfifo(inside / "pipe.png")

    names = [Path(medium.name).relative_to(inside).as_posix() for medium in find_media([str(inside)])]

    assert names == ["a.png", "same.png", "z.png", "b/c.png"]


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=30))
def test_outputs_stay_together_in_input_order(ends: list[int], says: list[int]) -> None:
    """Whoever speaks and ends when: each input's lines come together, in the order of the inputs."""
    written: list[int] = []
    order = InOrder(lambda content: written.append(content["place"]))
    for place in says:
        order.tell(place, {"place": place})
    for place in ends:
        order.done(place)

    assert written == sorted(says)

"""The file of alerts: whole lines, turned over by size, and no trace of what a disk refused."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from detector.alerts.jsonl import JsonlSettings, JsonlSink, LineFile
from detector.alerts.sink import Notice, Receipt, SinkUnavailable


def _notice(payload: bytes) -> Notice:
    return Notice("id", "S", True, payload, int(time.time() * 1000) + 60_000, 1.0)


def test_a_full_file_is_turned_over_and_the_oldest_goes(tmp_path: Path) -> None:
    """No line is split between two files, and so many old ones stay as were asked for."""
    file = LineFile(JsonlSettings(path=tmp_path / "a.jsonl", rotate_bytes=10, keep=2))
    for number in range(8):
        file.append([b"line%d\n" % number])
    file.close()

    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert held == {"a.jsonl": b"line7\n", "a.jsonl.1": b"line6\n", "a.jsonl.2": b"line5\n"}


def test_a_torn_line_of_an_earlier_run_is_taken_back(tmp_path: Path) -> None:
    """What a crash left unfinished nobody was told of; whole lines before it stay, however long it is."""
    for torn in (b'{"half', b"x" * 10_000):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"whole\n" + torn)
        file = LineFile(JsonlSettings(path=path))
        file.append([b"next\n"])
        file.close()
        assert path.read_bytes() == b"whole\nnext\n"


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the file ends with the last whole line, and the next try writes all."""
    path = tmp_path / "a.jsonl"
    file = LineFile(JsonlSettings(path=path))
    file.append([b"first\n"])
    real_write = os.write
    answers = iter([3, OSError(28, "No space left on device")])

    def write(descriptor: int, content: bytes) -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return real_write(descriptor, content[:answer])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        file.append([b"second\n"])
    monkeypatch.undo()
    assert path.read_bytes() == b"first\n"
    file.append([b"second\n"])
    file.close()

    assert path.read_bytes() == b"first\nsecond\n"


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """As logrotate does it: later lines are in the file of the configured name."""
    path = tmp_path / "a.jsonl"
    file = LineFile(JsonlSettings(path=path))
    file.append([b"one\n"])
    path.rename(tmp_path / "moved")
    file.append([b"two\n"])
    file.close()

    assert (path.read_bytes(), (tmp_path / "moved").read_bytes()) == (b"two\n", b"one\n")


async def test_a_disk_that_refuses_is_told_until_it_takes_lines_again(tmp_path: Path) -> None:
    """The problem names the file and the remedy, and is gone with the first line that got through."""
    path = tmp_path / "missing" / "a.jsonl"
    async with JsonlSink(JsonlSettings(path=path)) as sink:
        with pytest.raises(SinkUnavailable):
            await sink.deliver(_notice(b"{}"))
        why = "no such file or directory; make its folder, or correct alerts.jsonl.path"
        assert sink.problems() == [f"alerts cannot be written to {path}: {why}"]
        path.parent.mkdir()
        assert await sink.deliver(_notice(b"{}")) is Receipt.ACCEPTED
        assert sink.problems() == []
        assert await sink.deliver(_notice(b"{\n}")) is Receipt.REFUSED

    assert path.read_bytes() == b"{}\n"


async def test_a_file_that_cannot_be_opened_is_told_before_an_alert_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typo in the path turns health red at the start, and a folder that is made then turns it green again."""
    monkeypatch.setattr("detector.alerts.jsonl._LOOK_AGAIN_SECONDS", 0.05)
    path = tmp_path / "missing" / "a.jsonl"
    async with JsonlSink(JsonlSettings(path=path)) as sink, asyncio.timeout(30):
        while not sink.problems():
            await asyncio.sleep(0.01)
        path.parent.mkdir()
        while sink.problems():
            await asyncio.sleep(0.01)

    assert path.read_bytes() == b""


async def test_a_pipe_or_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    """Nobody waits for the reader of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        async with JsonlSink(JsonlSettings(path=place)) as sink, asyncio.timeout(30):
            with pytest.raises(SinkUnavailable):
                await sink.deliver(_notice(b"{}"))
            assert sink.problems()

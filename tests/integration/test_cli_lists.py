"""`stopframe hashes import` and `export` as a user meets them: what is told, what goes, what is killed midway."""

import os
import pty
import random
import secrets
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from models.bank_store import add_entries, bank_stats, load_bank
from models.evidence import Opinion
from tests.fixtures_cli import CommandLine

_NCMEC = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2">
<images count="3" maxTimestamp="2026-10-24T15:10:00Z">{}</images></queryResult>"""


def _image(number: int, value: str) -> str:
    return (
        f'<image><member id="42">M</member><timestamp>2026-10-24T15:00:00Z</timestamp><id>{number}</id><fingerprints>'
        f"<md5>{secrets.token_hex(16)}</md5><pdq>{value}</pdq></fingerprints></image>\n"
    )


def _fill(stopframe: CommandLine, name: str, count: int) -> Path:
    bank_dir = stopframe.folder / "state" / "banks" / name
    bank_dir.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    add_entries(
        bank_dir,
        rng.integers(0, 256, (count, 32), dtype=np.uint8),
        [f"clip {number // 3}" for number in range(count)],
        [list(Opinion)[number % 4] for number in range(count)],
        positions_ms=(np.arange(count) % 7 - 1).astype(np.int32),
    )
    return bank_dir


def test_a_list_adds_changes_and_takes_back(stopframe: CommandLine) -> None:
    """One import tells what came, what went, what was bad and what nothing here matches; a withdrawn entry is gone."""
    hashes = [secrets.token_hex(32) for _ in range(3)]
    first = "".join(_image(number, value) for number, value in enumerate(hashes))
    gone = '<deletedImage><member id="42"/><id>1</id></deletedImage>'
    second = _image(0, hashes[0]) + gone + _image(7, secrets.token_hex(32)) + _image(8, "f8f8") + "<image><id>"
    (stopframe.folder / "first.xml").write_text(_NCMEC.format(first))
    (stopframe.folder / "second.xml").write_text(_NCMEC.format(second))

    runs = [stopframe("hashes", "import", "LIST", f"{name}.xml", "--format", "ncmec") for name in ("first", "second")]

    assert [run.code for run in runs] == [0, 0], runs
    assert "bank LIST: 3 hashes added\n" in runs[0].err
    assert "bank LIST: 1 hash added, 1 hash withdrawn, 1 hash was there already\n" in runs[1].err
    assert "second.xml: 2 bad rows were passed over, the first in line 5: record 4: a pdq hash has 64" in runs[1].err
    assert "left out, since nothing here matches them: 3 of md5" in runs[1].err
    names = [line["entry"] for line in stopframe("hashes", "list", "LIST", "--json").lines]
    assert sorted(names) == ["42-0", "42-2", "42-7"]


def test_what_a_format_cannot_carry_is_told(stopframe: CommandLine) -> None:
    """An export says how many hashes it leaves out, and one that carries all says nothing."""
    _fill(stopframe, "CLIPS", 60)

    whole = stopframe("hashes", "export", "CLIPS", "--format", "csv", "-o", "clips.csv")
    part = stopframe("hashes", "export", "CLIPS", "--format", "tat", "-o", "clips.json")

    assert (whole.code, whole.err) == (0, "")
    assert part.err.startswith("45 of the 60 hashes of bank CLIPS are left out: format tat cannot carry them")
    assert len((stopframe.folder / "clips.csv").read_bytes().splitlines()) == 61


def test_a_bar_on_a_terminal_goes_by_the_bytes(stopframe: CommandLine) -> None:
    """Who waits in front of a terminal sees how much of the file is read; a pipe gets no such thing."""
    (stopframe.folder / "long.txt").write_text("".join(f"{secrets.token_hex(32)}\n" for _ in range(50_000)))
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        stopframe.command("hashes", "import", "LONG", "long.txt"),
        cwd=stopframe.folder,
        env={**stopframe.environment(), "COLUMNS": "120", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(controller, 65_536)
            except OSError:
                break
    os.close(controller)
    assert process.returncode == 0
    assert b"read long.txt" in shown
    assert b"/3.2 MB" in shown
    assert b"50,000 hashes added" in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_import_that_is_killed_is_done_or_not(stopframe: CommandLine) -> None:
    """SIGKILL at any moment of the command leaves the bank as it was or as it is to be; once more completes it."""
    bank_dir = _fill(stopframe, "LIST", 21_000)
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 256, (30_000, 32), dtype=np.uint8)
    lines = [f"pdq,{row.tobytes().hex()},new {number},positive" for number, row in enumerate(rows)]
    lines += [f",,clip {number},withdrawn" for number in range(0, 7_000, 2)]
    (stopframe.folder / "more.csv").write_text("signal,hash,entry,opinion\n" + "\n".join(lines) + "\n")
    words = ("hashes", "import", "LIST", "--format", "csv", "more.csv")
    before, after = 21_000, 21_000 + 30_000 - 3_500 * 3
    began = time.monotonic()
    stopframe("hashes", "import", "OTHER", "--format", "csv", "more.csv")
    whole = time.monotonic() - began
    moments = random.Random(11)
    for _ in range(20):
        process = stopframe.start(*words)
        time.sleep(moments.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        loaded = load_bank(bank_dir).rows("pdq")
        assert loaded is not None
        assert bank_stats(bank_dir).rows["pdq"] == len(loaded)
        assert len(loaded) in (before, after)

    assert stopframe(*words).code == 0
    assert bank_stats(bank_dir).rows["pdq"] == after

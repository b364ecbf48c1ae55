"""List files of strangers: none takes a reader down or makes it swell, and no kill leaves half a list in force."""

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detector.banks.intake import take_in
from models.bank_store import add_entries, load_bank
from models.lists.contents import ListContents, PageFormat, PageUnreadable
from models.lists.registry import FORMATS
from tests.hostile.list_mutations import damaged, seeds

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0
"""CPU for one file of at most some 300 KB, which takes milliseconds."""


def _survives(name: str, numbers: range, folder: Path) -> int:
    """Read damaged files; gives how many rows were believed. Nothing but what the contract names may be raised."""
    form, valid, rows = FORMATS[name], seeds(), 0
    path = folder / "damaged"
    for number in numbers:
        content = damaged(name, number, valid)
        path.write_bytes(content)
        began = time.process_time()
        contents = form.read(path)
        _hold(contents, f"{name} {number}")
        rows += len(contents)
        if isinstance(form, PageFormat):
            with contextlib.suppress(PageUnreadable):
                _hold(form.parse(content).contents, f"page {name} {number}")
        assert time.process_time() - began < SECONDS, f"{name} {number}"
    return rows


def _hold(contents: ListContents, which: str) -> None:
    """What was read fits itself, and a bank would take it."""
    for signal_name, rows in contents.rows.items():
        names = rows.entry_names("damaged")
        assert len(names) == len(rows) == len(rows.line_numbers) > 0, which
        assert all(name.isprintable() and name for name in names), which
        assert rows.hashes.shape[1] == {"pdq": 32}.get(signal_name, 8), which
    assert all(name.isprintable() and name for name in contents.withdrawn), which
    assert (contents.bad.count > 0) == bool(contents.bad.first_reason), which
    assert contents.bad.first_reason.isprintable(), which
    assert all(kind.isprintable() and count > 0 for kind, count in contents.left_out.items()), which


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_damaged_lists_are_survived(name: str, tmp_path: Path) -> None:
    """Two hundred damaged files of each format; `make slow` runs five thousand."""
    assert _survives(name, range(200), tmp_path) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_five_thousand_damaged_lists_are_survived(name: str, tmp_path: Path) -> None:
    """The whole of it."""
    assert _survives(name, range(5_000), tmp_path) > 0


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("threatexchange", b'{"data":['),
        ("threatexchange", b'{"a":[{"'),
        ("tat", b'{"id":"\\"'),
        ("ncmec", b"<image>"),
        ("ncmec", b"<image><![CDATA["),
        ("ncmec", b"<images a='"),
        ("ncmec", b"<a><image "),
        ("csv", b'"\n'),
        ("vpdq", b"[["),
    ],
)
def test_a_bomb_costs_no_more_than_a_long_file(name: str, unit: bytes, tmp_path: Path) -> None:
    """A quarter of a megabyte of what has no end is read in a moment, and nothing of it is believed."""
    path = tmp_path / "bomb"
    path.write_bytes(unit * ((1 << 18) // len(unit)))
    began = time.process_time()
    contents = FORMATS[name].read(path)

    assert time.process_time() - began < SECONDS
    assert (len(contents), contents.bad.count > 0) == (0, True)


_MEASURED = """
import resource, sys
from pathlib import Path
from models.lists.registry import FORMATS
form = FORMATS[sys.argv[1]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
contents = form.read(Path(sys.argv[2]))
print(len(contents), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ncmec", b'<?xml version="1.0"?><queryResult><images a="'),
        ("threatexchange", b'{"data": [{"id": "'),
        ("csv", b'hash\n"'),
    ],
)
def test_what_has_no_end_is_not_held(name: str, content: bytes, tmp_path: Path) -> None:
    """A value of 64 MB that is never closed takes some megabytes of memory."""
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.write(content)
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, name, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows, kilobytes = map(int, run.stdout.split())

    assert rows == 0
    assert kilobytes < 24 << 10


_IMPORT = """
import sys
from pathlib import Path
from detector.banks.intake import take_in
from models.lists.registry import FORMATS
print("ready", flush=True)
path = Path(sys.argv[1])
take_in(Path(sys.argv[2]), FORMATS["csv"].read(path), stem="more")
"""


def test_a_killed_intake_is_done_or_not(tmp_path: Path) -> None:
    """SIGKILL at random moments of an import leaves the bank as it was or as it is to be; once more completes it."""
    bank_dir = tmp_path / "banks" / "LIST"
    bank_dir.parent.mkdir()
    rng = np.random.default_rng(5)
    old = [f"clip {number}" for number in range(21_000)]
    add_entries(bank_dir, rng.integers(0, 256, (21_000, 32), dtype=np.uint8), old)
    fresh = rng.integers(0, 256, (10_000, 32), dtype=np.uint8)
    lines = [f"{row.tobytes().hex()},new {number},positive" for number, row in enumerate(fresh)]
    lines += [f",clip {number},withdrawn" for number in range(0, 7_000, 2)]
    path = tmp_path / "more.csv"
    path.write_text("hash,entry,opinion\n" + "\n".join(lines) + "\n")
    before, after = 21_000, 21_000 + 10_000 - 3_500
    began = time.monotonic()
    take_in(tmp_path / "banks" / "OTHER", FORMATS["csv"].read(path), stem="more")
    whole = time.monotonic() - began
    moments = random.Random(11)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _IMPORT, str(path), str(bank_dir)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0, 1.5) * whole)
            process.send_signal(signal.SIGKILL)
        rows = load_bank(bank_dir).rows("pdq")
        assert rows is not None
        assert len(rows) in (before, after)

    take_in(bank_dir, FORMATS["csv"].read(path), stem="more")
    rows = load_bank(bank_dir).rows("pdq")
    assert rows is not None
    assert len(rows) == after
    assert len(rows.names.find("clip 0")) == 0
    assert take_in(bank_dir, FORMATS["csv"].read(path), stem="more").known == 10_000

"""What every list format promises, shipped or installed."""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.bank_rows import OPINION_CODES
from models.evidence import Opinion
from models.hashing.registry import hash_algorithms
from models.lists.contents import ListContents, ListedRows, ListFormat, PageFormat, PageUnreadable, StreamFormat
from models.lists.registry import FORMATS as SHIPPED
from models.lists.registry import list_formats

FORMATS = list_formats()
SIGNALS = hash_algorithms()

OUTSIDE = """
import numpy as np
from models.lists.contents import BadRows, ListContents, ListedRows

class Words:
    name = "words"

    def read(self, path, *, signal="pdq"):
        lines = path.read_text().splitlines()
        good = [(number, line) for number, line in enumerate(lines, 1) if len(line) == 64]
        hashes = np.frombuffer(bytes.fromhex("".join(line for _, line in good)), np.uint8).reshape(-1, 32)
        rows = ListedRows(hashes, np.array([number for number, _ in good]))
        return ListContents({"pdq": rows}, BadRows(len(lines) - len(good), 1, "too short"))

    def write(self, file, contents):
        rows = contents.rows["pdq"]
        file.write("".join(f"{row.tobytes().hex()}\\n" for row in rows.hashes).encode())
        return len(rows)

WORDS = Words()
"""


@pytest.fixture(params=sorted(FORMATS))
def form(request: pytest.FixtureRequest) -> ListFormat:
    """Each registered format in turn."""
    return FORMATS[request.param]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ListFormat]:
    """The format of a package that is installed beside this one."""
    (tmp_path / "strange_words.py").write_text(OUTSIDE)
    folder = tmp_path / "strange_words-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-words\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[stopframe.lists]\nwords = strange_words:WORDS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield list_formats()["words"]
    sys.modules.pop("strange_words", None)


def test_it_is_registered_under_its_own_name(form: ListFormat) -> None:
    """The word for `--format` is the format's name."""
    assert FORMATS[form.name] is form


@pytest.mark.parametrize("signal", sorted(SIGNALS))
@pytest.mark.parametrize("count", [1, 2, 500])
def test_what_it_writes_it_reads(form: ListFormat, tmp_path: Path, signal: str, count: int) -> None:
    """What a format carries of a signal type comes back row for row; what it does not carry it does not write."""
    rows = np.random.default_rng(count).integers(0, 256, (count, SIGNALS[signal].bits // 8), dtype=np.uint8)
    file = io.BytesIO()
    listed = ListedRows(rows, np.arange(1, count + 1), positions_ms=np.arange(count, dtype=np.int32))
    written = form.write(file, ListContents({signal: listed}))
    (tmp_path / "list").write_bytes(file.getvalue())
    contents = form.read(tmp_path / "list", signal=signal)

    assert written == count if signal == "pdq" else written in (0, count)
    assert (contents.bad.count, list(contents.rows)) == (0, [signal] if written else [])
    if written:
        assert np.array_equal(rows, contents.rows[signal].hashes)
        assert 1 <= len(set(contents.rows[signal].entry_names("stem"))) <= count


def test_writing_what_was_read_gives_the_same_file(form: ListFormat, tmp_path: Path) -> None:
    """Whatever a format carries of a list of all there is, it carries whole: nothing is lost on the second way."""
    rng = np.random.default_rng(7)
    count = 60
    listed = ListedRows(
        rng.integers(0, 256, (count, 32), dtype=np.uint8),
        np.arange(1, count + 1),
        [f'{"42-" if number % 2 else ""}näme, "{number % 20}" <&> ]]' for number in range(count)],
        rng.integers(0, len(OPINION_CODES), count).astype(np.uint8),
        rng.integers(-1, 1 << 30, count).astype(np.int32),
        rng.integers(0, 2, count).astype(np.bool_),
        np.arange(0, count, 3, dtype=np.uint32),
        rng.integers(0, 256, (20, 64), dtype=np.uint8),
    )
    contents = ListContents({"pdq": listed}, withdrawn=["43-gone", "ImagePDQ:" + "0" * 64], as_of_seconds=1.7e9)
    first, second = io.BytesIO(), io.BytesIO()
    written = form.write(first, contents)
    (tmp_path / "list").write_bytes(first.getvalue())
    read = form.read(tmp_path / "list")

    assert 0 < written == len(read)
    assert (read.bad.count, read.left_out) == (0, {})
    assert form.write(second, read) == written
    assert second.getvalue() == first.getvalue()


def test_an_empty_list_is_a_list(form: ListFormat, tmp_path: Path) -> None:
    """No rows are no error."""
    file = io.BytesIO()
    assert form.write(file, ListContents()) == 0
    (tmp_path / "list").write_bytes(file.getvalue())
    contents = form.read(tmp_path / "list")

    assert (len(contents), contents.bad.count) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_bytes_of_any_kind_are_counted_as_bad(form: ListFormat, tmp_path: Path, seed: int) -> None:
    """A file of random bytes is read to its end: bad rows are counted, none is believed."""
    (tmp_path / "list").write_bytes(np.random.default_rng(seed).bytes(100_000))
    contents = form.read(tmp_path / "list")

    assert len(contents) == 0
    assert contents.bad.count > 0
    assert contents.bad.first_line_number > 0
    assert contents.bad.first_reason


def test_a_missing_file_is_an_os_error(form: ListFormat, tmp_path: Path) -> None:
    """The caller hears of a file that is not there."""
    with pytest.raises(OSError, match="none"):
        form.read(tmp_path / "none")


def test_an_open_file_is_read_as_its_path_is(form: ListFormat, tmp_path: Path) -> None:
    """A format that reads open files finds in them what `read` finds."""
    assert isinstance(form, StreamFormat) == (form.name in SHIPPED)
    if not isinstance(form, StreamFormat):
        return
    hashes = np.arange(320, dtype=np.uint8).reshape(10, 32)
    rows = ListedRows(hashes, np.arange(10), positions_ms=np.arange(10, dtype=np.int32))
    file = io.BytesIO()
    form.write(file, ListContents({"pdq": rows}))
    (tmp_path / "list").write_bytes(file.getvalue())

    read = form.read_file(io.BytesIO(file.getvalue()), tmp_path / "list")
    assert np.array_equal(read.rows["pdq"].hashes, form.read(tmp_path / "list").rows["pdq"].hashes)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if isinstance(form, PageFormat)])
def test_a_page_is_read_whole_or_not_at_all(name: str) -> None:
    """One page gives what the file gives; cut short anywhere it is no page, so that nothing is taken for the end."""
    form = FORMATS[name]
    assert isinstance(form, PageFormat)
    rows = ListedRows(np.arange(96, dtype=np.uint8).reshape(3, 32), np.arange(3), ["1-a", "2-b", "2-c"])
    file = io.BytesIO()
    form.write(file, ListContents({"pdq": rows}, withdrawn=["9-z", "ImagePDQ:" + "1" * 64]))
    body = file.getvalue().strip()
    page = form.parse(body)

    assert (len(page.contents), page.contents.bad.count, page.contents.is_whole) == (3, 0, True)
    assert page.contents.withdrawn
    for end in range(0, len(body), 7):
        with pytest.raises(PageUnreadable):
            form.parse(body[:end])


def test_a_format_of_another_package_is_one(outside: ListFormat, tmp_path: Path) -> None:
    """A package outside the tree gives a format by its entry point alone; it needs no column but the hashes."""
    rows = np.random.default_rng(1).integers(0, 256, (5, 32), dtype=np.uint8)
    with (tmp_path / "list").open("wb") as file:
        assert outside.write(file, ListContents({"pdq": ListedRows(rows, np.arange(5))})) == 5
    contents = outside.read(tmp_path / "list")

    assert np.array_equal(contents.rows["pdq"].hashes, rows)
    assert list(contents.rows["pdq"].entry_names("list"))[:2] == ["list:1", "list:2"]
    assert set(contents.rows["pdq"].dense_opinions().tolist()) == {OPINION_CODES.index(Opinion.POSITIVE)}

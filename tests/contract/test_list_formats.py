"""What every list format promises, shipped or installed."""

import io
from pathlib import Path

import numpy as np
import pytest

from models.hashing.registry import hash_algorithms
from models.lists.contents import ListContents, ListedRows, ListFormat
from models.lists.registry import list_formats

FORMATS = list_formats()
SIGNALS = hash_algorithms()


@pytest.fixture(params=sorted(FORMATS))
def form(request: pytest.FixtureRequest) -> ListFormat:
    """Each registered format in turn."""
    return FORMATS[request.param]


def test_it_is_registered_under_its_own_name(form: ListFormat) -> None:
    """The word for `--format` is the format's name."""
    assert FORMATS[form.name] is form


@pytest.mark.parametrize("signal", sorted(SIGNALS))
@pytest.mark.parametrize("count", [1, 2, 500])
def test_what_it_writes_it_reads(form: ListFormat, tmp_path: Path, signal: str, count: int) -> None:
    """Every signal type goes out and comes back, row for row."""
    rows = np.random.default_rng(count).integers(0, 256, (count, SIGNALS[signal].bits // 8), dtype=np.uint8)
    file = io.BytesIO()
    listed = ListedRows(rows, np.arange(1, count + 1))
    assert form.write(file, ListContents({signal: listed})) == count
    (tmp_path / "list").write_bytes(file.getvalue())
    contents = form.read(tmp_path / "list", signal=signal)

    assert (contents.bad.count, list(contents.rows)) == (0, [signal])
    assert np.array_equal(rows, contents.rows[signal].hashes)
    assert len(set(contents.rows[signal].entry_names("stem"))) == count


def test_an_empty_list_is_a_list(form: ListFormat, tmp_path: Path) -> None:
    """No rows are no error."""
    file = io.BytesIO()
    form.write(file, ListContents())
    (tmp_path / "list").write_bytes(file.getvalue())

    assert len(form.read(tmp_path / "list")) == 0


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

"""Plain lists: what people write is read, what is bad is counted, and nothing makes the reader swell or fall."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.lists.contents import ListContents, ListedRows, ListTooLong
from models.lists.plain import PlainList

_PDQ = "0123456789abcdef" * 4
_SHORT = "00ff00ff00ff00ff"


def _read(tmp_path: Path, content: bytes, signal: str = "pdq") -> ListContents:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    return PlainList().read(path, signal=signal)


@pytest.mark.parametrize(
    "line",
    [_PDQ, f"pdq {_PDQ}", f"PDQ {_PDQ.upper()}", f"  pdq\t{_PDQ}  ", f"{_PDQ} # a note", f"{_PDQ}\r", f"\ufeff{_PDQ}"],
)
def test_a_hash_is_read_however_it_is_written(tmp_path: Path, line: str) -> None:
    """Case, spaces, notes, CRLF, a byte order mark and a leading type make no difference."""
    contents = _read(tmp_path, (line + "\n").encode())

    assert [row.tobytes().hex() for row in contents.rows["pdq"].hashes] == [_PDQ]
    assert contents.bad.count == 0


def test_rows_keep_their_line_numbers(tmp_path: Path) -> None:
    """Blank lines and notes count as lines, so that an entry's name leads back to its place in the file."""
    contents = _read(tmp_path, f"# head\r\n\r\n{_PDQ}\r\nphash {_SHORT}\r\n\n{_PDQ}".encode())

    assert list(contents.rows["pdq"].entry_names("cards")) == ["cards:3", "cards:6"]
    assert list(contents.rows["phash"].entry_names("cards")) == ["cards:4"]
    assert (len(contents), contents.bad.count) == (3, 0)


def test_a_lone_hash_takes_the_callers_type(tmp_path: Path) -> None:
    """A 64-bit hash without its type is read as what the caller says it is, and is bad where that does not fit."""
    assert len(_read(tmp_path, _SHORT.encode(), "dhash").rows["dhash"]) == 1
    assert _read(tmp_path, _SHORT.encode()).bad.first_reason == "a pdq hash has 64 hexadecimal digits, not 16"


def test_hashes_of_files_are_counted_and_not_bad(tmp_path: Path) -> None:
    """Lists carry MD5 beside PDQ; no stream has one, so they are left out by kind, and every other line counts."""
    contents = _read(tmp_path, f"video_md5 {'00' * 16}\npdq {_PDQ}\nvideo_md5 {'01' * 16}\nsha1 {'0f' * 20}\n".encode())

    assert len(contents) == 1
    assert contents.bad.count == 0
    assert contents.left_out == {"video_md5": 2, "sha1": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("video_md5 clip.mp4", "the signal type 'video_md5' is none of"),
        ("md5: " + "00" * 16, "the signal type 'md5:' is none of"),
        (_PDQ[:-1], "no hexadecimal number"),
        (_PDQ[:-1] + "g", "no hexadecimal number"),
        (_PDQ + "00", "not 66"),
        (f"pdq {_PDQ} extra", "3 words"),
        ("a" * 10_000, "longer than 4096 bytes"),
        ("\x00\xff\udc80", "no hexadecimal number"),
    ],
)
def test_bad_rows_are_counted_with_the_first_place_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    """A bad row costs itself alone; the report names the first one's line and fault."""
    content = f"{_PDQ}\n{line}\n{_PDQ}\nworse".encode(errors="surrogateescape")
    contents = _read(tmp_path, content)

    assert (len(contents), contents.bad.count) == (2, 2)
    assert contents.bad.first_line_number == 2
    assert reason in contents.bad.first_reason


def test_a_strangers_text_is_cut_in_the_report(tmp_path: Path) -> None:
    """The reason repeats little of a bad row, and nothing that a terminal would obey."""
    reason = _read(tmp_path, b"\x1b[31m" + b"x" * 3000).bad.first_reason

    assert len(reason) < 100
    assert "\x1b" not in reason


def test_endless_lines_are_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    """A line of many megabytes is one bad row, the next row is read, and long notes are notes."""
    path = tmp_path / "long.txt"
    with path.open("wb") as file:
        file.write(b"a" * (32 << 20) + b"\n" + _PDQ.encode() + b"\n#" + b" note" * 5000 + b"\n" + _PDQ.encode())
    contents = PlainList().read(path)

    assert contents.rows["pdq"].line_numbers.tolist() == [2, 4]
    assert (contents.bad.count, contents.bad.first_line_number) == (1, 1)


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    """A list beyond the limit is refused with the remedy, not half read."""
    path = tmp_path / "many.txt"
    path.write_text(f"{_PDQ}\n" * 11)

    with pytest.raises(ListTooLong, match="split it into several files"):
        PlainList(most_rows=10).read(path)
    assert len(PlainList(most_rows=11).read(path)) == 11


def test_an_unknown_type_of_the_caller_is_refused(tmp_path: Path) -> None:
    """A caller that names no hash algorithm hears which there are."""
    with pytest.raises(ValueError, match="known are pdq, phash"):
        _read(tmp_path, b"", "md5")


@given(st.lists(st.binary(min_size=32, max_size=32)))
@settings(max_examples=50, deadline=None)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]) -> None:
    """An export is an import of the same rows in the same order."""
    file = io.BytesIO()
    listed = {"pdq": ListedRows(np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32), np.arange(len(rows)))}
    assert PlainList().write(file, ListContents(listed)) == len(rows)
    contents = _read(tmp_path_factory.mktemp("lists"), file.getvalue())

    found = contents.rows["pdq"].hashes if rows else np.zeros((0, 32), np.uint8)
    assert rows == [row.tobytes() for row in found]


@given(
    st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([_PDQ.encode(), b"pdq " + _PDQ.encode(), b"#", b""])))
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    """Whatever the bytes, every line is a row, a bad row or nothing, and well-formed rows are never lost."""
    content = b"\n".join(lines)
    contents = _read(tmp_path_factory.mktemp("lists"), content)

    well_formed = sum(line in {_PDQ.encode(), b"pdq " + _PDQ.encode()} for line in content.split(b"\n"))
    assert well_formed <= len(contents) <= len(contents) + contents.bad.count <= content.count(b"\n") + 1

"""What banks raise, as the command line says it."""

import errno

import pytest

from detector.cli.banks import bank_faults
from detector.cli.output import CommandFailed, counted


def test_what_takes_long_is_told_where_no_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cron job's log says how far a folder of thousands is, and nothing of a few."""
    with counted("hash", 2000) as tell:
        tell()
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("detector.cli.output.NEWS_SECONDS", 0.0)
        tell()
        assert capsys.readouterr().err == "hash: 2 of 2,000\n"


def test_a_reader_that_left_is_no_fault_of_a_file() -> None:
    """`hashes export BANK | head` says nothing; a full disk says what to do."""
    with pytest.raises(BrokenPipeError), bank_faults():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(CommandFailed, match="free space"), bank_faults():
        raise OSError(errno.ENOSPC, "No space left on device")

"""What banks raise, as the command line says it."""

import errno
from pathlib import Path

import pytest

from detector.cli.banks import bank_faults
from detector.cli.options import note_owner
from detector.cli.output import CommandFailed, counted


def test_root_beside_a_service_of_another_user_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bank or a key that root makes may be closed to the service; nobody else is told, nor root of its own folder."""
    for user, owner, is_told in ((0, 4242, True), (4242, 4242, False), (0, 0, False), (0, None, False)):
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        monkeypatch.setattr("detector.cli.options._owner", lambda _, owner=owner: owner)
        note_owner(tmp_path)
        assert ("belongs to" in capsys.readouterr().err) is is_told


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

"""What banks raise, as the command line says it."""

import errno

import pytest

from detector.cli.banks import bank_faults
from detector.cli.output import CommandFailed


def test_a_reader_that_left_is_no_fault_of_a_file() -> None:
    """`hashes export BANK | head` says nothing; a full disk says what to do."""
    with pytest.raises(BrokenPipeError), bank_faults():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(CommandFailed, match="free space"), bank_faults():
        raise OSError(errno.ENOSPC, "No space left on device")

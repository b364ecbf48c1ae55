"""What people say of single entries at the command line: disabled, noted, confirmed, disputed, released."""

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from detector.analysis.setup import BANKS_FOLDER
from detector.cli.main import app
from detector.cli.output import CommandFailed
from models.bank_store import add_entries, annotate, load_bank, notes
from models.evidence import Opinion

pytestmark = pytest.mark.integration

LATER = "2999-01-31T18:00:00Z"


class Shell:
    """Runs `stopframe hashes` in this process, on a bank CARDS with the entries one and two."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "stopframe.yaml"
        self.config.write_text(f"state_dir: {folder / 'state'}\n")
        self.bank = folder / "state" / BANKS_FOLDER / "CARDS"
        rows = np.frombuffer(secrets.token_bytes(3 * 32), np.uint8).reshape(3, 32)
        add_entries(
            self.bank,
            rows,
            ["one", "one", "two"],
            seconds=np.frombuffer(secrets.token_bytes(3 * 64), np.uint8).reshape(3, 64),
            has_second=np.array([True, False, True]),
            positions_ms=np.array([500, 1000, -1], np.int32),
            is_window=np.array([False, True, False]),
        )

    def __call__(self, *words: str) -> str:
        """Run a command that succeeds; gives what it says."""
        done = CliRunner().invoke(app, ["hashes", *words, "-c", str(self.config)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def fault(self, *words: str) -> str:
        """Run a command that is refused; gives the sentence."""
        with pytest.raises(CommandFailed) as refused:
            CliRunner().invoke(app, ["hashes", *words, "-c", str(self.config)], catch_exceptions=False)
        assert refused.value.exit_code == 2
        assert len(str(refused.value).splitlines()) == 1
        return str(refused.value)

    def entries(self) -> dict[str, dict[str, Any]]:
        """What `hashes list` says of each."""
        rows = [json.loads(line) for line in self("list", "CARDS", "--json").splitlines()]
        return {row["entry"]: row for row in rows}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell of the test's own."""
    return Shell(tmp_path)


def test_an_entry_is_disabled_for_a_while_and_enabled(shell: Shell) -> None:
    """Its end is kept and shown; enabling takes it back."""
    assert f"one matches nothing until {LATER}" in shell("disable", "CARDS", "one", "--until", LATER)
    assert shell.entries()["one"]["disabled_until"] == LATER
    assert f"disabled until {LATER}" in shell("list", "CARDS")
    assert load_bank(shell.bank).is_disabled("one", 1.0)

    assert "one matches again" in shell("enable", "CARDS", "one")
    assert "one was not disabled" in shell("enable", "CARDS", "one")
    assert "disabled_until" not in shell.entries()["one"]


def test_an_entry_is_disabled_for_a_time_or_for_good(shell: Shell) -> None:
    """`--for` counts from now; without an end it stays so."""
    shell("disable", "CARDS", "one", "--for", "12h")
    assert "until it is enabled" in shell("disable", "CARDS", "two")

    until = notes(shell.bank)["one"].disabled_until_seconds
    assert until is not None
    bank = load_bank(shell.bank)
    assert bank.is_disabled("one", until - 1)
    assert not bank.is_disabled("one", until + 1)
    assert bank.is_disabled("two", 1e12)
    assert shell.entries()["two"]["disabled_until"] is None


def test_a_note_is_kept_and_removed(shell: Shell) -> None:
    """A remark stands beside its entry in the list."""
    shell("note", "CARDS", "two", "reported twice, ticket 17")
    assert shell.entries()["two"]["note"] == "reported twice, ticket 17"
    shell("note", "CARDS", "two", "")
    assert "note" not in shell.entries()["two"]


def test_a_deconfirmed_entry_is_disputed_until_it_is_confirmed(shell: Shell) -> None:
    """Objections count and make all rows disputed, with everything else of them kept; a confirmation takes it back."""
    before = load_bank(shell.bank).rows("pdq")
    assert before is not None

    assert "it may ask for reviews" in shell("deconfirm", "CARDS", "one")

    one = shell.entries()["one"]
    assert (one["opinions"], one["objections"], one["confirmations"]) == (["disputed"], 1, 0)
    assert shell.entries()["two"]["opinions"] == ["positive"]
    assert "it is no longer disputed" in shell("confirm", "CARDS", "one")
    one = shell.entries()["one"]
    assert (one["opinions"], one["objections"], one["confirmations"]) == (["positive"], 1, 1)
    after = load_bank(shell.bank).rows("pdq")
    assert after is not None
    assert _facts(after) == _facts(before)


def test_a_negative_entry_is_none_the_less_negative(shell: Shell) -> None:
    """Whoever disputes or confirms changes positive and disputed rows alone."""
    rows = np.frombuffer(secrets.token_bytes(32), np.uint8)[None]
    add_entries(shell.bank, rows, ["harmless"], Opinion.NEGATIVE)
    shell("deconfirm", "CARDS", "harmless")
    shell("confirm", "CARDS", "harmless")
    assert shell.entries()["harmless"]["opinions"] == ["negative"]


@pytest.mark.parametrize("word", ["confirm", "release"])
def test_a_quarantined_entry_is_released(shell: Shell, word: str) -> None:
    """Both end the quarantine; only a confirmation counts as one."""
    annotate(shell.bank, "one", lambda noted: replace(noted, quarantined=True))
    assert shell.entries()["one"]["quarantined"] is True
    assert "quarantine" in shell("list", "CARDS")
    assert json.loads(shell("stats", "--json"))["quarantined"] == 1

    assert "released from quarantine" in shell(word, "CARDS", "one")

    one = shell.entries()["one"]
    assert "quarantined" not in one
    assert one.get("confirmations", 0) == (word == "confirm")
    assert "was not in quarantine" in shell("release", "CARDS", "one")


def test_stats_show_limits_and_what_they_cost(shell: Shell) -> None:
    """For each bank the bits by which one frame may act, and the false matches to expect a day."""
    found = json.loads(shell("stats", "--json"))
    assert found["limits"] == {"plain": 31, "share": 56, "second_hash": 64, "review": 64}
    assert (found["held_to"], found["kind"]) == (None, "positive")
    assert 0 < found["false_matches_per_day"] < 1
    assert "31/56/64" in shell("stats")


def test_stats_and_import_tell_of_a_list_that_is_too_long(shell: Shell, tmp_path: Path) -> None:
    """Beyond the budget the limit that is held to is shown, and who adds to the list is told at once."""
    shell.config.write_text(shell.config.read_text() + "matching: {false_matches_per_day: 0.001}\n")
    (tmp_path / "more.txt").write_text(secrets.token_hex(32))

    told = shell("import", "CARDS", str(tmp_path / "more.txt"))

    assert "bank CARDS is too long for its limits: 4 rows x 40 views" in told
    assert 0 < json.loads(shell("stats", "--json"))["held_to"] < 64


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("disable", "CARDS", "one", "--until", "2020-01-31"), "--until 2020-01-31 has passed; give a time to come"),
        (("disable", "CARDS", "one", "--until", "tomorrow"), "is no time; write a day such as 2027-01-31"),
        (("disable", "CARDS", "one", "--for", "soon"), "is no duration"),
        (("disable", "CARDS", "one", "--for", "0s"), "--for 0s ends at once"),
        (("disable", "CARDS", "one", "--for", "1h", "--until", LATER), "give one of them"),
        (("disable", "CARDS", "three"), "no entry 'three'"),
        (("enable", "cards", "one"), "is no bank name"),
        (("note", "MISSING", "one", "x"), "there is no bank MISSING"),
        (("note", "CARDS", "one", "x" * 300), "up to 255"),
        (("note", "CARDS", "one", "\x1b[2J"), "printable"),
        (("confirm", "CARDS", "three"), "no entry 'three'"),
        (("deconfirm", "CARDS", "three"), "no entry 'three'"),
        (("release", "CARDS", ""), "no entry ''"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(shell: Shell, words: tuple[str, ...], sentence: str) -> None:
    """Wrong names, unknown entries and times that have passed are refused, and nothing changes."""
    before = shell.entries()
    assert sentence in shell.fault(*words)
    assert shell.entries() == before


def _facts(rows: Any) -> set[tuple[bytes, str, int, bool, bytes]]:
    seconds = {int(row): rows.seconds[place].tobytes() for place, row in enumerate(rows.second_rows)}
    return {
        (
            rows.hashes[number].tobytes(),
            rows.names[number],
            int(rows.positions_ms[number]),
            bool(rows.is_window[number]),
            seconds.get(number, b""),
        )
        for number in range(len(rows))
    }

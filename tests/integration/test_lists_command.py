"""`stopframe lists`: what it shows, has now, accepts and signs, and the sentences where it cannot."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.cli.main import app
from tests.exchange_servers import made_up

pytestmark = pytest.mark.integration


class Desk:
    """A folder with a config that names one own list, the key that signs it, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key"
        made = self.run("keys", "new", str(self.key), with_config=False)
        public = next(word.strip('",') for word in made.stdout.split() if "ed25519:" in word)
        (folder / "stopframe.yaml").write_text(
            "state_dir: state\n"
            "exchanges: [{name: own, kind: file, bank: OWN, path: own.txt.manifest.json}]\n"
            f"trust: {{trusted_keys: [{{name: me, public_key: '{public}', may: [list]}}]}}\n"
        )

    def run(self, *words: str, with_config: bool = True) -> Result:
        config = {"STOPFRAME_CONFIG": str(self.folder / "stopframe.yaml")} if with_config else {}
        return CliRunner().invoke(app, words, env=config, catch_exceptions=True)

    def sign(self, count: int, *more: str) -> Result:
        path = self.folder / "own.txt"
        path.write_text("".join(f"{row.tobytes().hex()}\n" for row in made_up(count)))
        return self.run("lists", "sign", str(path), "--key", str(self.key), "--name", "own", *more)

    def why(self, *words: str) -> str:
        """The sentence of a command that fails."""
        result = self.run(*words)
        assert result.exit_code not in (None, 0)
        return str(result.exception) + result.output


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_own_list_is_signed_had_and_shown(desk: Desk) -> None:
    """Signed with a key that the config trusts it fills its bank; the table says rows, version and the last try."""
    before = desk.run("lists")
    assert (before.exit_code, "never had" in before.output) == (1, True)
    signed = desk.sign(300, "--version", "7")
    assert (signed.exit_code, "300 hashes" in signed.output) == (0, True), signed.output
    had = desk.run("lists", "sync", "own")
    assert (had.exit_code, "bank OWN: 300 hashes of own, version 7\n" in had.output) == (0, True), had.output
    shown = desk.run("lists")
    assert shown.exit_code == 0
    assert "own   file  OWN   300   7" in shown.output
    row = json.loads(desk.run("lists", "--json").stdout)
    assert (row["list"], row["rows"], row["version"], row["last"], row["is_stale"]) == (
        "own",
        300,
        "7",
        "synced",
        False,
    )


def test_what_was_refused_is_accepted_by_hand(desk: Desk) -> None:
    """A list that changes too much exits 1 with the remedy, and that remedy takes it over."""
    desk.sign(2000, "--version", "1")
    assert desk.run("lists", "sync", "own").exit_code == 0
    assert "nothing of own waits to be accepted" in desk.why("lists", "accept", "own")
    gone = desk.run("hashes", "remove", "OWN", made_up(1)[0].tobytes().hex())
    assert (gone.exit_code, "filled by the list own, which may undo this" in gone.output) == (0, True), gone.output
    desk.sign(2500, "--version", "2")
    assert "'stopframe lists accept own'" in desk.why("lists", "sync", "own")
    assert desk.run("lists").exit_code == 1
    accepted = desk.run("lists", "accept", "own")
    assert (accepted.exit_code, "2,500 hashes" in accepted.output) == (0, True), accepted.output
    assert desk.run("lists").exit_code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("lists", "sync", "other"), "there is no list 'other' under exchanges; there is own"),
        (("lists", "sync", "own"), "cannot be read (No such file or directory); make it readable"),
        (("lists", "sign", "nowhere.txt", "--key", "KEY", "--name", "own"), "nowhere.txt: No such file or directory"),
        (("lists", "sign", "a list.txt", "--key", "KEY", "--name", "own"), "a list's name has letters"),
        (("lists", "sign", "x.txt", "--key", "KEY", "--name", "our own"), "is no list's name"),
        (("lists", "sign", "x.txt", "--key", "KEY", "--name", "own", "--format", "odd"), "no list format called 'odd'"),
        (("lists", "sign", "x.txt", "--key", "KEY", "--name", "own", "--life", "1s"), "--life 1s is out of range"),
    ],
)
def test_faults_are_a_sentence_with_the_remedy(desk: Desk, words: tuple[str, ...], sentence: str) -> None:
    """No traceback, whatever is wrong."""
    told = desk.why(*(str(desk.key) if word == "KEY" else word for word in words))
    assert sentence in told
    assert "Traceback" not in told


def test_what_is_not_taken_of_a_list_is_told(desk: Desk) -> None:
    """Bad rows and hashes of kinds that nothing here matches: where the list is signed, and where it is had."""
    path = desk.folder / "own.txt"
    path.write_text("7" * 64 + "\npdq 12\nvideo_md5 " + "7" * 32 + "\n")
    signed = desk.run("lists", "sign", str(path), "--key", str(desk.key), "--name", "own").output
    had = desk.run("lists", "sync", "own").output
    assert ("1 row is bad" in signed, "1 hash, good for" in signed) == (True, True), signed
    assert ("1 hash of own" in had, "1 bad row passed over" in had) == (True, True), had
    assert all("left out, since nothing here matches them: 1 of video_md5" in said for said in (signed, had))


def test_a_list_of_which_nothing_can_be_read_is_not_signed(desk: Desk) -> None:
    """Signed in a format that it is not in, it would take every hash back on every node; an empty one may."""
    path = desk.folder / "own.txt"
    for text in ("signal,hash\npdq," + "7" * 64 + "\n", "video_md5 " + "7" * 32 + "\n"):
        path.write_text(text)
        told = desk.why("lists", "sign", str(path), "--key", str(desk.key), "--name", "own")
        assert "holds no valid hash of format plain" in told
    assert not path.with_name("own.txt.manifest.json").exists()
    assert desk.sign(0).exit_code == 0


def test_a_list_that_an_operator_filled_is_not_taken(desk: Desk) -> None:
    """A bank that is there already is nobody's to fill: its rows would be taken for withdrawn."""
    path = desk.folder / "mine.txt"
    path.write_text("7" * 64 + "\n")
    assert desk.run("hashes", "import", "OWN", "--format", "plain", str(path)).exit_code == 0
    desk.sign(5)
    assert "was not filled by own" in desk.why("lists", "sync", "own")
    assert "remove the folder" in desk.why("lists", "sync", "own")

"""`stopframe hashes`: banks are filled, listed, matched and emptied from the command line."""

import json
import secrets
import shutil

import pytest

from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.integration


def test_add_makes_a_bank_at_step_review(stopframe: CommandLine) -> None:
    """Pictures become entries under their stems, in a new bank that may ask for reviews until the config says more."""
    stopframe.picture("one.png", 1)
    stopframe.picture("two.jpg", 2)

    run = stopframe("hashes", "add", "CARDS", "one.png", "two.jpg")

    assert run.code == 0, run.err
    assert "bank CARDS: 2 hashes of 2 entries added" in run.err
    assert "banks: {CARDS: {step: cut}}" in run.err
    assert [line["entry"] for line in stopframe("hashes", "list", "CARDS", "--json").lines] == ["one", "two"]
    (stats,) = stopframe("hashes", "stats", "--json").lines
    assert (stats["bank"], stats["step"], stats["entries"]) == ("CARDS", "review", 2)
    assert stats["hashes"]["pdq"] > 2 * 50, "windows of each, in which crops of it are found"


def test_add_bare_stores_the_hash_alone(stopframe: CommandLine) -> None:
    """With `--bare` a picture is one row, as in a list of hashes."""
    stopframe.picture("one.png", 1)

    run = stopframe("hashes", "add", "CARDS", "one.png", "--bare")

    assert (run.code, run.err.splitlines()[0]) == (0, "bank CARDS: 1 hash of 1 entry added")
    (entry,) = stopframe("hashes", "list", "CARDS", "--json").lines
    assert entry == {"entry": "one", "hashes": {"pdq": 1}, "opinions": ["positive"]}


def test_add_takes_every_scene_of_a_video_under_one_entry(stopframe: CommandLine) -> None:
    """A video's distinct frames are rows of one entry; black ones are left out, and that is said."""
    stopframe.clip("film.ts", "card:1:2,black:1,card:2:2")

    run = stopframe("hashes", "add", "FILMS", "film.ts", "--entry", "trailer", "--bare")

    assert run.code == 0, run.err
    assert "film.ts: 1 frames were left out for a quality below 50" in run.err
    (entry,) = stopframe("hashes", "list", "FILMS", "--json").lines
    assert entry == {"entry": "trailer", "hashes": {"pdq": 2}, "opinions": ["positive"]}


def test_add_of_another_signal_stores_that_alone(stopframe: CommandLine) -> None:
    """`--signal phash` adds perceptual hashes of that kind; scan then matches by them."""
    stopframe.picture("one.png", 1)
    assert stopframe("hashes", "add", "CARDS", "one.png", "--signal", "phash").code == 0

    run = stopframe("scan", "one.png")

    assert [(line["hash"], line["decision"]) for line in run.lines[:-1]] == [("phash", "review")]


def test_add_keeps_a_bank_unchanged_where_nothing_can_be_hashed(stopframe: CommandLine) -> None:
    """Text, missing files and black pictures give no bank; each is told in a sentence; exit 2."""
    (stopframe.folder / "notes.txt").write_text("text")
    stopframe.clip("black.ts", "black:1")

    unreadable = stopframe("hashes", "add", "CARDS", "notes.txt", "missing.png")
    black = stopframe("hashes", "add", "CARDS", "black.ts")

    assert unreadable.code == black.code == 2
    assert "notes.txt: could not be read" in unreadable.err
    assert "missing.png: cannot be read (No such file or directory)" in unreadable.err
    assert "bank CARDS is unchanged" in black.err
    assert stopframe("hashes", "list", "--json").lines == []


def test_import_counts_bad_rows_and_takes_the_rest(stopframe: CommandLine) -> None:
    """Bad rows are counted with the first one's line; the valid ones are in the bank and come out as they went in."""
    hashes = [secrets.token_hex(32) for _ in range(50)]
    rows = [*hashes[:20], "no hash", *hashes[20:], "f8f8", ""]
    (stopframe.folder / "list.txt").write_text("\n".join(rows))

    run = stopframe("hashes", "import", "LIST", "--format", "plain", "list.txt")
    exported = stopframe("hashes", "export", "LIST")

    assert run.code == 0, run.err
    assert "2 bad rows were passed over, the first in line 21" in run.err
    assert "bank LIST: 50 hashes added" in run.err
    assert sorted(exported.out.split()) == sorted([*hashes, *["pdq"] * 50])


def test_import_without_any_valid_row_changes_nothing(stopframe: CommandLine) -> None:
    """A file that is no list leaves the bank as it was; exit 2."""
    (stopframe.folder / "good.txt").write_text(secrets.token_hex(32))
    (stopframe.folder / "bad.txt").write_text("this is\nno list\n")
    (stopframe.folder / "empty.txt").write_text("")
    assert stopframe("hashes", "import", "LIST", "good.txt").code == 0
    before = stopframe("hashes", "stats", "--json").out

    bad, empty = (stopframe("hashes", "import", "LIST", name) for name in ("bad.txt", "empty.txt"))

    assert (bad.code, empty.code) == (2, 2)
    assert "bad.txt holds no valid hash, so bank LIST is unchanged" in bad.err
    assert stopframe("hashes", "stats", "--json").out == before


def test_a_device_is_no_list(stopframe: CommandLine) -> None:
    """A device that never ends is refused before a byte of it is read."""
    run = stopframe("hashes", "import", "LIST", "/dev/zero")

    assert (run.code, run.err) == (2, "/dev/zero is a device; name the file of a list\n")


@pytest.mark.parametrize("words", [("add", "CARDS"), ("match",)])
def test_an_empty_folder_is_told_as_such(stopframe: CommandLine, words: tuple[str, ...]) -> None:
    """A folder without files is no picture of poor quality and no clean answer; exit 2."""
    stopframe.picture("one.png", 1)
    assert stopframe("hashes", "add", "CARDS", "one.png").code == 0
    (stopframe.folder / "empty").mkdir()

    run = stopframe("hashes", *words, "empty")

    assert (run.code, run.out) == (2, "")
    assert "no file is in what was named" in run.err


def test_match_says_through_which_view_or_why_not(stopframe: CommandLine) -> None:
    """A mirrored copy matches through the mirror; another card does not, and the nearest distance says so."""
    import cv2  # noqa: PLC0415

    stopframe.picture("one.png", 1)
    assert stopframe("hashes", "add", "CARDS", "one.png").code == 0
    picture = cv2.imread(str(stopframe.folder / "one.png"))
    assert picture is not None
    cv2.imwrite(str(stopframe.folder / "mirrored.png"), picture[:, ::-1])
    stopframe.picture("other.png", 9)

    rows = {row["media"]: row for row in stopframe("hashes", "match", "--json", "mirrored.png", "other.png").lines}

    assert (rows["mirrored.png"]["is_match"], rows["mirrored.png"]["view"]) == (True, "mirror")
    assert rows["mirrored.png"]["why"] is None
    assert rows["other.png"]["is_match"] is False
    assert rows["other.png"]["distance"] > rows["other.png"]["max_distance"] == 72
    assert "beyond 72 bits" in rows["other.png"]["why"]
    views = {view["view"]: view for view in rows["mirrored.png"]["views"]}
    assert views["mirror"]["strength"] == "cut"
    assert views["mirror"]["distance"] <= 31 < views["identity"]["distance"]
    assert views["identity"]["strength"] is None
    assert all(view["told"] for view in views.values())


def test_match_tells_of_one_bank_and_one_entry(stopframe: CommandLine) -> None:
    """With `--all` a table has a line for each view; `--entry` says why that one did not match, though another did."""
    stopframe.picture("one.png", 1)
    stopframe.picture("two.png", 2)
    stopframe("hashes", "add", "CARDS", "one.png", "two.png")

    run = stopframe("hashes", "match", "one.png", "--bank", "CARDS", "--entry", "two", "--all")
    gone = stopframe("hashes", "match", "one.png", "--entry", "three")

    heading, *lines = run.out.splitlines()
    assert run.code == 0, run.err
    assert "second test" in heading
    assert len(lines) > 20
    assert all(" two " in line and "False" in line for line in lines)
    assert (gone.code, len(gone.err.splitlines())) == (2, 1)
    assert "no entry 'three'" in gone.err


def test_match_shows_the_best_views_and_counts_the_others(stopframe: CommandLine) -> None:
    """A file is a few lines for each bank, not sixty; a bank that may only ask for reviews says so."""
    stopframe.picture("one.png", 1)
    stopframe("hashes", "add", "CARDS", "one.png")

    run = stopframe("hashes", "match", "one.png")

    _, *lines = run.out.splitlines()
    assert len(lines) == 3
    assert "may cut" in lines[0]
    assert lines[0].endswith("the bank's step is review")
    assert "views are not shown; --all shows every one" in run.err


def test_what_is_there_already_is_not_told_as_added(stopframe: CommandLine) -> None:
    """Adding or importing again says that it was no news, and how much of it where a part was."""
    stopframe.picture("one.png", 1)
    stopframe.picture("two.png", 2)
    (stopframe.folder / "list.txt").write_text(secrets.token_hex(32))
    stopframe("hashes", "add", "CARDS", "one.png", "--bare")
    stopframe("hashes", "import", "LIST", "list.txt")

    again = stopframe("hashes", "add", "CARDS", "one.png", "--bare")
    part = stopframe("hashes", "add", "CARDS", "one.png", "two.png", "--bare")
    listed = stopframe("hashes", "import", "LIST", "list.txt")

    assert again.err == "bank CARDS: 1 hash of 1 entry was there already\n"
    assert part.err == "bank CARDS: 2 hashes of 2 entries added; 1 of the 2 rows were there already\n"
    assert listed.err == "bank LIST: 1 hash was there already\n"


def test_remove_takes_an_entry_out(stopframe: CommandLine) -> None:
    """A removed entry no longer matches; removing it once more is an error that says what to do."""
    stopframe.picture("one.png", 1)
    stopframe("hashes", "add", "CARDS", "one.png")

    assert stopframe("hashes", "remove", "CARDS", "one").code == 0
    again = stopframe("hashes", "remove", "CARDS", "one")

    assert again.code == 2
    assert "stopframe hashes list CARDS" in again.err
    assert stopframe("scan", "one.png").code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "lower-case", "one.png"), "is no bank name"),
        (("list", "../state"), "is no bank name"),
        (("list", "MISSING"), "there is no bank MISSING"),
        (("remove", "MISSING", "x"), "there is no bank MISSING"),
        (("export", "MISSING"), "there is no bank MISSING"),
        (("import", "LIST", "missing.txt"), "missing.txt: No such file or directory"),
        (("import", "LIST", "--format", "stix", "missing.txt"), "there is no list format called 'stix'"),
        (("add", "CARDS", "--signal", "md5", "one.png"), "there is no hash called 'md5'"),
        (("match", "one.png"), "there is no bank in"),
        (("match", "one.png", "--bank", "MISSING"), "there is no bank MISSING"),
    ],
)
def test_every_fault_is_one_sentence(stopframe: CommandLine, words: tuple[str, ...], sentence: str) -> None:
    """What cannot be done is told in one sentence on stderr, with exit 2 and nothing on stdout."""
    run = stopframe("hashes", *words)

    assert (run.code, run.out) == (2, "")
    assert sentence in run.err
    assert len(run.err.strip().splitlines()) == 1


@pytest.mark.parametrize("what", ["pointer", "generation"])
def test_a_damaged_bank_hides_no_other(stopframe: CommandLine, what: str) -> None:
    """The banks beside a damaged one are listed and matched; it is named with a remedy that works, and exit is 2."""
    stopframe.picture("one.png", 1)
    for bank in ("BAD", "GOOD"):
        stopframe("hashes", "add", bank, "one.png")
    bad = stopframe.folder / "state/banks/BAD"
    if what == "pointer":
        (bad / "bank.json").write_text("{")
    else:
        shutil.rmtree(next(bad.glob("gen-*")))

    listed = stopframe("hashes", "list")
    matched = stopframe("hashes", "match", "one.png")
    asked = stopframe("hashes", "match", "one.png", "--bank", "GOOD")
    added = stopframe("hashes", "add", "BAD", "one.png")

    assert (asked.code, "bank BAD cannot be read" in asked.err) == (0, True)
    assert [line.split()[0] for line in listed.out.splitlines()][-1] == "GOOD"
    assert (matched.code, matched.out.splitlines()[1].split()[:3]) == (2, ["one.png", "True", "GOOD"])
    for run in (*([listed] if what == "pointer" else []), matched, added):
        assert run.code == 2
        assert str(bad) in run.err
        assert "import the list again when the bank's folder is moved away, or restore the folder" in run.err
    bad.rename(bad.with_name("moved_away"))
    assert stopframe("hashes", "add", "BAD", "one.png").code == 0


def test_a_folder_without_banks_is_told(stopframe: CommandLine) -> None:
    """No table of nothing: one sentence says how to make a bank."""
    run = stopframe("hashes", "list")
    assert (run.code, run.out) == (0, "")
    assert "make one with 'stopframe hashes add BANK FILE'" in run.err


def test_a_damaged_bank_is_refused(stopframe: CommandLine) -> None:
    """A bank whose files were changed by someone else is not read, and scan does not pretend to have looked."""
    stopframe.picture("one.png", 1)
    stopframe("hashes", "add", "CARDS", "one.png")
    pointer = stopframe.folder / "state/banks/CARDS/bank.json"
    content = json.loads(pointer.read_text())
    for rows in pointer.parent.glob(f"{content['generation']}/pdq/rows.npy"):
        rows.write_bytes(rows.read_bytes()[:-1] + b"\x00")

    run = stopframe("scan", "one.png")

    assert (run.code, run.out) == (2, "")
    assert "bank CARDS is not in use" in run.err

"""Secrets: made once, whole, for this user alone; and ids that say nothing about the key."""

import base64
import hashlib
import hmac
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.credentials import Credentials, CredentialsError, load_or_create, stream_id
from detector.events import StreamKey


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A state folder whose secrets exist."""
    load_or_create(tmp_path / "state")
    return tmp_path / "state"


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    """The second start reads what the first one made; the two secrets differ."""
    first = load_or_create(tmp_path / "deep" / "state")
    assert load_or_create(tmp_path / "deep" / "state") == first
    assert len(first.deployment) == 32
    assert first.deployment.hex() != first.hook


def test_secrets_are_for_this_user_alone(made: Path) -> None:
    """Folder 0700, files 0600, whatever the umask; nothing else is left behind."""
    assert _mode(made / "secrets") == 0o700
    assert {path.name: _mode(path) for path in (made / "secrets").iterdir()} == {"deployment": 0o600, "hook": 0o600}


def test_an_open_umask_opens_nothing(tmp_path: Path) -> None:
    """A service started with umask 0 still keeps its secrets."""
    before = os.umask(0)
    try:
        load_or_create(tmp_path / "state")
    finally:
        os.umask(before)
    assert _mode(tmp_path / "state" / "secrets") == 0o700
    assert _mode(tmp_path / "state" / "secrets" / "hook") == 0o600


def test_printing_credentials_shows_nothing(made: Path) -> None:
    """Neither secret stands in what a log or a traceback would show."""
    credentials = load_or_create(made)
    assert credentials.hook not in f"{credentials} {credentials!r}"
    assert repr(credentials) == "Credentials()"


def _open_folder(secrets: Path) -> None:
    secrets.chmod(0o750)


def _open_file(secrets: Path) -> None:
    (secrets / "hook").chmod(0o644)


def _shorten(secrets: Path) -> None:
    (secrets / "hook").write_text("abc")


def _lengthen(secrets: Path) -> None:
    (secrets / "hook").write_text("a" * 65)


def _garble(secrets: Path) -> None:
    (secrets / "hook").write_bytes(b"\xff" * 64)


def _link(secrets: Path) -> None:
    (secrets / "hook").rename(secrets.parent / "elsewhere")
    (secrets / "hook").symlink_to(secrets.parent / "elsewhere")


def _pipe(secrets: Path) -> None:
    (secrets / "hook").unlink()
    os.mkfifo(secrets / "hook", 0o600)


def _folder(secrets: Path) -> None:
    (secrets / "hook").unlink()
    (secrets / "hook").mkdir(0o700)


def _linked_folder(secrets: Path) -> None:
    secrets.rename(secrets.parent / "elsewhere")
    secrets.symlink_to(secrets.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_open_folder, "chmod 700"),
        (_open_file, "chmod 600"),
        (_shorten, "restore it from a backup"),
        (_lengthen, "restore it from a backup"),
        (_garble, "restore it from a backup"),
        (_link, "is a link"),
        (_pipe, "regular file"),
        (_folder, "regular file"),
        (_linked_folder, "folder"),
    ],
)
def test_secrets_that_cannot_be_trusted_are_refused(made: Path, spoil: Callable[[Path], None], words: str) -> None:
    """One sentence with the remedy; the secret is neither shown nor replaced."""
    secret = load_or_create(made).hook
    spoil(made / "secrets")
    before = sorted(path.name for path in (made / "secrets").iterdir())
    with pytest.raises(CredentialsError, match=words) as caught:
        load_or_create(made)
    assert "\n" not in str(caught.value)
    assert secret not in str(caught.value)
    assert sorted(path.name for path in (made / "secrets").iterdir()) == before


def test_secrets_of_another_user_are_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else may rewrite is no secret of ours."""
    owner = (made / "secrets").stat().st_uid
    monkeypatch.setattr("detector.credentials._ROOT", owner + 2)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(CredentialsError, match="belongs to another user"):
        load_or_create(made)


def test_a_state_folder_that_cannot_be_made_gets_a_sentence(tmp_path: Path) -> None:
    """A file in the folder's place ends in a sentence, not in a traceback."""
    (tmp_path / "state").write_text("")
    with pytest.raises(CredentialsError, match="make the folder writable"):
        load_or_create(tmp_path / "state")


def _race(
    folder: str, gate: "multiprocessing.synchronize.Barrier", answers: "multiprocessing.Queue[Credentials]"
) -> None:
    gate.wait()
    answers.put(load_or_create(Path(folder)))


def test_processes_that_start_at_once_share_their_secrets(tmp_path: Path) -> None:
    """However they interleave, all read the secrets of the one that came first, and no leftovers stay."""
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(4), context.Queue()
    racers = [
        context.Process(target=_race, args=(str(tmp_path / "s"), gate, answers), name=f"racer-{i}") for i in range(4)
    ]
    for racer in racers:
        racer.start()
    seen = [answers.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(timeout=60)
    assert all(one == seen[0] for one in seen)
    assert sorted(path.name for path in (tmp_path / "s" / "secrets").iterdir()) == ["deployment", "hook"]


def test_a_process_that_comes_second_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and making, another process may have made it: that one's secret counts."""
    other: list[Credentials] = []
    real = os.urandom

    def overtaken(size: int) -> bytes:
        monkeypatch.setattr(os, "urandom", real)
        other.append(load_or_create(tmp_path))
        return b"\0" * size

    monkeypatch.setattr(os, "urandom", overtaken)
    assert load_or_create(tmp_path) == other[0]


def test_stream_id_is_what_a_cutter_computes() -> None:
    """Whoever holds the secret gets the id by public means alone."""
    digest = hmac.digest(b"k" * 32, b"embedded|live|alice", hashlib.sha256)
    expected = base64.b32encode(digest).decode()[:26]
    assert stream_id(b"k" * 32, StreamKey("embedded", "live", "alice")) == expected


_KEYS = st.builds(StreamKey, *[st.text(st.characters() | st.sampled_from("|\\"), max_size=6)] * 3)


@given(_KEYS, _KEYS)
def test_stream_ids_are_as_different_as_their_keys(one: StreamKey, other: StreamKey) -> None:
    """26 characters of base32 whatever the publisher named itself, equal only for equal keys."""
    first, second = (stream_id(b"s" * 32, key) for key in (one, other))
    assert (first == second) == (one == other)
    assert len(first) == 26
    assert set(first) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    assert stream_id(b"t" * 32, one) != first


def test_a_separator_in_a_name_makes_no_twin() -> None:
    """A publisher cannot take another stream's id by naming itself with the separator."""
    ids = {
        stream_id(b"s" * 32, StreamKey(*parts))
        for parts in [("a", "b|c", "d"), ("a", "b", "c|d"), ("a", "b\\", "c|d"), ("a|b", "c", "d"), ("a", "b\\|c", "d")]
    }
    assert len(ids) == 5

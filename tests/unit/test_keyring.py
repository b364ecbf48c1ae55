"""The node's keys: made once, readable by nobody else, replaced in two steps that a crash cannot break."""

from pathlib import Path

import pytest

from detector.credentials import CredentialsError
from detector.trust import keyring
from detector.trust.keyring import activate_following, load_keyring, new_key, prepare_following, read_key
from detector.trust.signing import NotTrusted
from models import durable

_UNTIL = 2_000_000_000_000


def test_a_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    """The first start makes it; the next ones find it; its file is for its owner alone."""
    first = load_keyring(tmp_path)
    assert load_keyring(tmp_path).signer.key_id == first.signer.key_id
    assert (tmp_path / "secrets" / "signing").stat().st_mode & 0o777 == 0o600
    assert (first.following, first.retired) == (None, ())
    (tmp_path / "secrets" / "signing").chmod(0o640)
    with pytest.raises(CredentialsError, match="chmod 600"):
        load_keyring(tmp_path)


def test_rotation_lets_consumers_learn_the_key_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The following key is shown before it signs; what the one before signed verifies until its last day."""
    old = load_keyring(tmp_path).signer
    with pytest.raises(CredentialsError, match="keys rotate"):
        activate_following(tmp_path, until_ms=_UNTIL)
    following = prepare_following(tmp_path).following
    assert following is not None
    again = prepare_following(tmp_path)
    assert again.following is not None
    assert (again.following.key_id, again.signer.key_id) == (following.key_id, old.key_id)

    after = activate_following(tmp_path, until_ms=_UNTIL)
    assert (after.signer.key_id, after.following) == (following.key_id, None)
    assert [key.key_id for key in after.retired] == [old.key_id]
    message = old.sign({"schema": "stopframe/alert/1"})
    assert after.trusted().verify(message, "alert", now_ms=_UNTIL - 1)
    with pytest.raises(NotTrusted):
        after.trusted().verify(message, "alert", now_ms=_UNTIL)
    monkeypatch.setattr(keyring, "_RETIRED_LIMIT", 2)
    for _ in range(3):
        prepare_following(tmp_path)
        after = activate_following(tmp_path, until_ms=_UNTIL)
    assert len(after.retired) == 2


def test_a_crash_in_the_middle_leaves_one_key_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list of retired keys and the new key, the old one still signs and is not called retired."""
    old = load_keyring(tmp_path).signer
    prepare_following(tmp_path)
    with monkeypatch.context() as crash:
        crash.setattr(durable, "sync_folder", _die)
        with pytest.raises(KeyboardInterrupt):
            activate_following(tmp_path, until_ms=_UNTIL)
    left = load_keyring(tmp_path)
    assert (left.signer.key_id, left.retired) == (old.key_id, ())
    after = activate_following(tmp_path, until_ms=_UNTIL)
    assert [key.key_id for key in after.retired] == [old.key_id]
    assert not list((tmp_path / "secrets").glob(".signing*"))


def _die(_: Path) -> None:
    raise KeyboardInterrupt


def test_a_damaged_list_and_a_taken_file_are_said(tmp_path: Path) -> None:
    """One sentence with the remedy; a key is never written over, and one that others may read is not used."""
    load_keyring(tmp_path)
    day = f'[{{"public_key": "ed25519:{"A" * 43}", "until_ms": 1{"0" * 17}}}]'
    for damaged in (day, "[{}]", "{", '[{"public_key": 5, "until_ms": 1}]', "[" * 100_000, "7"):
        (tmp_path / "secrets" / "signing-retired").write_text(damaged)
        with pytest.raises(CredentialsError, match="damaged"):
            load_keyring(tmp_path)
    with pytest.raises(CredentialsError, match="folder of yours"):
        new_key(tmp_path / ("x" * 300))
    path = tmp_path / "anna.key"
    made = new_key(path)
    assert read_key(path).key_id == made.key_id
    with pytest.raises(CredentialsError, match="there already"):
        new_key(path)
    path.chmod(0o644)
    with pytest.raises(CredentialsError, match="chmod"):
        read_key(path)
    with pytest.raises(CredentialsError, match="keys new"):
        read_key(tmp_path / "none")
    with pytest.raises(CredentialsError, match="cannot be made"):
        new_key(tmp_path / "no" / "folder")

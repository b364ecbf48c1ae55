"""The keys that this node signs with: one in force, one made ready to follow it, and those that were."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detector.credentials import CredentialsError, create, read, read_or_create, secrets_folder
from detector.instants import rfc3339
from detector.trust.signing import Signer, TrustedKey, TrustedKeys, public_key_text
from models.durable import replace_synced, sync_folder

_NAME: Final = "signing"
_NEXT: Final = "signing-next"
_RETIRED: Final = "signing-retired"
_RETIRED_LIMIT: Final = 32
_LOSS: Final = "no consumer trusts until its public half is written into their configs"

NODE_MAY: Final = frozenset({"alert"})
"""What a node's own key is trusted for: its alerts and its answers."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """`retired` are public keys in the order in which they were retired, each with its last day."""

    signer: Signer
    following: Signer | None
    retired: tuple[TrustedKey, ...]

    def trusted(self) -> TrustedKeys:
        """Return what verifies this node's messages, those that retired keys signed included."""
        return TrustedKeys([*self.retired, self.signer.trusted_key(NODE_MAY)])


def load_keyring(state_dir: Path) -> Keyring:
    """Read the keys of `state_dir/secrets`; the first is made where there is none. Raises CredentialsError."""
    with secrets_folder(state_dir) as folder:
        return _load(folder)


def prepare_following(state_dir: Path) -> Keyring:
    """Make the key that is to follow, unless there is one: consumers learn of it before it signs anything."""
    with secrets_folder(state_dir) as folder:
        read_or_create(folder / _NEXT, _LOSS)
        return _load(folder)


def activate_following(state_dir: Path, *, until_ms: int) -> Keyring:
    """Sign with the key that was made ready; the one in force is retired, and verifies until then.

    Raises CredentialsError, also where none was made ready. A crash on the way leaves either key in force, whole.
    """
    with secrets_folder(state_dir) as folder:
        before = _load(folder)
        if before.following is None:
            raise CredentialsError("No key was made ready to follow; run 'stopframe keys rotate' first.")
        leaving = before.signer.trusted_key(NODE_MAY, until_ms=until_ms)
        _write_retired(folder / _RETIRED, [*before.retired, leaving][-_RETIRED_LIMIT:])
        (folder / _NEXT).replace(folder / _NAME)
        sync_folder(folder)
        return _load(folder)


def new_key(path: Path) -> Signer:
    """Make a key of an operator's or a consumer's own (mode 0600). Raises CredentialsError, also where a file is."""
    try:
        if path.is_symlink() or path.exists():
            raise CredentialsError(f"{path} is there already; name a file that is not, a key is never written over.")
        create(path)
        return Signer.of_seed(read(path))
    except OSError as error:
        raise CredentialsError(f"{path} cannot be made ({error.strerror}); name a file in a folder of yours.") from None


def read_key(path: Path) -> Signer:
    """Read a key that `new_key` made. Raises CredentialsError, also where others may read it."""
    try:
        return Signer.of_seed(read(path))
    except OSError as error:
        raise CredentialsError(
            f"The key {path} cannot be read ({error.strerror}); 'stopframe keys new FILE' makes one."
        ) from None


def _load(folder: Path) -> Keyring:
    signer = Signer.of_seed(read_or_create(folder / _NAME, _LOSS))
    following = None
    with contextlib.suppress(FileNotFoundError):
        following = Signer.of_seed(read(folder / _NEXT, _LOSS))
    # A crash in the middle of a rotation may have listed the key in force already.
    retired = tuple(key for key in _read_retired(folder / _RETIRED) if key.key_id != signer.key_id)
    return Keyring(signer, following, retired)


def _read_retired(path: Path) -> list[TrustedKey]:
    try:
        rows: Any = json.loads(path.read_text("utf-8"))
        keys = [TrustedKey.of(row["public_key"], NODE_MAY, until_ms=int(row["until_ms"])) for row in rows]
        for key in keys:
            rfc3339(key.until_ms or 0)  # a day that cannot be shown is no day
        return keys
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CredentialsError(
            f"{path} is damaged; restore it from a backup, or remove it: what retired keys signed is then not verified."
        ) from None


def _write_retired(path: Path, keys: list[TrustedKey]) -> None:
    rows = [{"public_key": public_key_text(key.public_key), "until_ms": key.until_ms} for key in keys]
    replace_synced(path, json.dumps(rows).encode(), mode=0o600)

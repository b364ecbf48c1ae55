"""The secrets this installation makes for itself, and the stream ids that hide publishers' keys behind them."""

import base64
import contextlib
import errno
import hashlib
import hmac
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from detector.events import StreamKey
from detector.private_folder import make_private
from detector.redaction import hide_secret
from models.durable import sync_folder

SECRET_BYTES = 32
STREAM_ID_CHARACTERS = 26
"""Characters of base32 in a stream's id: 130 bits."""

_OPEN_TO_OTHERS = 0o077
_ROOT = 0
_KINDS = {"700": "folder", "600": "regular file"}


class CredentialsError(Exception):
    """A secret cannot be made, or cannot be trusted. One sentence with the remedy; raised by `load_or_create`.

    What is on disk is left as it was, but for secrets that were made before the fault was met.
    """


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the service knows and nobody else does. Printing it shows nothing."""

    deployment: bytes = field(repr=False)
    """Key of the stream ids; whoever holds it can find a publisher by its id."""
    hook: str = field(repr=False)
    """Part of the hook's URL path, 64 hex digits."""


def load_or_create(state_dir: Path) -> Credentials:
    """Read the secrets of `state_dir/secrets`, and make those that are missing.

    Two processes that start at once end up with the same secrets. Raises CredentialsError.
    """
    with secrets_folder(state_dir) as folder:
        deployment = read_or_create(folder / "deployment", "gives every stream a new id")
        hook = _read_or_create_hook(folder)
    return Credentials(deployment=deployment, hook=hook)


def load_or_create_hook(state_dir: Path) -> str:
    """The hook's secret alone, as `Credentials.hook`, for who has no streams of its own. Raises CredentialsError."""
    with secrets_folder(state_dir) as folder:
        return _read_or_create_hook(folder)


def _read_or_create_hook(folder: Path) -> str:
    return read_or_create(folder / "hook", "changes the hook's URL").hex()


@contextlib.contextmanager
def secrets_folder(state_dir: Path) -> Iterator[Path]:
    """Hold `state_dir/secrets`, made if need be; an OSError in the block becomes a CredentialsError with its remedy."""
    folder = state_dir / "secrets"
    try:
        make_private(folder)
        _refuse_untrusted(folder, folder.lstat(), stat.S_ISDIR, "700")
        yield folder
    except OSError as error:
        what = error.strerror or type(error).__name__
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        remedy = "free space there" if is_full else "make the folder writable for this user"
        raise CredentialsError(f"The secrets in {folder} cannot be read or made ({what}); {remedy}.") from None


def stream_id(secret: bytes, key: StreamKey) -> str:
    r"""A stream's public name: the first 26 characters of base32(HMAC-SHA256(secret, `server|app|name`)), RFC 4648.

    The same key always gives the same id, and nobody without the secret can get from one to the other. A `|` or `\`
    inside one of the three is preceded by a `\`, so that no two keys share an id.
    """
    parts = (part.replace("\\", "\\\\").replace("|", "\\|") for part in (key.server, key.app, key.name))
    # Names are the publisher's: a lone surrogate must not end in an exception.
    digest = hmac.new(secret, "|".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return base64.b32encode(digest).decode("ascii")[:STREAM_ID_CHARACTERS]


def read_or_create(path: Path, loss: str) -> bytes:
    """The 32 bytes of a secret's file, made first if there is none; from now on they are shown nowhere.

    `loss` says what a new one in its place would bring about. Raises CredentialsError and OSError.
    """
    try:
        return read(path, loss)
    except FileNotFoundError:
        create(path)
        return read(path, loss)


def create(path: Path) -> None:
    """Put a new secret there, whole or not at all; one that another process put there meanwhile stays."""
    descriptor, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600 by mkstemp's promise
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(written, path)  # unlike a rename it never replaces: the first process wins
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        Path(written).unlink(missing_ok=True)


def read(path: Path, loss: str = "makes whatever goes by it useless") -> bytes:
    """The 32 bytes of a secret's file, which only its owner may read. Raises CredentialsError and OSError."""
    # Not blocking, so that a pipe in the secret's place is refused instead of waited for.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CredentialsError(f"{path} is a link; put the {_KINDS['600']} itself there and start again.") from None
        raise
    try:
        _refuse_untrusted(path, os.fstat(descriptor), stat.S_ISREG, "600")
        content = os.read(descriptor, 4 * SECRET_BYTES)
    finally:
        os.close(descriptor)
    if not re.fullmatch(rb"[0-9a-f]{%d}\n?" % (2 * SECRET_BYTES), content):
        raise CredentialsError(
            f"The secret {path} is damaged (it must hold {2 * SECRET_BYTES} hex digits); restore it from a backup, or "
            f"remove it to have a new one made, which {loss}."
        )
    hide_secret(content.decode().strip())
    return bytes.fromhex(content.decode())


def _refuse_untrusted(path: Path, status: os.stat_result, is_right_kind: Callable[[int], bool], mode: str) -> None:
    if not is_right_kind(status.st_mode):
        raise CredentialsError(f"{path} is not what it should be (a {_KINDS[mode]}); move it away and start again.")
    if status.st_uid not in (os.geteuid(), _ROOT):
        raise CredentialsError(f"{path} belongs to another user; run 'chown {os.geteuid()} {path}' if you trust it.")
    if stat.S_IMODE(status.st_mode) & _OPEN_TO_OTHERS:
        raise CredentialsError(f"{path} is open to other users; run 'chmod {mode} {path}' and start again.")

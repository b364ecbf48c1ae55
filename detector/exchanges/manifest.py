"""Signed manifests of own lists: what a list is, who made it, and how long it is good for.

The manifest is a small JSON object beside the list: `schema` (`stopframe/list/1`), `name` (that of the exchange in the
config, so that one list is none for another), `file` (a plain file name), `format`, `sha256` and `rows` of that file,
`version` (an integer that only rises: an old list cannot be put in a new one's place), `issued_at`, `expires_at`,
`key_id` and `sig` as in every message of `detector.trust.signing`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from detector.exchanges.client import ExchangeFailed, NotAdopted
from detector.instants import rfc3339
from detector.trust.signing import NotTrusted, Purpose, Reason, Signer, TrustedKeys, parse, time_ms
from models.durable import replace_synced

SCHEMA: Final = f"stopframe/{Purpose.LIST}/1"
MANIFEST_BYTES: Final = 4096

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_FILE: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}", re.ASCII)
_FORMAT: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LARGEST: Final = 2**53 - 1
_CLOCK_OFF_MS: Final = 300_000
"""So far a signer's clock may be ahead of ours."""

_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a signed manifest says. Times are milliseconds since the epoch."""

    name: str
    file: str
    format: str
    sha256: str
    rows: int
    version: int
    issued_ms: int
    expires_ms: int

    def body(self) -> dict[str, Any]:
        """As JSON, unsigned."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "file": self.file,
            "format": self.format,
            "sha256": self.sha256,
            "rows": self.rows,
            "version": self.version,
            "issued_at": rfc3339(self.issued_ms),
            "expires_at": rfc3339(self.expires_ms),
        }

    def signed(self, signer: Signer) -> dict[str, Any]:
        """With `key_id` and `sig`."""
        return signer.sign(self.body())


def read_manifest(payload: bytes, keys: TrustedKeys, *, name: str, now_ms: int, after: int | None) -> Manifest:
    """Return what a manifest says, once a trusted key has signed it for the list `name`.

    `after` is the version that was taken in last: an older one is refused, the same one is not new.

    Raises:
        NotAdopted: It is not to be believed: unsigned, altered, of another list, over, from the future, older.
        ExchangeFailed: It is no manifest.
    """
    try:
        message = parse(payload, most_bytes=MANIFEST_BYTES)
    except NotTrusted as error:
        raise NotAdopted(
            f"what should be the manifest of {name} is none: {error}; name FILE.manifest.json, which 'stopframe lists "
            "sign' writes beside the list"
        ) from None
    try:
        keys.verify(message, Purpose.LIST, now_ms=now_ms)
        manifest = _of(message)
    except NotTrusted as error:
        is_stranger = error.reason in {Reason.UNKNOWN_KEY, Reason.NOT_ALLOWED}
        remedy = "; if it is one of yours, trust.trusted_keys names it with may: [list]" if is_stranger else ""
        raise NotAdopted(
            f"the manifest of {name} is not believed: {error}; nothing of the list was taken{remedy}"
        ) from None
    if manifest.name != name:
        raise NotAdopted(f"the manifest is of another list than {name}; name the right one under url or path")
    if manifest.issued_ms > now_ms + _CLOCK_OFF_MS:
        raise NotAdopted(f"the manifest of {name} was issued in the future; set the clocks, here or where it is signed")
    if after is not None and manifest.version < after:
        raise NotAdopted(
            f"the manifest of {name} has version {manifest.version}, older than {after}, which is in force; "
            "sign the list with a higher version"
        )
    return manifest


def _of(message: Mapping[str, Any]) -> Manifest:
    try:
        manifest = Manifest(
            name=str(message["name"]),
            file=_text(message["file"], _FILE),
            format=_text(message["format"], _FORMAT),
            sha256=_text(message["sha256"], _SHA256),
            rows=_count(message["rows"]),
            version=_count(message["version"]),
            issued_ms=time_ms(message["issued_at"]),
            expires_ms=time_ms(message["expires_at"]),
        )
    except (KeyError, TypeError, ValueError, NotTrusted):
        raise ExchangeFailed(
            "the signed manifest lacks what a manifest says; make it with 'stopframe lists sign'"
        ) from None
    return manifest


def _text(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(value)
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(value)
    return value


def check_file(file: BinaryIO, manifest: Manifest) -> None:
    """Raises NotAdopted where a file is not the one that was signed."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(_AT_ONCE):
        digest.update(piece)
    if digest.hexdigest() != manifest.sha256:
        raise NotAdopted(
            f"the list {manifest.file} is not the file that was signed; nothing of it was taken: sign it again, or see "
            "who changed it"
        )


def is_list_name(name: str) -> bool:
    """Whether a config can have a list of this name under `exchanges`."""
    return _NAME.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether a manifest can name a file: nothing but a name beside it."""
    return _FILE.fullmatch(name) is not None


def write_manifest(  # noqa: PLR0913 - what a manifest says, by name
    file: Path,
    signer: Signer,
    *,
    name: str,
    list_format: str,
    sha256: str,
    rows: int,
    version: int,
    issued_ms: int,
    expires_ms: int,
) -> Path:
    """Write the signed manifest of a list beside it, as `FILE.manifest.json`, in one step. Raises OSError."""
    manifest = Manifest(name, file.name, list_format, sha256, rows, version, issued_ms, expires_ms)
    made = file.with_name(f"{file.name}.manifest.json")
    replace_synced(made, json.dumps(manifest.signed(signer), indent=1).encode() + b"\n")
    return made


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

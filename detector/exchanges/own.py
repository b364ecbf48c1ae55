"""Own lists: a file beside its signed manifest, on this machine or behind HTTPS, always whole."""

import binascii
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, Self
from urllib.parse import urljoin

import numpy as np
from numpy.typing import NDArray

from detector.exchanges.client import Checkpoint, Clock, ExchangeFailed, NotAdopted, Page
from detector.exchanges.manifest import MANIFEST_BYTES, Manifest, check_file, read_manifest
from detector.exchanges.transport import Access, Transport
from detector.trust.signing import TrustedKeys
from models.bank_rows import EntryNames
from models.lists.contents import ListContents, ListTooLong
from models.lists.registry import list_formats

_BYTES_PER_ROW: Final = 1024
"""Of the most verbose format; a longer file does not hold so few rows."""

_LEAST_BYTES: Final = 1 << 20
_DEADLINE_SECONDS: Final = 1800.0
_AT_ONCE: Final = 1 << 20


class OwnList:
    """The list that a signed manifest names. `keys` are those in force; the manifest must be of the list `name`."""

    refetch_after_seconds: float | None = None

    def __init__(self, name: str, place: Path | Access, keys: TrustedKeys, *, most_rows: int, clock: Clock) -> None:
        self._name = name
        self._place = place
        self._keys = keys
        self._most_rows = most_rows
        self._most_bytes = most_rows * _BYTES_PER_ROW + _LEAST_BYTES
        self._clock = clock

    async def fetch(self, checkpoint: Checkpoint | None) -> AsyncGenerator[Page, None]:
        """The whole list where its version is new, else an empty page; as `ExchangeClient.fetch`.

        Raises:
            NotAdopted: The manifest, or the list, is not to be believed.
        """
        now = self._clock()
        before, digest = _position(checkpoint)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stopframe-list-")))
            reader = await stack.enter_async_context(_Reader(self._place))
            payload = BytesIO()
            await reader.copy(None, payload, MANIFEST_BYTES)
            manifest = read_manifest(
                payload.getvalue(), self._keys, name=self._name, now_ms=round(now * 1000), after=before
            )
            if manifest.version == before and manifest.sha256 != digest:
                raise NotAdopted(
                    f"version {before} of {self._name} is signed twice with two lists; sign a higher version"
                )
            reached = Checkpoint(f"{manifest.version} {manifest.sha256}", str(manifest.version), now)
            if manifest.version == before:
                yield Page(ListContents(), reached, is_last=True)
                return
            path = folder / manifest.file
            with path.open("w+b") as file:
                await reader.copy(manifest.file, file, self._most_bytes)
                file.flush()
                check_file(file, manifest)
            yield Page(self._read(manifest, path), reached, is_last=True, is_everything=True)

    def _read(self, manifest: Manifest, path: Path) -> ListContents:
        form = list_formats().get(manifest.format)
        if form is None:
            raise ExchangeFailed(
                f"the manifest of {self._name} names the format {manifest.format!r}, which nobody here reads; "
                f"sign a list in one of {', '.join(list_formats())}"
            )
        try:
            contents = form.read(path)
        except ListTooLong:
            raise NotAdopted(f"the list {self._name} is longer than can be taken; split it") from None
        if len(contents) != manifest.rows:
            raise NotAdopted(
                f"the list {self._name} gives {len(contents):,} hashes and its manifest says {manifest.rows:,}; "
                "nothing of it was taken: sign it anew"
            )
        # A name by line would be another's as soon as a line before it goes.
        named = {
            signal: rows if len(rows.entries) else replace(rows, entries=_names_by_hash(rows.hashes))
            for signal, rows in contents.rows.items()
        }
        return replace(contents, rows=named)


class _Reader:
    """Copies the manifest, or a file beside it, from a disk or a server: what is judged is what is read."""

    def __init__(self, place: Path | Access) -> None:
        self._place = place
        self._transport = None if isinstance(place, Path) else Transport(place, deadline_seconds=_DEADLINE_SECONDS)

    async def __aenter__(self) -> Self:
        if self._transport is not None:
            await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            await self._transport.__aexit__(None, None, None)

    async def copy(self, beside: str | None, file: BinaryIO, most_bytes: int) -> None:
        if isinstance(self._place, Path):
            path = self._place if beside is None else self._place.with_name(beside)
            try:
                with path.open("rb") as source:
                    _copy(source, file, most_bytes, path)
            except OSError as error:
                raise ExchangeFailed(f"{path} cannot be read ({error.strerror}); make it readable") from None
            return
        assert self._transport is not None
        url = self._place.url if beside is None else urljoin(self._place.url, beside)
        await self._transport.download(url, file, most_bytes)


def _names_by_hash(hashes: NDArray[np.uint8]) -> EntryNames:
    """Each row's hash in hex."""
    digits = 2 * hashes.shape[1]
    content = np.frombuffer(binascii.hexlify(hashes.tobytes()), np.uint8)
    return EntryNames(np.arange(len(hashes) + 1, dtype=np.int64) * digits, content)


def _copy(source: BinaryIO, file: BinaryIO, most_bytes: int, path: Path) -> None:
    while piece := source.read(_AT_ONCE):
        most_bytes -= len(piece)
        if most_bytes < 0:
            raise ExchangeFailed(f"{path} is longer than a file of its kind; name the right one")
        file.write(piece)


def _position(checkpoint: Checkpoint | None) -> tuple[int | None, str]:
    """The version and the checksum of the list in force."""
    version, _, digest = (checkpoint.position if checkpoint is not None else "").partition(" ")
    return (int(version), digest) if version.isascii() and version.isdigit() else (None, "")

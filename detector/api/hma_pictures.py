"""Hashing one picture for a client of HMA: the bytes are decoded in a cage of their own, never in the service."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from detector.banks.files import MIN_QUALITY, plane_of
from detector.config.config import Config
from detector.settings import reader_job
from models.hashing.pdq import Pdq
from streams.frame import Frame, SampleReason
from streams.job import SourceKind
from streams.keeper import Keeper, Nursery, ReaderFailed, SourceUnreachable
from streams.nursery import NurseryBroken
from streams.wire import Ended

_WAITING_EACH: Final = 4
"""Files that may wait for each that is decoded."""

_SECONDS: Final = 20.0


class TooManyFiles(Exception):
    """Raised where as many files are in hand as may be; nothing was done."""


class NoPicture(Exception):
    """Raised for bytes that give no picture; one sentence without anything of them."""


class Pictures:
    """Hashes pictures, few at once. `admitted()` is held for as long as a file is in memory."""

    def __init__(self, nursery: Nursery, config: Callable[[], Config]) -> None:
        self._nursery = nursery
        self._config = config
        self._cages = asyncio.Semaphore(config().hma.pictures_at_once)
        self._room = config().hma.pictures_at_once * (1 + _WAITING_EACH)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Take one of the places. Raises `TooManyFiles`."""
        if self._room == 0:
            raise TooManyFiles
        self._room -= 1
        try:
            yield
        finally:
            self._room += 1

    async def pdq(self, content: bytes) -> str | None:
        """The PDQ hash of a picture in hex, or None where its quality is below HMA's 50.

        Raises:
            NoPicture: it cannot be decoded, is no picture, or takes too long.
        """
        try:
            async with self._cages, asyncio.timeout(_SECONDS):
                frame = await self._first_frame(content)
        except TimeoutError:
            raise NoPicture(f"the picture was not decoded within {_SECONDS:g} s") from None
        except (SourceUnreachable, NurseryBroken, ReaderFailed):
            raise NoPicture("the picture could not be decoded") from None
        fingerprint = Pdq().hash_plane(plane_of(frame))
        return fingerprint.value.hex() if fingerprint.quality >= MIN_QUALITY else None

    async def _first_frame(self, content: bytes) -> Frame:
        job = reader_job(self._config(), "", SourceKind.FILE, "", live=False)
        with _in_memory(content) as descriptor:
            async with Keeper(self._nursery, job, descriptor) as keeper:
                async for message in keeper.messages():
                    if isinstance(message, Frame) and message.reason is SampleReason.PICTURE:
                        return message
                    if isinstance(message, Frame | Ended):
                        break
        raise NoPicture("the file is no PNG, JPEG or WebP picture, or a broken one")


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("stopframe-picture", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)

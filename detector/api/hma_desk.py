"""What HMA's routes share: the thread of the look-ups, reading a request within bounds, and HMA's refusals."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Self, TypeVar

from fastapi import HTTPException, Query, Request
from starlette.requests import ClientDisconnect

from detector.api.hma_banks import PDQ, PDQ_BITS, HmaBanks
from detector.api.hma_form import FormInvalid, form_files
from detector.api.hma_pictures import NoPicture, Pictures, TooManyFiles

_T = TypeVar("_T")

MOST_WAITING: Final = 64
"""Look-ups that may wait for the one thread; what comes then is refused."""

NO_URL: Final = "no URL is fetched here: send the file itself by POST, or its hash as signal and signal_type"

_FORM_BYTES: Final = 64 * 1024
"""Of a form beside its file."""
_HASH: Final = re.compile(rf"[0-9a-f]{{{PDQ_BITS // 4}}}", re.ASCII)
_CONTENT_TYPE: Final = "photo"

Text = Annotated[str | None, Query(max_length=4096)]


class LookUps:
    """`async with LookUps() as look_ups`: the thread in which banks are read, so that the event loop never is.

    A look-up takes below a millisecond in a list of a million, but the first after a change opens files, and a disk may
    hang: the loop that streams are watched in waits for neither. One thread is enough, and needs no lock.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stopframe-hma")
        self._waiting = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do `work` there. Raises `HTTPException` where too much waits already."""
        if self._waiting >= MOST_WAITING:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "too many look-ups wait; ask again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        finally:
            self._waiting -= 1


@dataclass(frozen=True, slots=True)
class HmaParts:
    """What the routes ask. `limit_bytes` is that of one file."""

    banks: HmaBanks
    pictures: Pictures
    look_ups: LookUps
    limit_bytes: int


def is_hash(signal: object) -> bool:
    """Whether it is what `PdqSignal.validate_signal_str` lets pass."""
    return isinstance(signal, str) and _HASH.fullmatch(signal) is not None


def check_type(signal_type: str) -> None:
    """Raise what HMA answers to a signal type that it has not."""
    if signal_type != PDQ:
        raise bad(f"No such SignalType '{shown(signal_type)}'")


def value_of(signal: str, signal_type: str) -> bytes:
    """The hash's bytes; raises what HMA answers to another type, or to what is no hash."""
    check_type(signal_type)
    if not is_hash(signal):
        raise bad("invalid signal: invalid PDQ hash")
    return bytes.fromhex(signal)


async def hash_of_upload(request: Request, parts: HmaParts) -> str | None:
    """The PDQ hash of the one file of a form, in the field `photo`; None where there is too little to see in it."""
    wanted = (one.strip() for one in request.query_params.get("types", "").split(","))
    for word in wanted:
        if word not in ("", PDQ):
            raise bad(f"signal type '{shown(word)}' doesn't exist or is disabled")
    try:
        async with _uploaded(request, parts) as content:
            return await parts.pictures.pdq(content)
    except TooManyFiles:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "too many files are in hand; send it again later") from None
    except (FormInvalid, NoPicture) as error:
        raise bad(str(error)) from None


@asynccontextmanager
async def _uploaded(request: Request, parts: HmaParts) -> AsyncIterator[bytes]:
    """The file, held in memory for as long as the block lasts."""
    limit = parts.limit_bytes
    async with parts.pictures.admitted():
        files = form_files(request.headers.get("content-type", ""), await body_of(request, limit + _FORM_BYTES))
        if not files:
            raise bad("Missing multipart/form-data file upload")
        if len(files) > 1:
            raise bad("Only one file allowed per request")
        if files[0].name != _CONTENT_TYPE:
            raise bad(f"no such content_type: '{shown(files[0].name)}'")
        if len(files[0].content) > limit:
            raise _too_long(limit)
        yield files[0].content


async def body_of(request: Request, limit: int) -> bytes:
    """The body, up to so many bytes."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_long(limit)
    except ClientDisconnect:
        raise bad("the request was not sent to its end") from None
    return bytes(body)


def bad(sentence: str) -> HTTPException:
    """What is answered to a request that makes no sense."""
    return HTTPException(HTTPStatus.BAD_REQUEST, sentence)


def _too_long(limit: int) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"no more than {limit} bytes are taken here")


def shown(word: str | None) -> str:
    """What a client sent, as far as an answer repeats it: HMA names the type or the bank that it does not know."""
    return "".join(one for one in (word or "")[:64] if one.isprintable())

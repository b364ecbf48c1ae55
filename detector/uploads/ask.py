"""What an upload's head says: how long the file is, what is wanted of the look; or why it is refused. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from detector.config.uploads import UploadsSection
from detector.metric_words import UploadEnd

_MOST_PARAMETERS: Final = 8
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


class UploadRefused(Exception):
    """Raised where an upload is not looked at; the text is one sentence. `retry_seconds`: when it is worth a try."""

    def __init__(self, status: HTTPStatus, end: UploadEnd, sentence: str, *, retry_seconds: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.end = end
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True)
class Ask:
    """One upload as its head announces it. `length_bytes` is None where it comes in chunks of unknown number."""

    length_bytes: int | None
    until_first_cut: bool = False


def read_ask(headers: Mapping[str, str], query: Iterable[tuple[str, str]], limits: UploadsSection) -> Ask:
    """Read the head of a request: `headers` by lower-case name, `query` as pairs. Raises `UploadRefused`."""
    _refuse_wrapped(headers)
    return Ask(_length(headers, limits.size_limit.bytes), _wants_first_cut(query))


def too_long(limit_bytes: int) -> UploadRefused:
    """The refusal of a file that is longer than one may be."""
    sentence = f"the file is longer than the {limit_bytes} bytes of uploads.size_limit."
    return UploadRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, UploadEnd.TOO_LONG, sentence)


def _refuse_wrapped(headers: Mapping[str, str]) -> None:
    """The body is the file itself: what is packed or wrapped is no media, and unpacking it is not ours."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise UploadRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            UploadEnd.BAD_REQUEST,
            "send the file itself as the body, not a form (with curl: --data-binary @FILE).",
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UploadRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, UploadEnd.BAD_REQUEST, "send the file without a Content-Encoding."
        )


def _length(headers: Mapping[str, str], limit_bytes: int) -> int | None:
    # Both together are refused by the server, before this is asked.
    if headers.get("transfer-encoding", "").strip().lower() == "chunked":
        return None
    stated = headers.get("content-length")
    if stated is None:
        sentence = "say how long the file is (Content-Length), or send it in chunks."
        raise UploadRefused(HTTPStatus.LENGTH_REQUIRED, UploadEnd.BAD_REQUEST, sentence)
    if not _LENGTH.fullmatch(stated):
        raise UploadRefused(HTTPStatus.BAD_REQUEST, UploadEnd.BAD_REQUEST, "Content-Length is no number of bytes.")
    length = int(stated)
    if not length:
        raise empty()
    if length > limit_bytes:
        raise too_long(limit_bytes)
    return length


def empty() -> UploadRefused:
    """The refusal of a request without a file."""
    return UploadRefused(HTTPStatus.BAD_REQUEST, UploadEnd.BAD_REQUEST, "the body is empty; send the file as the body.")


def _wants_first_cut(query: Iterable[tuple[str, str]]) -> bool:
    wanted = False
    for place, (name, value) in enumerate(query):
        if place >= _MOST_PARAMETERS or name != "until" or value not in ("end", "first_cut"):
            sentence = "the only parameter is until: end (the default) or first_cut."
            raise UploadRefused(HTTPStatus.BAD_REQUEST, UploadEnd.BAD_REQUEST, sentence)
        wanted = value == "first_cut"
    return wanted


class Pace:
    """Whether a file comes fast enough: so many bytes a second on average, after a grace. Times are passed in.

    A client that sends a byte now and then buys no time with it: what counts is all that came since it began.
    """

    def __init__(self, began_at: float, bytes_per_second: float, longest_seconds: float) -> None:
        self._began_at = began_at
        self._bytes_per_second = bytes_per_second
        self._longest_seconds = longest_seconds
        self._excused_seconds = 0.0

    def excuse(self, seconds: float) -> None:
        """Do not count `seconds` in which the client was kept waiting: the disk was slow, not the line."""
        self._excused_seconds += seconds

    def ends_at(self, received_bytes: int) -> float:
        """Until when the next byte must have come, if so many have."""
        paid = GRACE_SECONDS + self._excused_seconds + received_bytes / self._bytes_per_second
        return self._began_at + min(paid, self._longest_seconds)

    def refusal(self, received_bytes: int, now: float) -> UploadRefused:
        """What is said of a file that did not come in time."""
        if now - self._began_at >= self._longest_seconds:
            what = f"is not here after the {self._longest_seconds:g} s of uploads.receive_within"
        else:
            what = f"comes slower than the {self._bytes_per_second:g} bytes a second of uploads.slowest"
        sentence = f"the file {what}; {received_bytes} bytes came; send it again over a faster line."
        return UploadRefused(HTTPStatus.REQUEST_TIMEOUT, UploadEnd.SLOW, sentence)


GRACE_SECONDS: Final = 10.0
"""From the head of a request: so long nothing need have come."""

"""A client of HMA: which of its banks hold something like a hash. It sends that hash, and nothing else, ever.

`GET /m/lookup` as facebook/ThreatExchange's hasher-matcher-actioner answers it (blueprints/matching.py, `lookup_get`).
Whoever answers may be slow, broken or hostile: one deadline bounds a question, a few kilobytes its answer.
"""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from detector.config.second_opinion import SecondOpinionSection
from detector.outgoing import TooLong, client, read_body, why_unreached

ANSWER_BYTES: Final = 256 << 10
"""Of some thousand matches. Nothing longer is read."""

MOST_MATCHES: Final = 16
MOST_BITS: Final = 31
"""HMA's limit for PDQ; what is further off is no match, whoever says so."""

_BANK: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)
_MOST_ID: Final = 1 << 63


class HmaUnavailable(Exception):
    """Raised where there is no answer, or none that HMA would give: a few words, without anything that was sent."""


@dataclass(frozen=True, slots=True)
class RemoteMatch:
    """What one of its banks holds, and how many bits off."""

    bank: str
    content_id: int
    distance: int


class HmaClient:
    """`async with HmaClient(section) as hma`: questions to one HMA. TLS is verified, redirects are not followed."""

    def __init__(self, section: SecondOpinionSection) -> None:
        assert section.url is not None
        self._section = section
        self._url = f"{section.url.reveal().rstrip('/')}/m/lookup"
        self._resources = AsyncExitStack()
        self._http: httpx.AsyncClient | None = None
        parts = urlsplit(self._url)
        self.origin: Final = f"{parts.scheme}://{parts.netloc}"

    async def __aenter__(self) -> Self:
        """Make the client; nothing is asked yet. Raises `HmaUnavailable` where the authorities' file is none."""
        token, ca_file = self._section.token, self._section.ca_file
        bearer = {} if token is None else {"authorization": f"Bearer {token.current()}"}
        try:
            http = client(
                self._section.timeout.seconds,
                ca_file=ca_file,
                headers=bearer,
                limits=httpx.Limits(max_connections=self._section.at_once, keepalive_expiry=5.0),
            )
        except OSError:
            raise HmaUnavailable("second_opinion.ca_file is no readable PEM file") from None
        self._http = await self._resources.enter_async_context(http)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._http = None
        await self._resources.aclose()

    async def lookup(self, fingerprint: bytes) -> tuple[RemoteMatch, ...]:
        """What the wanted banks hold within 31 bits of a PDQ hash, the nearest first, 16 at most.

        Raises:
            HmaUnavailable: there is no answer within the timeout, or it is not HMA's.
        """
        assert self._http is not None, "use the client in its block"
        asked = {"signal": fingerprint.hex(), "signal_type": "pdq"}
        if self._section.banks:
            asked["banks"] = ",".join(self._section.banks)
        try:
            async with asyncio.timeout(self._section.timeout.seconds):
                body = await self._get(self._http, asked)
        except (TimeoutError, httpx.TimeoutException):
            raise HmaUnavailable(f"it did not answer within {self._section.timeout}") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise HmaUnavailable(f"it cannot be reached: {why_unreached(error)}") from None
        return _matches(body, frozenset(self._section.banks))

    async def _get(self, http: httpx.AsyncClient, asked: dict[str, str]) -> bytes:
        async with http.stream("GET", self._url, params=asked) as response:
            if response.status_code != httpx.codes.OK:
                raise HmaUnavailable(f"it answered {response.status_code}")
            try:
                return await read_body(response, ANSWER_BYTES)
            except TooLong as error:
                raise HmaUnavailable(f"its answer is {error}") from None


def _matches(body: bytes, wanted: frozenset[str]) -> tuple[RemoteMatch, ...]:
    try:
        by_bank = json.loads(body)
    except (ValueError, RecursionError):
        raise HmaUnavailable("its answer is no JSON") from None
    if not isinstance(by_bank, dict) or not all(isinstance(found, list) for found in by_bank.values()):
        raise HmaUnavailable("its answer names no banks")
    found = [_match(bank, one) for bank, several in by_bank.items() for one in several]
    near = [one for one in found if one.distance <= MOST_BITS and (not wanted or one.bank in wanted)]
    return tuple(sorted(near, key=lambda one: (one.distance, one.bank, one.content_id))[:MOST_MATCHES])


def _match(bank: str, raw: Any) -> RemoteMatch:
    number, distance = (raw.get("bank_content_id"), raw.get("distance")) if isinstance(raw, dict) else (None, None)
    is_distance = isinstance(distance, str) and distance.isascii() and distance.isdigit() and len(distance) <= 3
    if not _BANK.fullmatch(bank) or type(number) is not int or not 0 <= number < _MOST_ID or not is_distance:
        raise HmaUnavailable("its answer is not of HMA's form")
    return RemoteMatch(bank, number, int(str(distance)))

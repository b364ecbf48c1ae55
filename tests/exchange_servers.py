"""Exchanges on loopback, in the shapes that their clients document, filled with hashes of nothing.

Names of paths, parameters and fields are those of python-threatexchange 1.2.17 (exchanges/clients); nothing here ever
was on a list of anybody's.
"""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from benchmarks.loopback import serving

NOW = 1_800_000_000.0
"""The time that tests give clients."""


def made_up(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """So many hashes of 256 random bits, (N, 32) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """One answer; `pieces` come one after the other, `pause` seconds apart, with no length said before."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    headers: tuple[str, ...] = ()
    pieces: AsyncIterator[bytes] | None = None

    @classmethod
    def of(cls, content: Any, **more: Any) -> Self:
        return cls(json.dumps(content).encode(), **more)


@dataclass
class FakeExchange:
    """`async with FakeExchange(answer) as exchange`: `answer` is asked for each request, `asked` holds them all."""

    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self.port = await self._open.enter_async_context(serving(self._serve, port=self.port, tls=self.tls))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        head = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines if one)}
        body = await reader.readexactly(int(head.get("content-length", 0)))
        method, target, _ = first.split()
        parts = urlsplit(target)
        asked = Asked(method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), head, body)
        self.asked.append(asked)
        reply = self.answer(asked)
        told = [f"HTTP/1.1 {reply.status} X", f"content-type: {reply.kind}", "connection: close", *reply.headers]
        if reply.pieces is None:
            told.append(f"content-length: {len(reply.body)}")
        writer.write("\r\n".join([*told, "", ""]).encode() + reply.body)
        await writer.drain()
        if reply.pieces is not None:
            async for piece in reply.pieces:
                writer.write(piece)
                await writer.drain()


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Record:
    """What an exchange has of one entry: since when, and whether it is gone."""

    entry: str
    value: str
    at: float
    is_gone: bool = False


@dataclass
class Holdings:
    """The entries of an exchange, as pages of `size`; `broken_after` pages it forgets where it was, once."""

    records: dict[str, Record] = field(default_factory=dict)
    size: int = 3
    broken_after: int | None = None

    def put(self, entry: str, value: bytes | NDArray[np.uint8], at: float, *, is_gone: bool = False) -> None:
        self.records[entry] = Record(entry, bytes(value).hex(), at, is_gone)

    def since(self, start: float, *, with_gone: bool) -> list[Record]:
        return [one for one in self.records.values() if one.at >= start and (with_gone or not one.is_gone)]

    def page(self, found: list[Record], number: int) -> tuple[list[Record], bool]:
        """A page of what was found, and whether more follow."""
        return found[number * self.size : (number + 1) * self.size], (number + 1) * self.size < len(found)

    def forgets(self, number: int) -> bool:
        if self.broken_after is not None and number >= self.broken_after:
            self.broken_after = None
            return True
        return False


def stopncii(holdings: Holdings) -> Callable[[Asked], Reply]:
    """`FetchHashes`: the keys are `function` and `subscription`."""

    def answer(asked: Asked) -> Reply:
        keys = (asked.headers.get("x-functions-key"), asked.headers.get("ocp-apim-subscription-key"))
        if keys != ("function", "subscription") or asked.path != "/v1/FetchHashes":
            return Reply(status=401)
        number = int(asked.query.get("nextPageToken", "page0").removeprefix("page"))
        if holdings.forgets(number):
            return Reply(status=400)
        start = float(asked.query["startTimestamp"])
        found = holdings.since(start, with_gone=start > 10)
        records, has_more = holdings.page(found, number)
        return Reply.of(
            {
                "count": len(records),
                "nextPageToken": f"page{number + 1}" if has_more else None,
                "nextSetTimestamp": int(max([one.at for one in found] or [start])),
                "hasMoreRecords": has_more,
                "hashRecords": [
                    {
                        "lastModtimestamp": int(one.at),
                        "signalType": "ImagePDQ",
                        "hashValue": one.value,
                        "hashStatus": "Withdrawn" if one.is_gone else "Active",
                        "caseNumbers": {},
                        "CSPFeedbacks": [{"feedbackValue": "Blocked", "tags": [], "source": "somebody"}],
                    }
                    for one in records
                ],
            }
        )

    return answer


def tat(holdings: Holdings) -> Callable[[Asked], Reply]:
    """`token-auth/tcap/` and `api/hash-list/v2/all`: the login is `name` and `word`."""

    def answer(asked: Asked) -> Reply:
        if asked.path == "/token-auth/tcap/" and asked.method == "POST":
            form = dict(parse_qsl(asked.body.decode()))
            right = (form.get("username"), form.get("password")) == ("name", "word")
            return Reply.of({"user": {}, "token": "a-made-up-token"}) if right else Reply(status=401)
        if asked.headers.get("authorization") != "Bearer a-made-up-token":
            return Reply(status=401)
        number = int(asked.query.get("offset", "0")) // holdings.size
        if holdings.forgets(number):
            return Reply(status=404)
        start = float(asked.query["after"].partition(",")[0] or 0)
        found = holdings.since(start, with_gone=start > 0)
        records, has_more = holdings.page(found, number)
        last = records[-1] if records else None
        return Reply.of(
            {
                "count": len(found),
                "next": f"limit={holdings.size}&offset={(number + 1) * holdings.size}" if has_more else None,
                "previous": None,
                "checkpoint": f"{last.at},{last.entry}" if last else "",
                "results": [
                    {
                        "hash_digest": one.value,
                        "algorithm": "PDQ",
                        "ideology": "far-right",
                        "file_type": "jpg",
                        "deleted": one.is_gone,
                        "updated_on": one.at,
                        "created_on": utc(one.at),
                        "id": int(one.entry),
                    }
                    for one in records
                ],
            }
        )

    return answer


def threatexchange(holdings: Holdings) -> Callable[[Asked], Reply]:
    """`/<privacy group>/threat_updates/`: the group is 77, the token `app|token`."""

    def answer(asked: Asked) -> Reply:
        if asked.query.get("access_token") != "app|token" or asked.path != "/v26.0/77/threat_updates/":
            return Reply(status=401)
        number = int(asked.query.get("after", "0"))
        if holdings.forgets(number):
            return Reply(status=400)
        start = float(asked.query.get("start_time", "0"))
        found = holdings.since(start, with_gone=start > 0)
        records, has_more = holdings.page(found, number)
        given = f"&start_time={asked.query['start_time']}" if "start_time" in asked.query else ""
        link = f"http://{asked.headers['host']}{asked.path}?access_token=app%7Ctoken{given}"
        return Reply.of(
            {
                "data": [
                    {
                        "id": one.entry,
                        "indicator": one.value,
                        "type": "HASH_PDQ",
                        "last_updated": int(one.at),
                        "should_delete": one.is_gone,
                        "descriptors": {"data": [{"id": "1", "owner": {"id": "5"}, "status": "MALICIOUS", "tags": []}]},
                    }
                    for one in records
                ],
                "paging": {"next": f"{link}&after={number + 1}"} if has_more else {"cursors": {"after": "x"}},
            }
        )

    return answer


def ncmec(holdings: Holdings) -> Callable[[Asked], Reply]:
    """`/v2/entries` below `/hashsharing`: the login is `name` and `word`. Entries are `<member>-<id>`, in no order."""
    basic = "Basic " + base64.b64encode(b"name:word").decode()

    def answer(asked: Asked) -> Reply:
        if asked.headers.get("authorization") != basic or asked.path != "/hashsharing/v2/entries":
            return Reply(status=401, kind="text/plain")
        number = int(asked.query.get("start", "0"))
        if holdings.forgets(number):
            return Reply(status=404, kind="text/plain")
        begin, end = (datetime.fromisoformat(asked.query[name]).timestamp() for name in ("from", "to"))
        found = [one for one in holdings.since(begin, with_gone=begin > 0) if one.at <= end]
        records, has_more = holdings.page(found[::-1], number)
        same = f"from={asked.query['from']}&amp;to={asked.query['to']}"
        link = f"/v2/entries?{same}&amp;start={number + 1}&amp;size=3&amp;max=9"
        return Reply(_ncmec_page(records, link if has_more else "").encode(), kind="application/xml;charset=UTF-8")

    return answer


def _ncmec_page(records: list[Record], link: str) -> str:
    images = ""
    for one in records:
        member, _, entry = one.entry.partition("-")
        kind, hashes = (
            ("deletedImage", "") if one.is_gone else ("image", f"<md5>{'0' * 32}</md5><pdq>{one.value}</pdq>")
        )
        rest = f"<classification>A1</classification><fingerprints>{hashes}</fingerprints>" if hashes else ""
        images += (
            f'<{kind}><member id="{member}">made up</member><timestamp>{utc(one.at)}</timestamp>'
            f"<id>{entry}</id>{rest}</{kind}>"
        )
    latest = utc(max([one.at for one in records] or [0]))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2">'
        f'<images count="{len(records)}" maxTimestamp="{latest}">{images}</images>'
        f"<paging>{f'<next>{link}</next>' if link else ''}</paging></queryResult>"
    )

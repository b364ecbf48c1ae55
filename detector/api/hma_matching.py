"""HMA's `/m` routes: looking hashes up, comparing two, and the state of the index."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import APIRouter, HTTPException, Request

from detector.api.hma_banks import MOST_BITS, PDQ, Found, coin
from detector.api.hma_desk import (
    NO_URL,
    HmaParts,
    Text,
    bad,
    body_of,
    check_type,
    hash_of_upload,
    is_hash,
    shown,
    value_of,
)

_T = TypeVar("_T")

_COMPARISON_BYTES: Final = 16 * 1024

Matches = dict[str, list[dict[str, Any]]]
"""Matches by bank."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of which banks a client asks (None for all), and which roll-out it fell into this time."""

    banks: frozenset[str] | None
    coin: float

    @classmethod
    def of(cls, banks: str | None, seed: str | None, *, is_bypassed: bool) -> "_Asked":
        return cls(_names(banks), 0.0 if is_bypassed else coin(seed))


def matching(parts: HmaParts) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_lookups(router, parts)
    _add_raw_lookup(router, parts)
    _add_index(router, parts)
    return router


def _add_lookups(router: APIRouter, parts: HmaParts) -> None:
    @router.get("/lookup")
    async def lookup(
        url: Text = None,
        signal: Text = None,
        signal_type: Text = None,
        banks: Text = None,
        seed: Text = None,
        *,
        bypass_coinflip: bool = False,
    ) -> Matches:
        """Which banks hold something like a hash."""
        if url:
            raise HTTPException(HTTPStatus.FORBIDDEN, NO_URL)
        if not signal or not signal_type:
            raise bad("Either url or both signal and signal_type are required")
        value = value_of(signal, signal_type)
        return await _matches(parts, value, _Asked.of(banks, seed, is_bypassed=bypass_coinflip))

    @router.post("/lookup")
    async def lookup_file(request: Request) -> dict[str, Matches]:
        """The same for the picture in a form."""
        given = request.query_params
        is_bypassed = given.get("bypass_coinflip", "false") == "true"
        asked = _Asked.of(given.get("banks"), given.get("seed"), is_bypassed=is_bypassed)
        signal = await hash_of_upload(request, parts)
        return {PDQ: {} if signal is None else await _matches(parts, bytes.fromhex(signal), asked)}


def _add_raw_lookup(router: APIRouter, parts: HmaParts) -> None:
    @router.get("/raw_lookup")
    async def raw_lookup(
        signal: Text = None, signal_type: Text = None, banks: Text = None, *, include_distance: bool = False
    ) -> dict[str, Any]:
        """Everything within reach, whether or not it may act."""
        if signal is None or signal_type is None:
            raise bad(f"{'signal' if signal is None else 'signal_type'} is required")
        value, names = value_of(signal, signal_type), _names(banks)
        found = await _ready(parts, lambda: parts.banks.find(value, names))
        return {"matches": [_match(one) if include_distance else one.content_id for one in found]}


def _add_index(router: APIRouter, parts: HmaParts) -> None:
    @router.get("/index/status")
    async def index_status(signal_type: Text = None) -> dict[str, Any]:
        """How many hashes are indexed, and up to when."""
        if signal_type not in (None, PDQ):
            raise bad(f"No such signal type '{shown(signal_type)}'")
        status = await parts.look_ups.run(parts.banks.status)
        return {PDQ: {"present": status.built_to >= 0, "built_to": status.built_to, "size": status.size}}

    @router.post("/compare")
    async def compare(request: Request) -> dict[str, Any]:
        """How far two hashes lie apart, and whether that is a match."""
        try:
            asked = json.loads(await body_of(request, _COMPARISON_BYTES))
        except (ValueError, RecursionError):
            raise bad("Request input was no JSON") from None
        if not isinstance(asked, dict):
            raise bad("Request input was not a dict")
        return {name: _compared(name, pair) for name, pair in asked.items()}


async def _matches(parts: HmaParts, value: bytes, asked: _Asked) -> Matches:
    def look() -> Matches:
        ratios = parts.banks.ratios()
        by_bank: Matches = {}
        for one in parts.banks.find(value, asked.banks):
            if one.is_enabled and ratios.get(one.bank, 0.0) >= asked.coin:
                by_bank.setdefault(one.bank, []).append(_match(one))
        return by_bank

    return await _ready(parts, look)


async def _ready(parts: HmaParts, look: Callable[[], _T]) -> _T:
    if not (await parts.look_ups.run(parts.banks.status)).is_loaded:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "index not yet ready")
    return await parts.look_ups.run(look)


def _names(banks: str | None) -> frozenset[str] | None:
    return frozenset(banks.split(",")) if banks else None


def _match(found: Found) -> dict[str, Any]:
    return {"bank_content_id": found.content_id, "distance": str(found.distance)}


def _compared(signal_type: str, pair: object) -> list[Any]:
    if not isinstance(pair, list):
        raise bad(f"Comparison hashes for {shown(signal_type)} was not a list")
    if len(pair) != 2:
        raise bad("Comparison hash list length must be exactly 2")
    check_type(signal_type)
    if not all(is_hash(one) for one in pair):
        raise bad(f"Invalid {PDQ} hash: invalid PDQ hash")
    distance = (int(pair[0], 16) ^ int(pair[1], 16)).bit_count()
    return [distance <= MOST_BITS, {"distance": distance}]

"""HMA's routes over a real socket: pictures are hashed in cages, behind the token, few at once, and never by us."""

import asyncio
import io
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from detector.api.hma import hma_routes
from detector.api.server import HttpServer
from detector.config.config import Config
from detector.config.references import Secret
from streams.keeper import Nursery
from tests.contract.test_hma_server import TOKEN, Served, put
from tests.hma_client import HmaClient
from tests.scenes import scene

RIGHT = {"Authorization": f"Bearer {TOKEN}"}


def _png(mode: str = "RGB", side: int = 320) -> bytes:
    picture = Image.fromarray(scene(7)).convert("RGB").resize((side, side)).convert(mode)
    file = io.BytesIO()
    picture.save(file, "TIFF" if mode == "F" else "JPEG" if mode == "CMYK" else "PNG")
    return file.getvalue()


@asynccontextmanager
async def _serving(
    state_dir: Path, nursery: Nursery, headers: dict[str, str] | None = None, **hma: Any
) -> AsyncIterator[HmaClient]:
    served = Served(
        Config.model_validate(
            {"state_dir": str(state_dir), "http": {"token": Secret("test", TOKEN)}, "hma": {"enabled": True, **hma}}
        )
    )
    app = FastAPI()
    async with (
        hma_routes(app, served, nursery),
        HttpServer(app, "127.0.0.1", 0) as server,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}{served.config.hma.prefix}",
            headers=RIGHT if headers is None else headers,
            timeout=30,
        ) as http,
    ):
        yield HmaClient(http)


async def test_pictures_come_in_and_known_ones_are_found(tmp_path: Path) -> None:
    """By POST as HMA takes them: the hash alone, the matches, whatever the picture's mode is; what is none gets 400."""
    async with Nursery("streams.reader:main", silences_children=True) as nursery, _serving(tmp_path, nursery) as client:
        signal = (await client.hash_file(_png()))["pdq"]
        known = put(tmp_path, "BANK", "photograph", signal)
        async with asyncio.timeout(30):
            while not (await client.lookup_file(_png()))["pdq"]:  # the bank is taken up within a second
                await asyncio.sleep(0.1)
        assert await client.lookup_file(_png()) == {"pdq": {"BANK": [{"bank_content_id": known, "distance": "0"}]}}

        for mode in ("L", "P", "RGBA", "LA", "1", "I;16", "CMYK"):
            answer = await client.http.post("/h/hash", files={"photo": ("a", _png(mode))})
            assert answer.status_code == 200, (mode, answer.text)
            moved = (int(answer.json()["pdq"] or "0", 16) ^ int(signal, 16)).bit_count()
            assert mode in ("1", "I;16") or moved <= 31, (mode, moved)  # those two show something else
        flat = io.BytesIO()
        Image.new("RGB", (64, 64), (90, 90, 90)).save(flat, "PNG")
        assert await client.hash_file(flat.getvalue()) == {"pdq": ""}
        assert await client.lookup_file(flat.getvalue()) == {"pdq": {}}

        for content in (b"", b"no picture", _png()[:200], _png("F"), _bomb()):
            refused = await client.http.post("/m/lookup", files={"photo": ("a", content)})
            assert refused.status_code == 400, refused.text
            assert "picture" in refused.json()["message"]
        assert (await client.http.post("/h/hash", files={"video": ("a", b"")})).json() == {
            "message": "no such content_type: 'video'"
        }
        two = {"photo": ("a", b"1"), "other": ("b", b"2")}
        assert (await client.http.post("/h/hash", files=two)).json()["message"] == "Only one file allowed per request"
        unknown = await client.http.post("/h/hash?types=pdq,md6", files={"photo": ("a", b"1")})
        assert unknown.json()["message"] == "signal type 'md6' doesn't exist or is disabled"
        assert nursery.live_children == 0


def _bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = (30_000).to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


async def test_the_door_and_the_bounds_hold(tmp_path: Path) -> None:
    """Without the token nothing is read; a file too long gets 413, one too many 503, and both leave room behind."""
    async with Nursery("streams.reader:main", silences_children=True) as nursery:
        async with _serving(tmp_path, nursery, headers={}) as stranger:
            for path in ("/m/lookup", "/status", "/c/banks"):
                assert (await stranger.http.get(path)).status_code == 401
            assert (await stranger.http.post("/h/hash", content=bytes(1 << 20))).status_code == 401
        async with _serving(tmp_path, nursery, picture_limit="64KiB", pictures_at_once=1) as client:
            long = await client.http.post("/h/hash", files={"photo": ("a", bytes(70_000))})
            assert long.status_code == 413
            endless = await client.http.post("/h/hash", content=_endless())
            assert endless.status_code == 413
            answers = await asyncio.gather(
                *(client.http.post("/h/hash", files={"photo": ("a", _png(side=64))}) for _ in range(12))
            )
            statuses = [one.status_code for one in answers]
            assert set(statuses) <= {200, 503}
            assert 5 <= statuses.count(200) < 12
            assert (await client.http.post("/h/hash", files={"photo": ("a", _png(side=64))})).status_code == 200


async def _endless() -> AsyncIterator[bytes]:
    for _ in range(64):
        yield bytes(16 * 1024)


@pytest.mark.parametrize("prefix", ["/", "/match/api"])
async def test_the_prefix_is_the_operators(tmp_path: Path, prefix: str) -> None:
    """At the root, as HMA itself, or where a proxy wants it."""
    async with _serving(tmp_path, Nursery("streams.reader:main"), prefix=prefix) as client:
        assert await client.is_ready()

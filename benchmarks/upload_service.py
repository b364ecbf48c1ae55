"""The real service with its door for uploads open, and a client of it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.running import RunningService
from benchmarks.upload_material import picture

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of a service on loopback that lives for seconds
BANK = "CARDS"

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 120.0


class UploadService(RunningService):
    """As `RunningService`, with `TOKEN`, and the cards `known` in the bank `BANK` at step cut."""

    def __init__(self, folder: Path, settings: str = "", *, known: Sequence[int]) -> None:
        super().__init__(folder, f"{settings}\nbanks: {{{BANK}: {{step: cut}}}}" if known else settings)
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        listen = f"http: {{listen: 127.0.0.1:{self.http_port}"
        written = self.config.read_text()
        assert f"{listen}}}" in written
        self.config.write_text(written.replace(f"{listen}}}", f"{listen}, token: {{file: token}}}}"))
        self._url = f"http://127.0.0.1:{self.http_port}"
        if known:
            self._learn(folder / "known", known)

    def _learn(self, folder: Path, known: Sequence[int]) -> None:
        folder.mkdir()
        for seed in known:
            (folder / f"card-{seed}.jpg").write_bytes(picture(seed, 1280, 720))
        command = [sys.executable, "-m", "detector", "hashes", "add", BANK, str(folder), "-c", str(self.config)]
        subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)

    def head(self, length_bytes: int | None) -> bytes:
        """Return the head of an upload, for who sends the rest as it likes; without a length it comes in chunks."""
        coming = "Transfer-Encoding: chunked" if length_bytes is None else f"Content-Length: {length_bytes}"
        return f"POST /scan HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n{coming}\r\n\r\n".encode()

    async def send(self, parts: AsyncIterator[bytes], length_bytes: int | None = None) -> tuple[int, dict[str, Any]]:
        """Send parts until there is an answer, as curl does; returns its status and what it says."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        sending = asyncio.create_task(_send(writer, self.head(length_bytes), parts, is_chunked=length_bytes is None))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                length = next(int(line.split(": ")[1]) for line in head if line.startswith("content-length"))
                return int(head[0].split()[1]), json.loads(await reader.readexactly(length))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    def scan(self, content: bytes | Iterable[bytes], query: str = "") -> httpx.Response:
        """Upload a file and wait for the answer."""
        with httpx.Client(verify=False, timeout=_PATIENCE_SECONDS) as client:  # noqa: S501 - plain HTTP, on loopback
            headers = {"Authorization": f"Bearer {TOKEN}"}
            return client.post(f"{self._url}/scan{query}", content=content, headers=headers)

    def value(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        with httpx.Client(verify=False) as client:  # noqa: S501 - plain HTTP, on loopback
            text = client.get(f"{self._url}/metrics").text
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


async def _send(writer: asyncio.StreamWriter, head: bytes, parts: AsyncIterator[bytes], *, is_chunked: bool) -> None:
    writer.write(head)
    async for part in parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
        await writer.drain()
    if is_chunked:
        writer.write(b"0\r\n\r\n")

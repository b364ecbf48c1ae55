"""A running service that follows its config file, and publishers of cards for it."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from detector.assembly import open_service
from detector.config_file import ConfigFile
from detector.service import Service
from detector.session import StreamSession

BASE = """
state_dir: state
ingest: {listen: "127.0.0.1:0"}
alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}
http: {listen: "127.0.0.1:0"}
analysis: {workers: 1}
votes: {k: 1, of: 1}
"""
QUICK = "sampling: {mode: full, interval: 200ms, detect_within: 1s}\n"
CARDS = "standin-cards/smptebars"
OTHERS = "standin-cards/testsrc2"


class Site:
    """A running service, its config file, and the publishers of a test."""

    def __init__(self, service: Service, path: Path) -> None:
        self.service = service
        self.path = path

    def write(self, more: str) -> float:
        """Replace the config as an editor does; returns when."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(BASE + more)
        at = time.monotonic()
        fresh.replace(self.path)
        return at

    async def until(self, happened: Callable[[], object], seconds: float = 60.0) -> float:
        """Wait until something is so; returns when that was."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.service.health()
            await asyncio.sleep(0.01)
        return time.monotonic()

    @property
    def session(self) -> StreamSession:
        """The one that publishes."""
        return next(one for one in self.service.supervisor.sessions.values() if one.key.server == "embedded")

    @asynccontextmanager
    async def published(self, script: str) -> AsyncIterator[StreamSession]:
        """Publish cards until the block ends; it begins when one frame was judged."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "detector.publisher", "--script", script),
            *("--url", f"{self.service.addresses.ingest}/live/key-of-mine"),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await self.until(lambda: any(one.judge.judged for one in self.service.supervisor.sessions.values()))
            yield self.session
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def open_site(folder: Path, more: str) -> AsyncIterator[Site]:
    """Run a service in `folder` under the base config and `more`."""
    path = folder / "stopframe.yaml"
    path.write_text(BASE + more)
    file = ConfigFile(path)
    reading = file.read()
    assert reading.config is not None, reading.faults
    async with open_service(reading.config, file) as service:
        yield Site(service, path)


def class_rule(step: str, review: float, name: str = CARDS) -> str:
    """A class whose rule is `step` from `review` on, sampled closely, with cuts in earnest."""
    rule = f"{{step: {step}, review: {review}, cut: {max(review, 0.6)}}}"
    return f"{QUICK}enforcement: {{live: true}}\nclasses: {{{name}: {rule}}}\n"

"""The real service in a process of its own, started, asked, killed and started again as an operator would."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.ports import free_port
from benchmarks.processes import Process, ServiceTree
from detector.api.client import ControlClient, ControlError
from detector.api.view import IncidentRow, StreamRow

_ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_VANISH_SECONDS = 5.0
_POLL_SECONDS = 0.02


class ServiceFailed(RuntimeError):
    """Raised where the service does not start, or does not do in time what was waited for."""


class RunningService:
    """`async with RunningService(folder, settings) as service`: `stopframe run` in `folder`, ended with the block.

    `settings` is YAML of every section but `state_dir`, `ingest` and `http`, which are given free ports here, as is the
    embedded broker where it says nothing of `alerts`. Its output goes to `service.log` in `folder`.
    """

    command = (sys.executable, "-m", "detector", "run", "-c")
    """What is run, with the config file behind it."""
    environment: Mapping[str, str] = MappingProxyType({})
    """Variables that are set beside ours."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.state_dir = folder / "state"
        self.ingest_port, self.http_port = free_port(), free_port()
        self.config = folder / "stopframe.yaml"
        self.log = folder / "service.log"
        folder.mkdir(parents=True, exist_ok=True)
        if "alerts:" not in settings:
            settings += '\nalerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}'
        self.config.write_text(
            f"state_dir: {self.state_dir}\nlog: {{format: json}}\n"
            f"ingest: {{listen: 127.0.0.1:{self.ingest_port}}}\nhttp: {{listen: 127.0.0.1:{self.http_port}}}\n"
            f"{settings}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._control: ControlClient | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def tree(self) -> ServiceTree:
        """The service's processes."""
        assert self._process is not None
        return ServiceTree(self._process.pid)

    async def start(self) -> float:
        """Start it and return after how many seconds it answered; raises `ServiceFailed`."""
        assert self._process is None
        started_at = time.monotonic()
        self._process = self._spawn()
        try:
            while not await asyncio.to_thread(self._answers):
                if self._process.poll() is not None or time.monotonic() - started_at > _START_SECONDS:
                    raise ServiceFailed(f"the service did not start; its last words: {self._last_words()}")
                await asyncio.sleep(_POLL_SECONDS)
        except BaseException:
            await self.kill()
            raise
        return time.monotonic() - started_at

    async def stop(self) -> float:
        """End it as an operator does (SIGTERM) and return how long that took.

        Raises `ServiceFailed`, after it was killed, if it did not end in time or not with exit code 0.
        """
        if self._process is None:
            return 0.0
        self._hang_up()
        begun_at = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        taken = time.monotonic() - begun_at
        await self.kill()
        if code != 0:
            how = f"ended with {code}" if code is not None else f"did not end within {_STOP_SECONDS:g} s of SIGTERM"
            raise ServiceFailed(f"the service {how}; its last words: {self._last_words()}")
        return taken

    async def kill(self) -> list[Process]:
        """Kill it with SIGKILL; returns what of it outlived it (and is killed now): a promise broken if not empty."""
        if self._process is None:
            return []
        self._hang_up()
        everyone = self.tree.everyone()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._process = None
        await wait_until(lambda: not any(one.is_running() for one in everyone), _VANISH_SECONDS)
        left = [one for one in everyone if one.is_running()]
        for one in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        return left

    async def streams(self) -> dict[str, StreamRow]:
        """Return the live streams by `app/name`."""
        assert self._control is not None
        return {row.path: row for row in await asyncio.to_thread(self._control.streams, keys=True)}

    async def incidents(self) -> list[IncidentRow]:
        """Return the incidents, newest first."""
        assert self._control is not None
        return await asyncio.to_thread(self._control.incidents, 1000)

    async def reload(self) -> None:
        """Have it take up its config file as it is now; raises `ServiceFailed` where that has a fault."""
        assert self._control is not None
        report = await asyncio.to_thread(self._control.reload)
        if report.faults:
            raise ServiceFailed(f"the service does not take the config: {report.faults[0]}")

    async def metrics(self) -> dict[str, float]:
        """Return every sample by its name and labels as exposed, such as `stopframe_cuts_total{state="confirmed"}`."""
        async with httpx.AsyncClient(verify=False) as client:  # noqa: S501 - plain HTTP: no certificates to load
            answer = await client.get(f"http://127.0.0.1:{self.http_port}/metrics")
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
        return samples

    async def wait_live(self, count: int, seconds: float) -> dict[str, StreamRow]:
        """Return the rows when `count` streams are live and a frame of each was analysed; raises `ServiceFailed`."""
        until = time.monotonic() + seconds
        while True:
            rows = await self.streams()
            seen = [row for row in rows.values() if row.state == "live" and row.last_sample_age_seconds is not None]
            if len(seen) >= count:
                return rows
            if time.monotonic() > until:
                raise ServiceFailed(f"{len(seen)} of {count} streams are live after {seconds:g} s")
            await asyncio.sleep(0.1)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, str(self.config)],
                cwd=_ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        control = ControlClient(self.state_dir)
        try:
            self._control = control.__enter__()
            self._control.status()
        except ControlError:
            self._hang_up()
            return False
        return True

    def _hang_up(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.__exit__(None, None, None)

    def _last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])[:2000]


async def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Look every few milliseconds until `condition` holds, at most so long; returns whether it does."""
    ends_at = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() > ends_at:
            return False
        await asyncio.sleep(_POLL_SECONDS)

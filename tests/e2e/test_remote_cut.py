"""A cut that another process makes: the service sees, the broker carries, `stopframe cutter` acts on a real nginx."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiomqtt
import pytest

from detector.assembly import open_service
from detector.config.loading import load_config
from detector.credentials import load_or_create
from detector.events import CutState
from detector.trust.keyring import load_keyring
from detector.trust.messages import Command, CommandName, build_command, command_topic
from detector.trust.signing import Signer, public_key_text
from tests.fixtures_brokers import Ear, Mosquitto, listening
from tests.fixtures_cli import ROOT
from tests.fixtures_nginx_rtmp import Nginx, live, make_clip, running_nginx
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs_mosquitto,
    pytest.mark.needs_nginx_rtmp,
    pytest.mark.needs_ffmpeg,
]

SERVICE = """
node: ingest-1
state_dir: service
sandbox: prefer
models: [standin-cards]
sampling: {mode: full, interval: 200ms, detect_within: 1s}
analysis: {workers: 1}
votes: {k: 1, of: 1}
classes: {standin-cards/smptebars: {step: cut, review: 0.6, cut: 0.6}}
enforcement: {live: true, where: remote, cutter: cutter}
"""
CUTTER = """
state_dir: cutter
secret: {file: service/secrets/deployment}
http: {listen: "127.0.0.1:0"}
"""


class Site:
    """The folders and configs of a service and its cutter, who know each other's keys, and an operator's key."""

    def __init__(self, folder: Path, nginx: Nginx, broker_port: int) -> None:
        self.folder = folder
        self.operator = self._signer("operator")
        nginx.secret = load_or_create(folder / "service").hook
        shared = f"ingest: {json.dumps({'kind': 'nginx-rtmp', **nginx.settings})}\n"
        url = f"mqtt://127.0.0.1:{broker_port}"
        self._write(
            "stopframe.yaml",
            f"{SERVICE}{shared}http: {{listen: '127.0.0.1:{nginx.hook_port}'}}\n"
            f"alerts: {{mqtt: {{url: '{url}', embedded_broker: false}}}}\n",
            cutter="[ack, alert]",
            operator="[command]",
        )
        self._write("cutter.yaml", f"{CUTTER}{shared}mqtt: {{url: '{url}'}}\n", service="[alert, command]")

    def _signer(self, who: str) -> Signer:
        folder = self.folder / who
        folder.mkdir(mode=0o700, exist_ok=True)
        return load_keyring(folder).signer

    def _write(self, name: str, text: str, **trusted: str) -> None:
        keys = [
            f"{{name: {who}, public_key: '{public_key_text(self._signer(who).public_key)}', may: {may}}}"
            for who, may in trusted.items()
        ]
        (self.folder / name).write_text(f"{text}trust: {{trusted_keys: [{', '.join(keys)}]}}\n")

    @contextlib.asynccontextmanager
    async def cutter(self) -> AsyncIterator[None]:
        """`stopframe cutter` as an operator starts it, until the block ends."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "detector", "cutter", "-c", str(self.folder / "cutter.yaml")),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def undo(self, incident: str) -> bytes:
        """The operator's signed command."""
        now = time.time_ns() // 1_000_000
        order = Command("ingest-1", CommandName.UNDO, {"incident": incident}, 1, now, now + 30_000)
        return build_command(order, self.operator)


def _said(ear: Ear, suffix: str, word: str) -> list[str]:
    return [json.loads(payload)[word] for payload in ear.of(suffix)]


async def test_a_card_is_cut_by_another_process_and_let_in_again(
    tmp_path: Path, make_mosquitto: Callable[..., Mosquitto]
) -> None:
    """Cut and proved, its key refused; an operator's signed undo lets it publish again within five seconds."""
    clean, bars = (
        make_clip(tmp_path / "clean.flv", audio=False),
        make_clip(tmp_path / "bars.flv", audio=False, picture="smptebars"),
    )
    broker = make_mosquitto()
    with running_nginx(tmp_path / "nginx") as nginx:
        site = Site(tmp_path, nginx, broker.port)
        nginx.write_hook()
        nginx.quit()
        nginx.start()
        async with (
            listening(broker.port) as ear,
            site.cutter(),
            open_service(load_config(tmp_path / "stopframe.yaml")) as service,
        ):
            await until(lambda: ear.of("cutter/available"), 60)
            async with live(nginx.rtmp_port, bars, "key") as shown:
                await until(lambda: "cut" in _said(ear, "/ack", "state"), 60)
                await until(lambda: shown.poll() is not None)
            async with asyncio.timeout(30):
                while (row := (await service.incidents(1))[0]).cut_state is not CutState.CONFIRMED:
                    await asyncio.sleep(0.05)
            assert await service.ingest.publishers() == []
            async with live(nginx.rtmp_port, clean, "key") as refused:
                await until(lambda: refused.poll() is not None)
            assert not service.streams()

            began = time.monotonic()
            topic = command_topic("stopframe", "ingest-1", "undo")
            async with aiomqtt.Client("127.0.0.1", broker.port) as operator:
                await operator.publish(topic, site.undo(row.incident_id), qos=1)
            await until(lambda: "done" in _said(ear, "ingest-1/answer", "result"))
            async with live(nginx.rtmp_port, clean, "key") as again:
                await until(lambda: [one.path for one in service.streams()] == ["live/key"])
                assert time.monotonic() - began < 5 + SLACK_SECONDS
                assert again.poll() is None

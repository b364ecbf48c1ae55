"""The whole service beside a real node-media-server, by the shipped pair of configs: seen, cut, refused, let in."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.ports import free_port
from detector.assembly import open_service
from detector.config.loading import load_config
from detector.events import CutState
from tests.fixtures_node_media_server import EXAMPLE, PASSWORD, RunningNms, running_nms
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_node_media_server, pytest.mark.needs_ffmpeg]


@contextlib.contextmanager
def publishing(nms: RunningNms) -> Iterator["subprocess.Popen[bytes]"]:
    command = (
        "ffmpeg -loglevel error -re -f lavfi -i testsrc2=size=320x180:rate=15 -c:v libx264 -preset ultrafast -g 15 "
        f"-pix_fmt yuv420p -f flv rtmp://127.0.0.1:{nms.rtmp_port}/live/secret-key"
    )
    with subprocess.Popen(command.split(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


async def test_a_stream_is_seen_cut_refused_and_let_in_again(tmp_path: Path) -> None:
    """Over HTTP-FLV within a second, through the secret hook, with the proof; and no key in health."""
    http_port, nms_port = free_port(), free_port()
    example = (EXAMPLE.parent / "stopframe.yaml").read_text(encoding="utf-8")
    for shipped, here in (
        ("/var/lib/stopframe", str(tmp_path / "state")),
        ("127.0.0.1:8936", f"127.0.0.1:{http_port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{nms_port}"),
        ("sandbox: require", "sandbox: prefer"),  # what the kernel gives is another test's matter
    ):
        assert shipped in example
        example = example.replace(shipped, here)
    file = tmp_path / "stopframe.yaml"
    file.write_text(example + "models: []\nanalysis: {workers: 1}\nalerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\n")

    async with open_service(load_config(file, environment={"NMS_PASSWORD": PASSWORD})) as service:
        await until(lambda: any("node-media-server" in problem for problem in service.health().problems))
        hook = f"http://127.0.0.1:{http_port}/hook/{(tmp_path / 'state/secrets/hook').read_text().strip()}"
        async with running_nms(tmp_path / "nms", hook_url=f"{hook}/node-media-server", http_port=nms_port) as nms:
            await until(lambda: not any("node-media-server" in problem for problem in service.health().problems))
            with publishing(nms) as publisher:
                await until(lambda: any(row.seen_seconds > 0 for row in service.streams()))
                row = service.streams()[0]
                assert (row.path, row.state, row.width) == ("live/secret-key", "live", 320)
                report = await service.cut(row.stream_id)
                assert report.cut_state is CutState.CONFIRMED
                await until(lambda: publisher.poll() is not None)
            with publishing(nms) as publisher:
                await until(lambda: publisher.poll() is not None)
            assert report.incident_id is not None
            assert (await service.undo(report.incident_id)).is_restored
            with publishing(nms) as publisher:
                await until(lambda: any(row.state == "live" for row in service.streams()))
                assert publisher.poll() is None
                assert "secret-key" not in str(service.health())
            async with httpx.AsyncClient(trust_env=False) as client:
                refused = await client.post(f"http://127.0.0.1:{http_port}/hook/{'0' * 64}/node-media-server")
            assert refused.status_code == 404

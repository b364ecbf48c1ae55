"""The whole service beside a stand-in for MediaMTX, by the shipped config: never run against a real MediaMTX."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.ports import free_port
from detector.assembly import open_service
from detector.config.loading import load_config
from detector.events import CutState
from tests.fixtures_mediamtx import Denied, FakeMediaMtx, question
from tests.waiting import until

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "configs/examples/mediamtx/stopframe.yaml"


async def test_a_publisher_is_asked_for_cut_refused_and_let_in_again(tmp_path: Path) -> None:
    """Every question comes by HTTP through the secret path, as MediaMTX asks it; the API is not a stranger's."""
    http_port, no_rtmp = free_port(), free_port()
    async with FakeMediaMtx().serving() as fake, httpx.AsyncClient(trust_env=False) as client:
        example = EXAMPLE.read_text(encoding="utf-8")
        for shipped, here in (
            ("/var/lib/stopframe", str(tmp_path / "state")),
            ("127.0.0.1:8936", f"127.0.0.1:{http_port}"),
            ("127.0.0.1:9997", f"127.0.0.1:{fake.port}"),
            ("127.0.0.1:1935", f"127.0.0.1:{no_rtmp}"),
            ("sandbox: require", "sandbox: prefer"),  # what the kernel gives is another test's matter
        ):
            assert shipped in example
            example = example.replace(shipped, here)
        file = tmp_path / "stopframe.yaml"
        file.write_text(example + "models: []\nanalysis: {workers: 1}\nalerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\n")

        async with open_service(load_config(file, environment={})) as service:
            secret = (tmp_path / "state/secrets/hook").read_text().strip()

            async def ask(fields: dict[str, Any]) -> int:
                answer = await client.post(f"http://127.0.0.1:{http_port}/hook/{secret}/mediamtx", json=fields)
                return answer.status_code

            fake.hook = ask
            await fake.publish("live/secret-key")
            await until(lambda: [row.path for row in service.streams()] == ["live/secret-key"])
            report = await service.cut(service.streams()[0].stream_id)
            assert (report.cut_state, report.count) == (CutState.CONFIRMED, 1)
            await until(lambda: not service.streams())
            for _ in range(3):
                with pytest.raises(Denied):
                    await fake.publish("live/secret-key", query="name=innocent")
            assert await ask(question("api", "")) == 401
            assert await ask(question("read", "live/other")) == 200
            assert report.incident_id is not None
            assert (await service.undo(report.incident_id)).is_restored
            await fake.publish("live/secret-key")
            await until(lambda: len(service.streams()) == 1)
            assert service.ingest.problems() == []

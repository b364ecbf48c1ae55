"""The whole service with an HMA on either side: it answers as one, and what another one says becomes an incident."""

import asyncio
from pathlib import Path

import httpx
import pytest

from benchmarks.publishers import PacedPublishers
from benchmarks.restream_clips import encoded, scene
from detector.assembly import open_service
from detector.config.loading import load_config
from tests.contract.test_hma_server import BRIDGE, TOKEN, put
from tests.hma_client import HmaClient
from tests.integration.test_second_opinion import ANSWER, _remote

pytestmark = pytest.mark.e2e

SETTINGS = """
ingest: {{listen: "127.0.0.1:0"}}
http: {{listen: "127.0.0.1:0", token: {{file: token}}}}
models: []
analysis: {{workers: 1}}
alerts: {{mqtt: {{url: "mqtt://127.0.0.1:0"}}}}
hma: {{enabled: true}}
second_opinion: {{name: partner, url: "{url}", timeout: 10s}}
"""


async def test_a_stream_that_only_a_partner_knows_is_for_people_to_look_at(tmp_path: Path) -> None:
    """A natural clip that no bank here holds: the partner's word opens an incident at review, and cuts nobody."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    known = put(state, "LIST", "bridge", BRIDGE)
    clip = await asyncio.to_thread(encoded, scene(3, 4.0), kilobits=600)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    file = tmp_path / "stopframe.yaml"
    async with _remote(lambda _: ANSWER) as (url, asked):
        file.write_text(f"state_dir: {state}\n{SETTINGS.format(url=url)}")
        async with open_service(load_config(file)) as service, asyncio.timeout(60):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(base_url=f"{service.addresses.http}/hma", headers=headers) as http:
                assert await HmaClient(http).is_ready()
                assert await HmaClient(http).lookup(BRIDGE) == {"LIST": [{"bank_content_id": known, "distance": "0"}]}
            assert service.addresses.ingest is not None
            async with PacedPublishers("127.0.0.1", httpx.URL(service.addresses.ingest).port or 0) as publishers:
                publishers.start("live/natural", clip)
                while not (incidents := await service.incidents(5)):
                    await asyncio.sleep(0.05)
                assert service.streams(), "nobody is cut"
            health = service.health()
    (incident,) = incidents
    assert (incident.action, incident.cut_state.value) == ("review", "none")
    assert incident.signals == "hma:partner/PARTNER/1001 at distance 4 through identity"
    assert not any("second opinion" in note for note in health.notes)
    assert {key for one in asked for key in one.query_params} == {"signal", "signal_type"}

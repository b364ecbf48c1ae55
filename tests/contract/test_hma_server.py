"""A client written against HMA's own documentation gets from us what HMA answers about the same bank."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.api.hma import hma_routes
from detector.api.hma_banks import HmaBanks, content_id
from detector.api.hma_desk import MOST_WAITING
from detector.config.config import Config
from detector.config.exposure import exposure_notes
from detector.config.loading import check_files, load_config
from detector.metrics import Metrics
from models.annotations import EntryNote
from models.bank_store import add_entries, annotate, remove_entry
from models.evidence import Opinion
from streams.keeper import Nursery
from tests.hma_client import HmaClient

# Of python-threatexchange, signal_type/pdq/signal.py (`get_examples`): the hashes of two pictures of a bridge that were
# edited, and of a photograph of something else. The expected answers below are those of HMA's tests
# (hasher-matcher-actioner, tests/test_match_api.py and test_api.py), by name of the test.
BRIDGE = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"
BRIDGE_EDITED = "d8f8f1eec0f4a84f0e37022a078f63f0b36e2ed596621e1d33e6239c4e9c9b22"
OTHER = "e64cc9d91c623882f8d1f1d9a398e78c9f199b3bd83924f2b7e11e0bf861b064"
FAR_FROM_ALL = "5" * 64
TOKEN = "a-token-of-some-length"


@dataclass
class Served:
    """What HMA's routes want of the service."""

    config: Config
    metrics: Metrics = field(default_factory=Metrics)

    def http_token(self) -> str | None:
        return TOKEN

    def sound_bases(self) -> Iterable[str]:
        return ()


@asynccontextmanager
async def serving(state_dir: Path, **options: Any) -> AsyncIterator[tuple[HmaClient, Served]]:
    """Serve the banks of a folder without a door, and give a client of it."""
    hma = {"enabled": True, "needs_token": False, **options.pop("hma", {})}
    served = Served(Config.model_validate({"state_dir": str(state_dir), "hma": hma, **options}))
    app = FastAPI()
    async with (
        hma_routes(app, served, Nursery("streams.reader:main")),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url=f"http://hma{served.config.hma.prefix}"
        ) as http,
    ):
        yield HmaClient(http), served


def put(state_dir: Path, bank: str, entry: str, signal: str, opinion: Opinion = Opinion.POSITIVE) -> int:
    """Add a hash to a bank; gives its content id."""
    folder = state_dir / "banks" / bank
    folder.parent.mkdir(exist_ok=True)
    add_entries(folder, np.frombuffer(bytes.fromhex(signal), np.uint8).reshape(1, 32), [entry], opinion)
    return content_id(bank, entry)


@pytest.fixture
def three_banks(tmp_path: Path) -> dict[str, int]:
    """`client_with_multi_bank_data`: the same hash in three banks."""
    return {bank: put(tmp_path, bank, "bridge", BRIDGE) for bank in ("BANK_A", "BANK_B", "BANK_C")}


async def test_lookup_with_bank_filter(tmp_path: Path, three_banks: dict[str, int]) -> None:
    """`test_lookup_with_bank_filter`: all banks, one, two, and one that there is not."""
    async with serving(tmp_path) as (client, _):
        every = await client.lookup(BRIDGE)
        assert every == {bank: [{"bank_content_id": one, "distance": "0"}] for bank, one in three_banks.items()}
        assert set(await client.lookup(BRIDGE, banks="BANK_A")) == {"BANK_A"}
        assert set(await client.lookup(BRIDGE, banks="BANK_A,BANK_C")) == {"BANK_A", "BANK_C"}
        assert await client.lookup(BRIDGE, banks="NON_EXISTENT_BANK") == {}
        assert await client.lookup(FAR_FROM_ALL) == {}


async def test_raw_lookup_with_bank_filter(tmp_path: Path, three_banks: dict[str, int]) -> None:
    """`test_raw_lookup_with_bank_filter` and `..._with_distance_and_...`: numbers, or with distances."""
    async with serving(tmp_path) as (client, _):
        assert sorted(await client.raw_lookup(BRIDGE)) == sorted(three_banks.values())
        assert await client.raw_lookup(BRIDGE, banks="BANK_A") == [three_banks["BANK_A"]]
        assert await client.raw_lookup(BRIDGE, banks="NON_EXISTENT_BANK") == []
        near = await client.raw_lookup(BRIDGE_EDITED, banks="BANK_A,BANK_B", include_distance="true")
        assert len(near) == 2
        assert all(type(one["bank_content_id"]) is int and one["distance"] == "10" for one in near)


async def test_index_status_and_banks(tmp_path: Path, three_banks: dict[str, int]) -> None:
    """`test_banks_create` and the example of `index_status`: shapes, sizes, and 404 for a bank that there is not."""
    async with serving(tmp_path) as (client, _):
        status = (await client.index_status())["pdq"]
        assert (status["present"], status["size"]) == (True, 3)
        assert abs(status["built_to"] - time.time()) < 120
        assert await client.banks() == {"BANK_A": 1.0, "BANK_B": 1.0, "BANK_C": 1.0}
        assert (await client.http.get("/c/bank/BANK_A")).json() == {"matching_enabled_ratio": 1.0, "name": "BANK_A"}
        missing = await client.http.get("/c/bank/NOTHING")
        assert (missing.status_code, missing.json()) == (404, {"message": "bank 'NOTHING' not found"})
        assert (await client.http.get("/c/signal_type")).json() == [{"enabled_ratio": 1.0, "name": "pdq"}]


async def test_an_empty_index(tmp_path: Path) -> None:
    """`test_banks_empty_index` and `test_status_response`: nothing is an answer, and no fault."""
    async with serving(tmp_path) as (client, _):
        assert await client.is_ready()
        assert (await client.http.get("/livez")).text == "OK"
        assert (await client.http.get("/readyz")).text == "READY"
        assert (await client.http.head("/readyz")).status_code == 200
        assert await client.banks() == {}
        assert await client.lookup(BRIDGE) == {}
        assert await client.index_status() == {"pdq": {"present": False, "built_to": -1, "size": 0}}


async def test_compare(tmp_path: Path) -> None:
    """The example of `compare`: `[is_match, {"distance": N}]`, a match up to 31."""
    async with serving(tmp_path) as (client, _):
        assert await client.compare(BRIDGE, BRIDGE_EDITED) == (True, 10)
        assert await client.compare(BRIDGE, OTHER) == (False, (int(BRIDGE, 16) ^ int(OTHER, 16)).bit_count())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/m/lookup?signal_type=pdq", None, 400, "Either url or both signal and signal_type are required"),
        ("GET", "/m/lookup?signal_type=pdq&signal=zz", None, 400, "invalid signal: invalid PDQ hash"),
        ("GET", f"/m/lookup?signal_type=pdq&signal={BRIDGE.upper()}", None, 400, "invalid signal: invalid PDQ hash"),
        ("GET", f"/m/lookup?signal_type=pdq&signal={BRIDGE}%0a", None, 400, "invalid signal: invalid PDQ hash"),
        ("GET", f"/m/raw_lookup?signal_type=md6&signal={BRIDGE}", None, 400, "No such SignalType 'md6'"),
        ("GET", f"/m/raw_lookup?signal={BRIDGE}", None, 400, "signal_type is required"),
        ("GET", "/m/index/status?signal_type=md6", None, 400, "No such signal type 'md6'"),
        ("GET", f"/m/lookup?signal_type=pdq&signal={BRIDGE}&bypass_coinflip=perhaps", None, 422, "bypass_coinflip"),
        ("POST", "/m/compare", b"[]", 400, "Request input was not a dict"),
        ("POST", "/m/compare", b"{", 400, "no JSON"),
        ("POST", "/m/compare", b"[" * 9000, 400, "no JSON"),
        ("POST", "/m/compare", b'{"pdq": 1}', 400, "Comparison hashes for pdq was not a list"),
        ("POST", "/m/compare", b'{"pdq": ["a"]}', 400, "Comparison hash list length must be exactly 2"),
        ("POST", "/m/compare", b'{"pdq": ["a", 5]}', 400, "Invalid pdq hash"),
        ("POST", "/m/compare", b'{"md6": ["a", "b"]}', 400, "No such SignalType 'md6'"),
        ("POST", "/m/compare", b" " * 20_000, 413, "no more than"),
        ("POST", "/h/hash", b"picture", 400, "Missing multipart/form-data file upload"),
        ("GET", "/h/hash", None, 400, "url is required"),
        ("GET", "/nowhere", None, 404, "Not Found"),
    ],
)
async def test_a_bad_request_gets_hmas_status_and_message(
    tmp_path: Path, method: str, path: str, body: bytes | None, status: int, words: str
) -> None:
    """400 with `{"message": ...}` where HMA says so (its issue 1287 had 500 for a bad hash), never a fault of ours."""
    async with serving(tmp_path) as (client, served):
        answer = await client.http.request(method, path, content=body)
        assert answer.status_code == status
        assert words in answer.json()["message"]
        assert served.metrics.value("stopframe_hma_answers_total", status=str(status)) == 1


@pytest.mark.parametrize("path", ["/h/hash", "/m/lookup"])
async def test_no_url_is_fetched(tmp_path: Path, path: str) -> None:
    """A URL is refused by 403, as HMA refuses it without its hasher role: it would fetch from our network."""
    async with serving(tmp_path) as (client, _):
        answer = await client.http.get(path, params={"url": "http://127.0.0.1:1/secret", "content_type": "photo"})
        assert answer.status_code == 403
        assert answer.json()["message"].startswith("no URL is fetched here")
        assert "secret" not in answer.text


async def test_the_coin_falls_as_hmas_does(tmp_path: Path, three_banks: dict[str, int]) -> None:
    """With a seed it is `random.Random(seed).random()`, against each bank's ratio; `bypass_coinflip` asks all."""
    banks = {"BANK_A": {"ratio": "30%"}, "BANK_B": {"step": "shadow"}}
    async with serving(tmp_path, banks=banks) as (client, _):
        assert await client.banks() == {"BANK_A": 0.3, "BANK_B": 0.0, "BANK_C": 1.0}
        seen = set()
        for seed in ("user-1", "user-2", "user-3", "user-5"):
            flip = random.Random(seed).random()
            found = set(await client.lookup(BRIDGE, seed=seed))
            assert found == {"BANK_C"} | ({"BANK_A"} if flip <= 0.3 else set())
            seen.add(frozenset(found))
        assert len(seen) == 2
        assert set(await client.lookup(BRIDGE, bypass_coinflip="true")) == set(three_banks)


async def test_what_may_not_act_is_raw_alone(tmp_path: Path) -> None:
    """`/m/lookup` leaves out what is disabled, disputed, a seed or in quarantine; `/m/raw_lookup` does not check."""
    put(tmp_path, "BANK", "disabled", BRIDGE)
    put(tmp_path, "BANK", "flood", BRIDGE)
    put(tmp_path, "BANK", "disputed", BRIDGE, Opinion.DISPUTED)
    put(tmp_path, "BANK", "seed", BRIDGE, Opinion.SEED)
    good = put(tmp_path, "BANK", "good", BRIDGE)
    folder = tmp_path / "banks" / "BANK"
    annotate(folder, "disabled", lambda note: replace(note, disabled_until_seconds=time.time() + 60))
    annotate(folder, "flood", lambda _: EntryNote(quarantined=True))
    async with serving(tmp_path) as (client, _):
        assert await client.lookup(BRIDGE) == {"BANK": [{"bank_content_id": good, "distance": "0"}]}
        assert len(await client.raw_lookup(BRIDGE)) == 5


async def test_what_is_known_to_be_harmless_takes_back(tmp_path: Path) -> None:
    """A negative bank, which HMA has not, is shown to no client and takes matches back that it is as near to."""
    near = put(tmp_path, "BANK", "near", BRIDGE)
    put(tmp_path, "HARMLESS", "meme", BRIDGE_EDITED)
    async with serving(tmp_path, banks={"HARMLESS": {"kind": "negative"}}) as (client, _):
        assert set(await client.banks()) == {"BANK"}
        assert (await client.lookup(BRIDGE))["BANK"][0]["bank_content_id"] == near
        assert await client.lookup(BRIDGE_EDITED) == {}
        assert await client.raw_lookup(BRIDGE_EDITED) == [near]


async def test_an_entry_of_many_hashes_is_one_content(tmp_path: Path) -> None:
    """Its nearest hash counts; rows that show a part of a picture are none of HMA's."""
    rows = np.frombuffer(bytes.fromhex(BRIDGE + BRIDGE_EDITED + OTHER), np.uint8).reshape(3, 32)
    (tmp_path / "banks").mkdir()
    windows = np.array([False, False, True])
    add_entries(tmp_path / "banks" / "BANK", rows, ["clip"] * 3, is_window=windows)
    async with serving(tmp_path) as (client, _):
        assert (await client.lookup(BRIDGE_EDITED))["BANK"] == [
            {"bank_content_id": content_id("BANK", "clip"), "distance": "0"}
        ]
        assert await client.raw_lookup(OTHER) == []


async def test_changes_are_taken_up_and_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes or goes counts within a second; a bank that cannot be opened makes the index stale, no 500."""
    monkeypatch.setattr("detector.api.hma_banks._LOOK_SECONDS", 0.0)
    put(tmp_path, "BANK", "first", BRIDGE)
    async with serving(tmp_path) as (client, _):
        assert set(await client.lookup(BRIDGE)) == {"BANK"}
        second = put(tmp_path, "BANK", "second", OTHER)
        assert (await client.lookup(OTHER))["BANK"][0]["bank_content_id"] == second
        remove_entry(tmp_path / "banks" / "BANK", "first")
        assert await client.lookup(BRIDGE) == {}

        monkeypatch.setattr("detector.api.hma_banks.STALE_SECONDS", -1.0)
        (tmp_path / "banks" / "BANK" / "bank.json").write_text("{}")
        assert (await client.lookup(OTHER))["BANK"][0]["bank_content_id"] == second
        stale = await client.http.get("/readyz")
        assert (stale.status_code, stale.text) == (503, "INDEX-STALE")
        (tmp_path / "banks" / "NEW").mkdir()
        (tmp_path / "banks" / "NEW" / "bank.json").write_text("{}")
        assert (await client.http.get("/status")).text == "INDEX-NOT-LOADED"
        early = await client.http.get("/m/lookup", params={"signal": OTHER, "signal_type": "pdq"})
        assert (early.status_code, early.json()) == (503, {"message": "index not yet ready"})


async def test_slow_look_ups_hold_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they take, the event loop turns; so many wait, and what comes then is refused at once."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(self: HmaBanks, value: bytes, banks: Any = None) -> list[Any]:
        inside.set()
        go_on.wait(30)
        return []

    monkeypatch.setattr(HmaBanks, "find", slow)
    async with serving(tmp_path) as (client, _):
        asked = [asyncio.create_task(client.http.get(f"/m/lookup?signal_type=pdq&signal={BRIDGE}")) for _ in range(70)]
        await asyncio.to_thread(inside.wait, 30)
        assert (await client.http.get("/livez")).text == "OK"
        done, _ = await asyncio.wait(asked, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in done} == {503}
        go_on.set()
        statuses = [(await task).status_code for task in asked]
    assert statuses.count(200) == MOST_WAITING
    assert statuses.count(503) == 70 - MOST_WAITING


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8936"}, 200),
        ({"Host": "[::1]:8936"}, 200),
        ({"Host": "stopframe.media.svc.cluster.local"}, 200),
        ({"Host": "nas.home.arpa"}, 200),
        ({"Host": "rebound.1.0.0.2.ip6.arpa"}, 403),
        ({"Host": "rebound.example.com:8936"}, 403),
        ({"Host": "127.0.0.1.example.com"}, 403),
        ({"Host": "[::1].example.com"}, 403),
        ({"Host": "127.0.0.1:8936", "Origin": "https://example.com"}, 403),
        ({"Host": "127.0.0.1:8936", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8936", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "127.0.0.1:8936", "Sec-Fetch-Site": "none"}, 200),
    ],
)
async def test_without_a_token_no_page_in_a_browser_asks(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """Neither across origins nor by a name of its own that was made to lead here, in HMA's shape of an error."""
    app = FastAPI()
    settings = {"state_dir": str(tmp_path), "hma": {"enabled": True, "needs_token": False}}
    served = Served(Config.model_validate(settings))
    async with (
        hma_routes(app, served, Nursery("streams.reader:main")),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://hma") as http,
    ):
        answer = await http.get("/hma/m/lookup", params={"signal": BRIDGE, "signal_type": "pdq"}, headers=headers)

    assert answer.status_code == status
    assert status == 200 or "by an address" in answer.json()["message"]
    assert served.metrics.value("stopframe_hma_answers_total", status=str(status)) == 1


async def test_a_wrong_token_is_refused_in_hmas_shape(tmp_path: Path) -> None:
    """Clients of HMA read `message`; the right token opens."""
    app = FastAPI()
    (tmp_path / "token").write_text(TOKEN)
    file = tmp_path / "stopframe.yaml"
    file.write_text("state_dir: state\nhttp: {token: {file: token}}\nhma: {enabled: true}\n")
    async with (
        hma_routes(app, Served(load_config(file)), Nursery("streams.reader:main")),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://hma/hma") as http,
    ):
        answers = [await http.get("/c/banks", headers=headers) for headers in ({}, {"Authorization": "Bearer x"})]
        opened = await http.get("/c/banks", headers={"Authorization": f"Bearer {TOKEN}"})

    assert [(answer.status_code, "token" in answer.json()["message"]) for answer in answers] == [(401, True)] * 2
    assert opened.json() == []


def test_a_door_without_a_key_is_refused(tmp_path: Path) -> None:
    """`hma.enabled` wants http.token, or the operator's word that none is needed, which health repeats."""
    file = tmp_path / "stopframe.yaml"
    file.write_text("hma:\n  enabled: true\n")
    assert ["nobody could ask" in fault.message for fault in check_files([file])] == [True]
    file.write_text("hma:\n  prefix: /v1\n")
    assert ["no place for HMA's routes" in fault.message for fault in check_files([file])] == [True]
    bare = {"hma": {"enabled": True, "needs_token": False}, "http": {"listen": "0.0.0.0:0"}}
    assert any("whoever reaches http.listen may ask" in one for one in exposure_notes(Config.model_validate(bare)))


def _by_hma(banks: dict[str, dict[str, int]], query: int) -> dict[str, set[tuple[int, str]]]:
    """What HMA answers: every content within 31 bits (faiss' range search), by bank, with its distance as text."""
    near = {
        bank: {
            (content_id(bank, entry), str((value ^ query).bit_count()))
            for entry, value in entries.items()
            if (value ^ query).bit_count() <= 31
        }
        for bank, entries in banks.items()
    }
    return {bank: found for bank, found in near.items() if found}


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), distances=st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_any_bank_is_answered_as_hma_answers_it(seed: int, distances: list[int]) -> None:
    """Whatever the hashes are, near the limit above all: the same entries, the same distances, nothing else."""
    source = random.Random(seed)
    query = source.getrandbits(256)
    banks: dict[str, dict[str, int]] = {"EVEN": {}, "ODD": {}}
    for place, distance in enumerate(distances):
        moved = query ^ sum(1 << bit for bit in source.sample(range(256), distance))
        banks["ODD" if place % 2 else "EVEN"][f"entry-{place}"] = moved

    async def ask(state_dir: Path) -> dict[str, Any]:
        async with serving(state_dir) as (client, _):
            return await client.lookup(f"{query:064x}")

    with TemporaryDirectory() as folder:
        (Path(folder) / "banks").mkdir()
        for bank, entries in banks.items():
            content = b"".join(value.to_bytes(32) for value in entries.values())
            rows = np.frombuffer(content, np.uint8).reshape(-1, 32)
            add_entries(Path(folder) / "banks" / bank, rows, list(entries))
        answer = asyncio.run(ask(Path(folder)))
    got = {bank: {(one["bank_content_id"], one["distance"]) for one in found} for bank, found in answer.items()}
    assert got == _by_hma(banks, query)


def test_content_ids_are_fixed() -> None:
    """Clients keep them: they fit into a double, differ by bank and entry, and never change between versions."""
    assert content_id("BANK", "entry") == 6465363644102736
    assert len({content_id(bank, entry) for bank in ("A", "B") for entry in ("1", "2", "12")}) == 6
    assert 0 <= content_id("A" * 64, "x" * 200) < 2**53

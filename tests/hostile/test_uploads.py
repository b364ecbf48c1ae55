"""Files from strangers, sent to a running service: bombs, trickles, crowds, who leaves, a service that is killed.

`python -m benchmarks uploads` does the same in full size beside live streams, and measures what those lose.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks import hostile_clips, upload_material
from benchmarks.processes import descriptor_count, memory_peak_bytes, resident_bytes
from benchmarks.upload_service import UploadService
from tests.fixtures_cli import CommandLine, Run
from tests.hostile import two_faced
from tests.waiting import until_in_thread

pytestmark = pytest.mark.integration

MIB = 1 << 20
LIMITS = "size_limit: 8MiB, look_within: 4s, receive_within: 8s, at_once: 30, wait: 60s"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UploadService]:
    """A service without streams that takes files and knows one card."""
    settings = f"models: []\nalerts: {{mqtt: {{url: 'mqtt://127.0.0.1:0'}}}}\nuploads: {{enabled: true, {LIMITS}}}"
    service = UploadService(tmp_path_factory.mktemp("uploads"), settings, known=[1])
    asyncio.run(service.start())
    yield service
    asyncio.run(service.stop())


def _readers(service: UploadService) -> int:
    return len(service.tree.readers())


def _is_empty(service: UploadService) -> bool:
    return service.value("stopframe_uploads_present") == 0 == service.value("stopframe_uploads_held_bytes")


def test_what_is_planted_is_found_as_a_scan_finds_it(service: UploadService, stopframe: CommandLine) -> None:
    """The same detections and the same account as `scan --json` on the same state, but for the name of the file."""
    files = {"a.jpg": upload_material.picture(1, 640, 360), "b.jpg": upload_material.picture(5, 640, 360)}
    files |= {"c.jpg": upload_material.edited(1, 0), "d.ts": upload_material.clip("card:5:2,card:1:2")}
    for name, content in files.items():
        (stopframe.folder / name).write_bytes(content)
    scanned: Run = stopframe("scan", "--json", "-c", str(service.config), *files)

    told = {name: service.scan(content).json() for name, content in files.items()}

    assert [told[name]["decision"] for name in files] == ["cut", "allow", "cut", "cut"]
    for name, answer in told.items():
        ours = [one for one in scanned.lines if name in (one.get("media"), one.get("summary", {}).get("media"))]
        theirs = [*answer["detections"], {"summary": answer["summary"]}]
        for one in [*ours, *theirs]:
            one.get("summary", one).pop("media")
            one.get("summary", one).pop("cpu_s", None)
        assert theirs == ours
        assert answer["complete"]
        assert answer["provenance"]["banks"] == {"CARDS": "gen-00000001"}


def test_a_clip_is_left_at_the_first_cut_or_at_the_deadline_and_says_so(service: UploadService) -> None:
    """`until=first_cut` looks no further; after `look_within` nothing is called harmless that was not looked at."""
    stopped = service.scan(upload_material.clip("card:1:2,card:5:6"), "?until=first_cut").json()
    assert (stopped["decision"], stopped["complete"], stopped["ended"]) == ("cut", False, "enough")
    assert stopped["summary"]["coverage"]["seen_s"] < 6

    asked_at = time.monotonic()
    late = service.scan(upload_material.mp4_bomb(20_000)).json()  # 13 minutes in half a megabyte
    assert time.monotonic() - asked_at < 30
    assert (late["decision"], late["complete"], late["ended"]) == ("unknown", False, "deadline")
    assert late["summary"]["error"]["code"] == "deadline"
    assert _readers(service) == 0


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (upload_material.png_bomb(10_000), 422, "10000x10000 is beyond"),
        (hostile_clips.as_bytes(hostile_clips.bomb()), 422, "16000x16000 is beyond"),
        (b"\xff\xd8\xff\xe0" + bytes(50_000), 422, "could not be read"),
        (b"\x00\x00\x00\x18ftypmp42" + os.urandom(50_000), 422, "could not be read"),
        (b"PK\x03\x04" + bytes(1000), 415, "MPEG-TS"),
        (b"#EXTM3U\nhttp://127.0.0.1/secret\n", 415, "MPEG-TS"),
    ],
    ids=["png", "h264", "jpeg", "mp4", "zip", "playlist"],
)
def test_bombs_and_what_is_no_media_are_refused_at_once(
    service: UploadService, content: bytes, status: int, says: str
) -> None:
    """In one sentence, by a reader that is gone afterwards, and never called harmless."""
    asked_at = time.monotonic()
    answer = service.scan(content)

    assert time.monotonic() - asked_at < 30
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert answer.json().get("decision", "unknown") == "unknown"
    assert memory_peak_bytes(service.tree.pid) < 400 * MIB
    assert _readers(service) == 0


@pytest.mark.parametrize(
    ("content", "decision"),
    [
        (lambda: two_faced.clear_png(255), "cut"),
        (lambda: two_faced.clear_png(0), "cut"),
        (two_faced.clear_webp, "cut"),
        (two_faced.clear_webm, "unknown"),
        (two_faced.animated_png, "unknown"),
        (two_faced.undecodable_first, "unknown"),
        (two_faced.trimmed, "cut"),
        (two_faced.chapters, "cut"),
        (two_faced.covered, "cut"),
        (two_faced.joined, "unknown"),
        (two_faced.joined_flv, "unknown"),
        (two_faced.back_in_time, "cut"),
        (two_faced.two_formats, "unknown"),
        (two_faced.cut_out, "unknown"),
        (two_faced.commanded, "unknown"),
        (two_faced.padded, "unknown"),
        (two_faced.doubled, "unknown"),
        (two_faced.out_of_turn, "cut"),
        (two_faced.dimmed_png, "cut"),
    ],
    ids=[
        "over white",
        "over black",
        "webp",
        "webm",
        "apng",
        "two jpegs",
        "edit list",
        "chapters",
        "cover",
        "joined",
        "joined flv",
        "back in time",
        "two formats",
        "aperture",
        "commands",
        "padding",
        "twice",
        "out of turn",
        "gamma",
    ],
)
def test_what_some_viewers_alone_would_see_is_looked_at_or_named(
    service: UploadService, content: Callable[[], bytes], decision: str
) -> None:
    """The card in clear pixels, behind the first picture, beside the film, in times cut out or had: no "allow"."""
    told = service.scan(content()).json()

    assert told["decision"] == decision
    assert decision == "cut" or "could not be read" in told["error"]


def test_an_endless_file_is_taken_to_its_limit_and_no_further(service: UploadService) -> None:
    """Matroska of no stated size, in chunks without end: 413 as soon as it is too long, nothing decoded or kept."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for part in upload_material.endless_matroska():
            sent += len(part)
            yield part

    with contextlib.suppress(httpx.WriteError):
        assert service.scan(endless()).status_code == 413
    assert sent < 100 * MIB  # and no more is thrown away than helps a client that does not listen
    until_in_thread(lambda: _is_empty(service))


def test_trickles_hold_no_process_and_are_told_to_go(service: UploadService) -> None:
    """Twenty files at a few bytes a second are refused in time; pictures pass beside them all the while."""
    began_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", service.http_port))) for _ in range(20)]
        for one in slow:
            one.sendall(service.head(8_000_000) + b"\x47" * 100)
        answered = 0
        while time.monotonic() - began_at < 1 or answered < 2:
            assert service.scan(upload_material.picture(1, 320, 180)).json()["decision"] == "cut"
            answered += 1
            for one in slow:
                one.sendall(b"\x47")
        assert service.value("stopframe_uploads_present") == 20
        assert _readers(service) == 0
        slow[0].settimeout(60)
        with slow[0].makefile("rb") as answer:
            told = answer.read()  # to the end: head and body may come in two pieces
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"uploads.receive_within" in told
    assert 7 < time.monotonic() - began_at < 60
    until_in_thread(lambda: _is_empty(service))


def test_a_crowd_is_answered_within_bounds(service: UploadService) -> None:
    """Fifty pictures at once: each is answered or told to come back, planted ones are found, memory stays bounded."""
    before = resident_bytes(service.tree.pid)
    copies = [upload_material.edited(1, number) for number in range(4)]
    clean = upload_material.picture(7, 640, 360)
    pictures = [copies[number // 2 % 4] if number % 2 else clean for number in range(50)]
    with ThreadPoolExecutor(50) as senders:
        answers = list(senders.map(service.scan, pictures))

    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 30
    for number, answer in enumerate(answers):
        if answer.status_code == 429:
            assert answer.headers["retry-after"]
        else:
            assert answer.json()["decision"] == ("cut" if number % 2 else "allow")
    assert resident_bytes(service.tree.pid) - before < 100 * MIB
    until_in_thread(lambda: _is_empty(service))


def test_who_leaves_amid_a_look_ends_its_reader(service: UploadService) -> None:
    """The process that decodes for a client is gone soon after the client is."""
    with socket.create_connection(("127.0.0.1", service.http_port)) as client:
        content = upload_material.mp4_bomb(20_000)
        client.sendall(service.head(len(content)) + content)
        until_in_thread(lambda: _readers(service) == 1)
        open_then = descriptor_count(service.tree.pid)
    until_in_thread(lambda: _readers(service) == 0)
    until_in_thread(lambda: descriptor_count(service.tree.pid) < open_then)
    until_in_thread(lambda: _is_empty(service))


def test_a_killed_service_leaves_no_file(service: UploadService) -> None:
    """SIGKILL amid uploads: what they had on disk is gone, and the next start has nothing to clear up. Comes last."""
    known = set(service.state_dir.rglob("*"))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.http_port)))
            client.sendall(service.head(3 * MIB) + os.urandom(2 * MIB))
        until_in_thread(lambda: service.value("stopframe_uploads_held_bytes") == 5 * 3 * MIB)
        assert asyncio.run(service.kill()) == []
    assert set(service.state_dir.rglob("*")) - known == set()

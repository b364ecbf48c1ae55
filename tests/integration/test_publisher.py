"""The test publishers: real media at a real pace, true events, and an end that is noticed at once."""

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.clips import Clip, encode_clip
from benchmarks.loopback import serving
from benchmarks.publishers import PacedPublishers
from detector.cards import ScriptError, Showing, drawn_card, parse_script, synthetic_card
from detector.publisher import Chunk, Encoding, encoded, main
from models.hashing.algorithm import Fingerprint
from models.hashing.pdq import Pdq
from tests.slack import SLACK_SECONDS

ROOT = Path(__file__).parents[2]


class Ingest:
    """Stands in for an ingest server: takes POSTs, keeps their media, and cuts when told to."""

    def __init__(self) -> None:
        self.media: dict[str, bytearray] = {}
        self.ended: set[str] = set()
        self.port = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.refuses = False
        self._writers: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            if self.refuses:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            media = self.media.setdefault(path, bytearray())
            while size := int(await reader.readuntil(b"\r\n"), 16):
                media += (await reader.readexactly(size + 2))[:-2]
            self.ended.add(path)
            writer.write(self.answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the publisher left, or we cut it
        finally:
            writer.close()

    def cut(self) -> float:
        for writer in self._writers:
            writer.close()
        return time.monotonic()


@asynccontextmanager
async def _ingest() -> AsyncIterator[Ingest]:
    ingest = Ingest()
    async with serving(ingest.take) as ingest.port:
        yield ingest


@asynccontextmanager
async def _publisher(url: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detector.publisher", "--url", url, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _event(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    event: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    return event


def _packets(media: bytes) -> list["av.Packet[Any]"]:
    with av.open(io.BytesIO(media), "r", format="mpegts") as container:
        return [packet for packet in container.demux(video=0) if packet.pts is not None]


def _seconds(packet: "av.Packet[Any]") -> float:
    assert packet.dts is not None
    return float(packet.dts * packet.time_base)


def _pictures(media: bytes) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    with av.open(io.BytesIO(media), "r", format="mpegts") as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def _distance(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> int:
    one, other = (np.frombuffer(_fingerprint(picture).value, np.uint8) for picture in (left, right))
    return int(np.bitwise_count(one ^ other).sum())


def _fingerprint(picture: np.ndarray[Any, Any]) -> Fingerprint:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return Pdq().hash_plane(np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), np.uint8))


async def test_a_script_is_shown_at_its_pace_and_ends_well() -> None:
    """Every frame arrives, each card's event names its first frame, keyframes come at the GOP alone, the exit is 0."""
    async with _ingest() as ingest:
        options = ("--script", "gradient:1,card:7:1,testsrc:1", "--fps", "10", "--bframes", "2")
        async with _publisher(f"http://127.0.0.1:{ingest.port}/live/a", *options) as process:
            events = [await _event(process) for _ in range(4)]
            code = await process.wait()
        media = bytes(ingest.media["/live/a"])
    packets = _packets(media)
    pictures = _pictures(media)
    shown_at = [event["left_encoder_at"] for event in events[:3]]

    assert code == 0
    assert ingest.ended == {"/live/a"}
    assert [(event["event"], event.get("name"), event.get("frame")) for event in events] == [
        ("card", "gradient", 0),
        ("card", "card:7", 10),
        ("card", "testsrc", 20),
        ("ended", None, None),
    ]
    assert shown_at[2] - shown_at[0] == pytest.approx(2, abs=1.5)
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 10, 20]
    assert len(pictures) == 30
    assert _distance(pictures[15], synthetic_card(7, 320, 180)) <= 16


async def test_a_cut_is_noticed_at_once_and_exits_3() -> None:
    """When the server ends the connection the publisher says when, and how it left."""
    noticed_after: list[float] = []
    async with _ingest() as ingest:
        options = ("--script", "smptebars:30", "--fps", "1")
        while not noticed_after or (noticed_after[-1] >= 0.7 and len(noticed_after) < 5):  # a busy machine is late
            async with _publisher(f"http://127.0.0.1:{ingest.port}/live/a", *options) as process:
                await _event(process)
                cut_at = ingest.cut()
                closed = await _event(process)
                code = await process.wait()
            assert code == 3
            assert closed["event"] == "closed"
            noticed_after.append(closed["at"] - cut_at)

    assert 0 <= noticed_after[-1] < 0.7, "not only at the next frame, a second later"


async def test_a_refused_publisher_says_so_and_exits_3() -> None:
    """A server that answers 403 has cut, whatever was sent."""
    async with _ingest() as ingest:
        ingest.refuses = True
        async with _publisher(f"http://127.0.0.1:{ingest.port}/live/a", "--script", "black:30") as process:
            events = [await _event(process)]
            while events[-1]["event"] != "closed":
                events.append(await _event(process))
            code = await process.wait()

    assert code == 3
    assert "refused with HTTP 403" in events[-1]["why"] or "reset" in events[-1]["why"]


def test_nobody_there_is_one_sentence_without_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Who cannot connect reads where to, never the path that holds the key."""
    code = main(["--url", "http://127.0.0.1:1/live/secret-key", "--script", "black:1"])
    said = capsys.readouterr().err

    assert code == 1
    assert said.startswith("cannot connect to 127.0.0.1:1 (")
    assert said.count("\n") == 1
    assert "secret-key" not in said


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a/b", "http:///a/b", "http://127.0.0.1/a b"])
def test_a_wrong_url_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything but an HTTP address is refused before anything is sent."""
    assert main(["--url", url, "--script", "black:1"]) == 1
    assert capsys.readouterr().err == "--url wants the form http://HOST:PORT/APP/KEY.\n"


@pytest.mark.parametrize(
    ("option", "value"), [("--script", "nosuch:1"), ("--size", "321x180"), ("--size", "big"), ("--fps", "0")]
)
def test_a_wrong_option_exits_2(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is named; nothing is published."""
    with pytest.raises(SystemExit) as ended:
        main(["--url", "http://127.0.0.1:1/a/b", "--script", "black:1", option, value])

    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_script_is_read_as_written() -> None:
    """Cards with a seed keep their colon; blanks around a part do not matter."""
    assert parse_script("gradient:3, card:12:0.5,smptebars:20") == (
        Showing("gradient", 3),
        Showing("card:12", 0.5),
        Showing("smptebars", 20),
    )


@pytest.mark.parametrize("text", ["", "black", "black:", "black:0", "black:-1", "black:inf", "black:nan", "card:x:1"])
def test_a_wrong_script_is_refused(text: str) -> None:
    """What is no script says which part is wrong."""
    with pytest.raises(ScriptError):
        parse_script(text)


@given(st.text(max_size=40))
def test_any_text_is_a_script_or_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        showings = parse_script(text)
    except ScriptError:
        return
    assert showings


def test_seeded_cards_are_of_high_quality_distinct_and_the_same_at_every_size() -> None:
    """A card can stand on a list: PDQ rates it well, confuses no two, and knows it at another size."""
    cards = [synthetic_card(seed, 320, 180) for seed in range(12)]
    others = [_distance(one, two) for at, one in enumerate(cards) for two in cards[:at]]

    assert all(_fingerprint(card).quality >= 80 for card in cards)
    assert min(others) > 80
    assert all(_distance(card, synthetic_card(seed, 1280, 720)) <= 16 for seed, card in enumerate(cards))
    assert np.array_equal(cards[3], synthetic_card(3, 320, 180))


def test_plain_cards_have_the_promised_shape() -> None:
    """Every numpy card is RGB of the asked size; what FFmpeg draws is not drawn here."""
    for name in ("black", "gradient", "card:1"):
        card = drawn_card(name, 64, 32)
        assert card is not None
        assert card.shape == (32, 64, 3)
        assert card.dtype == np.uint8
    assert drawn_card("smptebars", 64, 32) is None


def test_every_chunk_holds_whole_packets_of_one_frame() -> None:
    """A chunk can be sent on its own: TS packets, one frame each, in the order of the encoder."""
    script = parse_script("mandelbrot:0.4,rgbtestsrc:0.4,testsrc2:0.4")
    chunks = [step for step in encoded(script, Encoding(fps=10, bframes=0), rounds=2) if isinstance(step, Chunk)]

    assert [chunk.frame for chunk in chunks] == list(range(24))
    assert all(chunk.payload and len(chunk.payload) % 188 == 0 for chunk in chunks)
    assert [chunk.card for chunk in chunks if chunk.card] == ["mandelbrot", "rgbtestsrc", "testsrc2"] * 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """One second of two cards."""
    return encode_clip("card:1:0.5,card:2:0.5", folder=tmp_path_factory.mktemp("clips"), fps=10, gop_seconds=0.5)


@pytest.mark.parametrize("bframes", [0, 2])
def test_a_clip_goes_on_for_ever_without_a_seam(tmp_path: Path, bframes: int) -> None:
    """Over many rounds time only goes forward by the clip's pace, and no continuity counter breaks."""
    made = encode_clip("testsrc2:0.7", folder=tmp_path, fps=10, gop_seconds=0.5, bframes=bframes)
    rounds = 5
    media = b"".join(made.payload(index, number) for number in range(rounds) for index in range(len(made.chunks)))
    packets = _packets(media)
    steps = np.diff([_seconds(packet) for packet in packets])

    assert len(packets) == 7 * rounds
    assert np.allclose(steps, 0.1, atol=1e-3)
    assert not any(packet.is_corrupt for packet in packets)
    assert len(_pictures(media)) == 7 * rounds
    assert _counters_are_continuous(media)


def _counters_are_continuous(media: bytes) -> bool:
    last: dict[int, int] = {}
    for start in range(0, len(media), 188):
        pid = (media[start + 1] & 0x1F) << 8 | media[start + 2]
        counter = media[start + 3] & 0x0F
        if media[start + 3] & 0x10:
            if pid in last and counter != (last[pid] + 1) % 16:
                return False
            last[pid] = counter
    return bool(last)


def test_a_clip_is_encoded_once(tmp_path: Path) -> None:
    """A second benchmark takes the clip from the folder."""
    first = encode_clip("black:0.2", folder=tmp_path)
    [path] = tmp_path.iterdir()
    made_at = path.stat().st_mtime_ns
    second = encode_clip("black:0.2", folder=tmp_path)

    assert path.stat().st_mtime_ns == made_at
    assert first.chunks == second.chunks


async def test_paced_publishers_note_starts_switches_and_cuts(clip: Clip) -> None:
    """Many publishers keep their pace in one process, and each knows when the server ended it."""
    async with _ingest() as ingest, PacedPublishers("127.0.0.1", ingest.port) as publishers:
        publications = publishers.start_many(10, clip, spread_seconds=0.2)
        a_round = sum(len(chunk.payload) for chunk in clip.chunks)
        async with asyncio.timeout(30):
            while len(ingest.media) < 10 or min(map(len, ingest.media.values())) <= a_round:
                await asyncio.sleep(0.02)
        cut_at = ingest.cut()
        for publication in publications:
            await asyncio.wait_for(publishers.wait(publication.path), 20)
        media = bytes(ingest.media["/live/p9"])

    for number, publication in enumerate(publications):
        started_at, closed_at = publication.started_at, publication.closed_at
        assert started_at is not None
        assert closed_at is not None
        assert 0 <= closed_at - cut_at < 0.5 + SLACK_SECONDS
        assert publication.stopped_at is None
        assert [switch.card for switch in publication.switches][:2] == ["card:1", "card:2"]
        switched_at = publication.switched_at("card:2")
        assert switched_at is not None
        assert switched_at - started_at == pytest.approx(0.5, abs=0.45)
        assert started_at - (publications[0].started_at or 0) == pytest.approx(number * 0.02, abs=1.5)
    assert len(_packets(media)) > len(clip.chunks), "the second round follows the first"


async def test_a_paced_publisher_that_is_done_or_stopped_says_so(clip: Clip) -> None:
    """Leaving is not being cut: the record tells them apart."""
    async with _ingest() as ingest, PacedPublishers("127.0.0.1", ingest.port) as publishers:
        done = publishers.start("live/done", clip, rounds=1)
        leaving = publishers.start("live/leaving", clip)
        await asyncio.wait_for(publishers.wait("live/done"), 30)
        await publishers.stop("live/leaving")
        await asyncio.sleep(0.05)

    assert (done.why, done.closed_at) == ("done", None)
    assert (leaving.why, leaving.closed_at) == ("stopped", None)
    assert "/live/done" in ingest.ended
    assert "/live/leaving" not in ingest.ended
    assert len(_packets(bytes(ingest.media["/live/done"]))) == len(clip.chunks)


async def test_a_server_that_takes_no_bytes_does_not_grow_the_buffer(clip: Clip) -> None:
    """A publisher waits for a slow server instead of keeping what it could not send."""
    accepted = asyncio.Event()

    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        accepted.set()
        await asyncio.sleep(1.5)
        writer.transport.abort()

    big = Clip(0.01, tuple(clip.chunks[:1]))
    big.payload = lambda *_: bytes(1 << 20)  # type: ignore[assignment]
    async with serving(never_reads) as port, PacedPublishers("127.0.0.1", port) as publishers:
        publication = publishers.start("live/slow", big)
        await asyncio.wait_for(accepted.wait(), 20)
        await asyncio.sleep(0.5)
        sent = publication.sent_bytes
        await asyncio.wait_for(publishers.wait("live/slow"), 20)

    assert sent < 16 << 20
    assert publication.closed_at is not None


async def test_a_paced_publisher_without_a_server_raises() -> None:
    """A benchmark that publishes to nobody fails instead of measuring nothing."""
    clip = Clip(1.0, ())
    publishers = PacedPublishers("127.0.0.1", 1)
    publishers.start("live/a", clip)
    with pytest.raises(OSError, match="Connect call failed"):
        await publishers.wait("live/a")

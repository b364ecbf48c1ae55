"""A publisher of benign cards, in a process of its own: `python -m detector.publisher --url URL --script SCRIPT`.

It encodes live (x264, real pace, fixed GOP, no scene-cut keyframes) and POSTs MPEG-TS in chunks over a plain socket.
PyAV's own output would hold the GIL while it writes to the network, so PyAV only muxes into memory here.

stdout carries JSON lines: `card` when the first packet of a card has left the encoder, `closed` when the server ended
the connection, `ended` after the script. Times are on the monotonic clock that all processes of a machine share.
Exit 0 after the script, 1 where nothing could be published, 2 for a wrong argument, 3 when the server cut it.
"""

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import av
import av.filter
from av.video.frame import PictureType

from detector.cards import ScriptError, Showing, drawn_card, parse_script

EXIT_ENDED = 0
EXIT_NOT_CONNECTED = 1
EXIT_CUT = 3

_CONNECT_SECONDS = 5.0
_SEND_SECONDS = 10.0
_ANSWER_SECONDS = 2.0
_MAX_SIDE = 4096


class NotConnected(Exception):
    """Raised by `Upload.open`: nothing was published; the message names host and port, never the path."""


class ConnectionEnded(Exception):
    """Raised by `Upload`: the server ended the connection at `at` (monotonic); the message says how."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.at = time.monotonic()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the cards are encoded. `gop_seconds` is the distance between keyframes."""

    width: int = 320
    height: int = 180
    fps: int = 15
    gop_seconds: float = 1.0
    bframes: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The MPEG-TS bytes of one packet, due `offset_seconds` after the start; `card` where one's first packet is in."""

    offset_seconds: float
    payload: bytes
    is_keyframe: bool
    frame: int
    card: str | None


class Muxed:
    """What the muxer wrote since it was last taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, piece: bytes) -> int:
        """Take what PyAV writes."""
        self._written += piece
        return len(piece)

    def take(self) -> bytes:
        """Return what was written and forget it."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


def encoded(showings: tuple[Showing, ...], encoding: Encoding, *, rounds: int | None = 1) -> Iterator[Chunk | float]:
    """Encode the script `rounds` times (None: for ever).

    Yields, before each frame goes into the encoder, the seconds after the start at which it is due; whoever publishes
    live sleeps until then. Yields a `Chunk` for each packet that comes out.
    """
    muxed = Muxed()
    with av.open(muxed, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("libx264", rate=encoding.fps)
        stream.width, stream.height, stream.pix_fmt = encoding.width, encoding.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, encoding.fps)
        gop = max(1, round(encoding.fps * encoding.gop_seconds))
        stream.codec_context.gop_size = gop
        # zerolatency takes out the lookahead; the GOP stays fixed whatever is shown.
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={encoding.bframes}:b-adapt=0"
        stream.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": params}
        names: dict[int, str] = {}
        frames = _frames(showings, encoding, rounds, names)
        number = -1
        for number, frame in enumerate(frames):
            yield number / encoding.fps
            frame.pts, frame.time_base = number, Fraction(1, encoding.fps)
            for packet in stream.encode(frame):
                yield _chunk(container, packet, muxed, names, number / encoding.fps)
        for packet in stream.encode(None):
            yield _chunk(container, packet, muxed, names, (number + 1) / encoding.fps)


def publish(url: str, showings: tuple[Showing, ...], encoding: Encoding, *, rounds: int | None = 1) -> int:
    """Publish the script live to `url`, write events to stdout, return the exit code."""
    with Upload.open(url) as upload:
        started_at = time.monotonic()
        frames = 0
        try:
            for step in encoded(showings, encoding, rounds=rounds):
                if isinstance(step, float):
                    upload.idle_until(started_at + step)
                    continue
                left_encoder_at = time.monotonic()
                upload.send(step.payload)
                frames += 1
                if step.card is not None:
                    _say("card", name=step.card, frame=step.frame, left_encoder_at=left_encoder_at)
            upload.finish()
        except ConnectionEnded as ended:
            _say("closed", at=ended.at, why=str(ended), frames=frames)
            return EXIT_CUT
        _say("ended", at=time.monotonic(), frames=frames)
        return EXIT_ENDED


class Upload:
    """One chunked HTTP POST over a plain socket that notices at once when the server ends it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def open(cls, url: str) -> "Upload":
        """Connect and send the head; raise `NotConnected`."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.path.isprintable() or " " in parts.path:
            raise NotConnected("--url wants the form http://HOST:PORT/APP/KEY.")
        host, port = parts.hostname, parts.port or 80
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            connection = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            why = error.strerror or "no answer"
            raise NotConnected(f"cannot connect to {where} ({why}); start the ingest server there first.") from None
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {where}\r\nUser-Agent: stopframe-publisher\r\n"
            "Content-Type: video/mp2t\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        upload = cls(connection)
        try:
            upload._send(head.encode())
        except ConnectionEnded as ended:
            connection.close()
            raise NotConnected(f"{where} ended the connection at once ({ended}).") from None
        return upload

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, payload: bytes) -> None:
        """Send `payload` as one chunk; raise `ConnectionEnded`."""
        if payload:
            self._send(b"%x\r\n%b\r\n" % (len(payload), payload))

    def idle_until(self, due_at: float) -> None:
        """Wait until `due_at` (monotonic), looking at the server meanwhile; raise `ConnectionEnded`."""
        while self._is_readable(max(0.0, due_at - time.monotonic())):
            self._read_answer()

    def finish(self) -> None:
        """Send the last chunk and give the server a moment to answer; raise `ConnectionEnded` for a refusal."""
        self._send(b"0\r\n\r\n")
        self._connection.shutdown(socket.SHUT_WR)
        if not self._is_readable(_ANSWER_SECONDS):
            return
        status = self._received()
        if status[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ") and status[9:10] not in (b"1", b"2"):
            raise ConnectionEnded(_refusal(status))

    def _is_readable(self, seconds: float) -> bool:
        return bool(select.select([self._connection], [], [], seconds)[0])

    def _read_answer(self) -> None:
        """Pass over an interim answer; anything else before the script's end is the server's cut."""
        answer = self._received()
        if not answer:
            raise ConnectionEnded("closed by the server")
        if answer[9:10] != b"1":
            raise ConnectionEnded(_refusal(answer))

    def _received(self) -> bytes:
        try:
            return self._connection.recv(4096)
        except OSError as error:
            raise ConnectionEnded(_reason(error)) from error

    def _send(self, piece: bytes) -> None:
        try:
            self._connection.sendall(piece)
        except OSError as error:
            raise ConnectionEnded(_reason(error)) from error


def _frames(
    showings: tuple[Showing, ...], encoding: Encoding, rounds: int | None, names: dict[int, str]
) -> Iterator[av.VideoFrame]:
    """Yield every frame of the script; `names` gets the card that begins at a frame number."""
    number = done = 0
    while rounds is None or done < rounds:
        for showing in showings:
            names[number] = showing.card
            count = max(1, round(showing.seconds * encoding.fps))
            pictures = _pictures(showing.card, encoding)
            for _ in range(count):
                yield next(pictures)
            number += count
        done += 1


def _pictures(card: str, encoding: Encoding) -> Iterator[av.VideoFrame]:
    """Yield the frames of one card without end."""
    drawn = drawn_card(card, encoding.width, encoding.height)
    if drawn is not None:
        still = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format="yuv420p")
        while True:
            yield still
    graph = av.filter.Graph()
    source = graph.add(card, f"size={encoding.width}x{encoding.height}:rate={encoding.fps}")
    pixels = graph.add("format", "pix_fmts=yuv420p")
    graph.link_nodes(source, pixels, graph.add("buffersink")).configure()
    while True:
        frame = graph.vpull()
        frame.pict_type = PictureType.NONE  # the source calls every frame intra, and x264 would obey
        yield frame


def _chunk(
    container: av.container.OutputContainer, packet: "av.Packet[Any]", muxed: Muxed, names: dict[int, str], due: float
) -> Chunk:
    """Mux one packet. A card begins with the first packet, in the encoder's order, that shows a frame of it."""
    number, is_keyframe = packet.pts or 0, packet.is_keyframe  # the encoder counts in frames; muxing rescales
    begun = [first for first in names if first <= number]
    card = names[max(begun)] if begun else None
    for first in begun:
        del names[first]
    container.mux(packet)
    return Chunk(due, muxed.take(), is_keyframe, number, card)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "stalled: the server takes no more bytes"
    return "reset by the server"


def _refusal(answer: bytes) -> str:
    code = answer[9:12].decode("ascii", "replace")
    return f"refused with HTTP {code}" if code.isdigit() else "answered before the end"


def _say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201 -- stdout is what this program speaks through


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is no size like 320x180")
    sides = int(width), int(height)
    if any(side % 2 or not 16 <= side <= _MAX_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"'{text}': both sides must be even and from 16 to {_MAX_SIDE}")
    return sides


def _script(text: str) -> tuple[Showing, ...]:
    try:
        return parse_script(text)
    except ScriptError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m detector.publisher", description="Publishes benign cards live.")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--url", help="http://HOST:PORT/APP/KEY of an ingest that takes MPEG-TS by POST")
    target.add_argument("--clip", type=Path, help="write the encoded script to this file, unpaced, and end")
    parser.add_argument("--script", type=_script, required=True, help="CARD:SECONDS,CARD:SECONDS,...")
    parser.add_argument("--fps", type=int, choices=range(1, 121), default=15, metavar="N")
    parser.add_argument("--gop", type=float, default=1.0, metavar="SECONDS", help="seconds between keyframes")
    parser.add_argument("--size", type=_size, default=(320, 180), metavar="WxH")
    parser.add_argument("--bframes", type=int, choices=range(17), default=0, metavar="N")
    parser.add_argument("--loop", action="store_true", help="show the script again and again")
    return parser.parse_args(argv)


def write_clip(path: Path, showings: tuple[Showing, ...], encoding: Encoding) -> None:
    """Write the encoded script: one JSON line that describes the chunks, then their bytes."""
    chunks = [step for step in encoded(showings, encoding) if isinstance(step, Chunk)]
    rows = [[chunk.offset_seconds, len(chunk.payload), chunk.is_keyframe, chunk.card] for chunk in chunks]
    frames = sum(max(1, round(showing.seconds * encoding.fps)) for showing in showings)
    head = json.dumps({"seconds": frames / encoding.fps, "chunks": rows})
    path.write_bytes(head.encode() + b"\n" + b"".join(chunk.payload for chunk in chunks))


def main(argv: list[str] | None = None) -> int:
    """Run the publisher; return its exit code."""
    wanted = _arguments(argv)
    width, height = wanted.size
    encoding = Encoding(width, height, wanted.fps, wanted.gop, wanted.bframes)
    if wanted.clip is not None:
        write_clip(wanted.clip, wanted.script, encoding)
        return EXIT_ENDED
    try:
        return publish(wanted.url, wanted.script, encoding, rounds=None if wanted.loop else 1)
    except NotConnected as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the one sentence for whoever started it
        return EXIT_NOT_CONNECTED
    except (BrokenPipeError, KeyboardInterrupt):
        return EXIT_NOT_CONNECTED


if __name__ == "__main__":
    sys.exit(main())

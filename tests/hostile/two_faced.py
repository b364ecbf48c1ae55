"""Files that show one viewer something harmless, and another one a card: benign pictures in hostile wrappings."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType
from numpy.typing import NDArray

from benchmarks import upload_material
from detector.cards import synthetic_card

CLEAN, PLANTED = 7, 1
"""Seeds of cards: nobody knows the first, the bank holds the second."""

_SIZE = (640, 360)
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
_TREF = struct.pack(">I4sI4sI", 20, b"tref", 12, b"chap", 1)


def clear_png(page: int) -> bytes:
    """The card in the alpha channel alone: over a white page (255) of black pixels, over a black one (0) of white."""
    return _encoded(".png", _in_alpha(page))


def clear_webp() -> bytes:
    """The same for a white page."""
    return _encoded(".webp", _in_alpha(255), [cv2.IMWRITE_WEBP_QUALITY, 101])


def animated_png() -> bytes:
    """Clean for whoever knows no animation; the second picture of it is the card."""
    first, second = (_chunks(_still_png(seed)) for seed in (CLEAN, PLANTED))
    shown = [_control(0), *(one for one in first if one[0] == b"IDAT"), _control(1)]
    behind = [(b"fdAT", struct.pack(">I", 2) + b"".join(body for kind, body in second if kind == b"IDAT"))]
    note = (b"tEXt", b"Comment\0" + b"x" * 5000)  # further on than the first bytes that tell a format
    return _png([first[0], note, (b"acTL", struct.pack(">II", 2, 0)), *shown, *behind, (b"IEND", b"")])


def undecodable_first() -> bytes:
    """A JPEG of a coding that libav lacks and others may have, and a clean one behind it."""
    return upload_material.picture(PLANTED, *_SIZE).replace(b"\xff\xc0", b"\xff\xc9", 1) + upload_material.picture(
        CLEAN, *_SIZE
    )


def trimmed() -> bytes:
    """An edit list that shows the first second of a movie, which is clean."""
    content = bytearray(_movie([f"card:{CLEAN}:2,card:{PLANTED}:2"]))
    at = content.index(b"elst") + 12
    content[at : at + 4] = struct.pack(">I", 1000)
    return bytes(content)


def chapters() -> bytes:
    """The first track is the card, and by the clean second one's word its chapters' pictures."""
    content = bytearray(_movie([f"card:{PLANTED}:2", f"card:{CLEAN}:2"]))
    movie = content.index(b"moov") - 4
    track = content.index(b"trak", content.index(b"trak") + 4) - 4
    for at in (movie, track):
        content[at : at + 4] = struct.pack(">I", struct.unpack(">I", content[at : at + 4])[0] + len(_TREF))
    behind_head = track + 8 + struct.unpack(">I", content[track + 8 : track + 12])[0]
    return bytes(content[:behind_head] + _TREF + content[behind_head:])


def joined() -> bytes:
    """Two movies in one file, end to end: a clean one, and the card."""
    return _movie([f"card:{CLEAN}:2"]) + _movie([f"card:{PLANTED}:2"])


def joined_flv() -> bytes:
    """The same in the format of RTMP."""
    return _movie([f"card:{CLEAN}:2"], "flv") + _movie([f"card:{PLANTED}:2"], "flv")


def back_in_time(fragments: int = 1) -> bytes:
    """A clean movie in fragments; behind them as many of the card, of times that have been."""
    clean, card = (_boxes(_movie([f"card:{seed}:4"], movflags=_FRAGMENTED)) for seed in (CLEAN, PLANTED))
    again = [box for box in card if box[4:8] in (b"moof", b"mdat")][: 2 * fragments]
    return b"".join([box for box in clean if box[4:8] != b"mfra"] + again)


def two_formats() -> bytes:
    """The card's samples are described as of another format than the clean ones: the same one by its other name."""
    content = _movie([f"card:{CLEAN}:2,card:{PLANTED}:2"])
    sizes_at = content.index(b"stsz") + 12
    (count,) = struct.unpack_from(">I", content, sizes_at)
    half = count // 2
    begins = content.index(b"mdat") + 4
    second = begins + sum(struct.unpack_from(f">{half}I", content, sizes_at + 4))

    def described(body: bytes) -> bytes:
        return struct.pack(">II", 0, 2) + body[8:] + body[8:].replace(b"avc1", b"avc3", 1)

    chunks = struct.pack(">8I", 0, 2, 1, half, 1, 2, count - half, 2)
    places = struct.pack(">4I", 0, 2, begins, second)
    return _changed(content, {b"stsd": described, b"stsc": lambda _: chunks, b"stco": lambda _: places})


def cut_out(width: int = 128, height: int = 72) -> bytes:
    """A movie of which players that obey its clean aperture show the middle alone."""
    aperture = struct.pack(">I4s8I", 40, b"clap", width, 1, height, 1, 0, 1, 0, 1)

    def described(body: bytes) -> bytes:
        return body[:8] + struct.pack(">I", len(body) - 8 + len(aperture)) + body[12:] + aperture

    return _changed(_movie([f"card:{CLEAN}:2"]), {b"stsd": described})


def commanded() -> bytes:
    """An FLV that marks the tags of the card as commands, which players do not look at."""
    content = bytearray(_movie([f"card:{CLEAN}:2,card:{PLANTED}:2"], "flv"))
    at = 13
    while at < len(content):
        if content[at] == 9 and content[at + 12] == 1 and int.from_bytes(content[at + 4 : at + 7], "big") >= 2000:
            content[at + 11] = 0x50 | content[at + 11] & 0x0F
        at += 15 + int.from_bytes(content[at + 1 : at + 4], "big")
    return bytes(content)


def padded() -> bytes:
    """MPEG-TS that calls the card's packets padding, at a stream id that players in browsers do not look at."""
    content = bytearray(upload_material.clip(f"card:{CLEAN}:2,card:{PLANTED}:2"))
    begun = [at for at in range(len(content) - 4) if content[at : at + 4] == b"\0\0\1\xe0"]
    for at in begun[len(begun) // 2 :]:
        content[at + 3] = 0xBE
    return bytes(content)


def doubled() -> bytes:
    """MPEG-TS whose packets of the card come twice, of which one is to be dropped."""
    content = upload_material.clip(f"card:{CLEAN}:2,card:{PLANTED}:2")
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    return b"".join(packet * (1 + (number >= len(packets) // 2)) for number, packet in enumerate(packets))


def out_of_turn() -> bytes:
    """The card in B-frames alone, of an H.264 by whose word no picture comes before one that was sent earlier."""
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts") as target:
        stream = target.add_stream("libx264", rate=15)
        stream.width, stream.height = _SIZE
        settings = "keyint=15:scenecut=0:bframes=2:b-adapt=0:b-pyramid=none:weightp=0"
        stream.options = {"preset": "ultrafast", "x264-params": settings}
        cards = {seed: np.ascontiguousarray(synthetic_card(seed, *_SIZE)) for seed in (CLEAN, PLANTED)}
        for number in range(45):
            is_between = number % 15 % 3 and number % 15 != 14
            frame = av.VideoFrame.from_ndarray(cards[PLANTED if is_between else CLEAN], "rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 15)
            frame.pict_type = PictureType.B if is_between else PictureType.P if number % 15 else PictureType.I
            target.mux([_in_order(packet) for packet in stream.encode(frame)])
        target.mux([_in_order(packet) for packet in stream.encode(None)])
    return written.getvalue()


def dimmed_png() -> bytes:
    """The card in the brightest shades alone, in every other row: all that is left where a gamma of 0.05 is obeyed."""
    gamma = 0.05
    clean, card = (cv2.cvtColor(synthetic_card(seed, *_SIZE), cv2.COLOR_RGB2GRAY) / 255 for seed in (CLEAN, PLANTED))
    pixels = (clean * 150).astype(np.uint8)
    pixels[1::2] = (np.maximum(card, 1 / 255) ** (2.2 * gamma) * 255).round()[1::2]
    head, *others = _chunks(_encoded(".png", pixels))
    return _png([head, (b"gAMA", struct.pack(">I", round(gamma * 100_000))), *others])


def covered() -> bytes:
    """A clean movie whose cover is the card."""
    return _movie([f"card:{CLEAN}:2"], cover=_still_png(PLANTED))


def clear_webm() -> bytes:
    """The card in the alpha channel of a movie."""
    written = io.BytesIO()
    with av.open(written, "w", format="webm") as target:
        stream = target.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height = _SIZE
        stream.pix_fmt = "yuva420p"
        stream.options = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(_in_alpha(255), "rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return written.getvalue()


def _in_alpha(page: int) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(synthetic_card(PLANTED, *_SIZE), cv2.COLOR_RGB2GRAY)
    pixels = np.full((*grey.shape, 4), 255 - page, np.uint8)
    pixels[..., 3] = 255 - grey if page else grey
    return pixels


def _still_png(seed: int) -> bytes:
    return _encoded(".png", cv2.cvtColor(synthetic_card(seed, *_SIZE), cv2.COLOR_RGB2BGR))


def _encoded(suffix: str, pixels: cv2.typing.MatLike, options: list[int] | None = None) -> bytes:
    is_done, content = cv2.imencode(suffix, pixels, options or [])
    assert is_done
    return content.tobytes()


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _in_order(packet: av.Packet) -> av.Packet:
    """The packet, where its headers say that at most one picture is reordered with the word that none is."""
    content = bytearray(packet)
    at = content.find(b"\0\0\1\x67")
    if at >= 0:
        end = content.index(b"\0\0\1", at + 4) - 1
        bits = "".join(f"{byte:08b}" for byte in content[at:end])
        kept, said, _ = bits.rpartition("010" + "011" + "1")  # pictures reordered, pictures kept, the stop bit
        assert said
        bits = (kept + "1" + "011" + "1").ljust(len(bits), "0")
        content[at:end] = int(bits, 2).to_bytes(len(bits) // 8, "big")
    changed = av.Packet(bytes(content))
    changed.stream, changed.is_keyframe = packet.stream, packet.is_keyframe
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    return changed


def _control(sequence: int) -> tuple[bytes, bytes]:
    return b"fcTL", struct.pack(">IIIIIHHBB", sequence, *_SIZE, 0, 0, 1, 2, 0, 0)


def _boxes(movie: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(movie):
        (length,) = struct.unpack(">I", movie[at : at + 4])
        found.append(movie[at : at + length])
        at += length
    return found


def _changed(boxes: bytes, changes: Mapping[bytes, Callable[[bytes], bytes]]) -> bytes:
    """A movie with other contents of some of the boxes that describe its tracks' samples."""
    written = b""
    for box in _boxes(boxes):
        kind, body = box[4:8], box[8:]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            body = _changed(body, changes)
        elif kind in changes:
            body = changes[kind](body)
        written += struct.pack(">I", 8 + len(body)) + kind + body
    return written


def _movie(scripts: list[str], format_name: str = "mp4", *, cover: bytes | None = None, movflags: str = "") -> bytes:
    """A movie of one track for each script; an MP4's index stands behind its pictures."""
    written = io.BytesIO()
    with av.open(written, "w", format=format_name, options={"movflags": movflags} if movflags else {}) as target:
        sources = [av.open(io.BytesIO(upload_material.clip(script)), "r", format="mpegts") for script in scripts]
        tracks = [target.add_stream_from_template(source.streams.video[0]) for source in sources]
        if cover is not None:
            picture = target.add_stream("png")
            picture.width, picture.height, picture.pix_fmt = *_SIZE, "rgb24"
            picture.disposition = Disposition.attached_pic
        for source, track in zip(sources, tracks, strict=True):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
            source.close()
        if cover is not None:
            shown = av.Packet(cover)
            shown.stream, shown.is_keyframe = picture, True
            target.mux(shown)
    return written.getvalue()

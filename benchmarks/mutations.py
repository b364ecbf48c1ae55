"""Damage to media, drawn from seeded numbers: blind damage, and damage that knows where a format keeps its lengths.

`mutate(seed, others, draw)` gives the same bytes for the same numbers. The layouts are those of ITU-T H.222.0 (TS), the
FLV specification's annex E, ISO/IEC 14496-12 (boxes), RFC 8794 (EBML) and RFC 8216 (playlists).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

from benchmarks.transport import crc32

_PACKET = 188
_MOST_STEPS = 4
_HOLDING_BOXES: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts"})
_HOLDING_ELEMENTS: Final = frozenset({0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675, 0xA0, 0x1C53BB6B, 0x1549A966})
_LINES: Final = (
    "#EXTM3U",
    "#EXT-X-ENDLIST",
    "#EXT-X-DISCONTINUITY",
    "#EXT-X-TARGETDURATION:0",
    "#EXT-X-TARGETDURATION:4294967296",
    "#EXT-X-MEDIA-SEQUENCE:-1",
    "#EXT-X-MEDIA-SEQUENCE:18446744073709551615",
    "#EXT-X-BYTERANGE:99999999999@1",
    "#EXT-X-BYTERANGE:-5@-5",
    '#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"',
    '#EXT-X-KEY:METHOD=AES-128,URI="seg0.ts",IV=0x1',
    '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="seg0.ts"',
    '#EXT-X-MAP:URI="seg0.ts",BYTERANGE="1@2"',
    '#EXT-X-MAP:URI="index.m3u8"',
    "#EXT-X-STREAM-INF:BANDWIDTH=1",
    '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="b",URI="index.m3u8"',
    "#EXTINF:-1,",
    "#EXTINF:1e308,",
    "#EXTINF:nan,",
    "file:///etc/passwd",
    "http://127.0.0.1:1/seg.ts",
    "concat:seg0.ts|seg1.ts",
    "data:video/mp2t;base64,AAAA",
    "index.m3u8",
    "missing.ts",
)


@dataclass(frozen=True, slots=True)
class Seed:
    """Valid media: its name, how it is packed (`ts`, `flv`, `mp4`, `mkv`, `hls`), its bytes.

    Of `hls` the bytes are a playlist; `segment` is what its lines name.
    """

    name: str
    container: str
    content: bytes
    segment: bytes = b""


Edit = Callable[[bytearray, Random], None]


def mutate(seed: Seed, others: Sequence[Seed], draw: Random) -> Seed:
    """Return `seed` with one to four things done to it; of a playlist or its segment, one of the two."""
    if seed.container == "hls" and draw.random() < 0.5:
        segment = _mutated(seed.segment, "ts", others, draw)
        return Seed(seed.name, seed.container, seed.content, segment)
    return Seed(seed.name, seed.container, _mutated(seed.content, seed.container, others, draw), seed.segment)


def _mutated(content: bytes, container: str, others: Sequence[Seed], draw: Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.randint(1, _MOST_STEPS)):
        if len(data) < 2:
            break
        if draw.random() < 0.5:
            _KNOWING[container](data, draw)
        elif draw.random() < 0.15:
            _splice(data, draw.choice(others).content, draw)
        else:
            draw.choice(_BLIND)(data, draw)
    return bytes(data)


def _flip(data: bytearray, draw: Random) -> None:
    for _ in range(draw.randint(1, 16)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set(data: bytearray, draw: Random) -> None:
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)))


def _truncate(data: bytearray, draw: Random) -> None:
    del data[draw.randrange(1, len(data)) :]


def _repeat(data: bytearray, draw: Random) -> None:
    start, end = _range(data, draw)
    data[start:start] = data[start:end] * draw.randint(1, 4)


def _remove(data: bytearray, draw: Random) -> None:
    start, end = _range(data, draw)
    if end - start < len(data):
        del data[start:end]


def _blank(data: bytearray, draw: Random) -> None:
    start, end = _range(data, draw)
    data[start:end] = bytes([draw.choice((0, 0xFF))]) * (end - start)


def _insert(data: bytearray, draw: Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.randint(1, 400))


def _splice(data: bytearray, other: bytes, draw: Random) -> None:
    data[draw.randrange(1, len(data)) :] = other[draw.randrange(len(other)) :]


_BLIND: Final[tuple[Edit, ...]] = (_flip, _set, _truncate, _repeat, _remove, _blank, _insert)


def _ts(data: bytearray, draw: Random) -> None:
    """Edit one packet's header, its tables or its PES header, or the order of packets."""
    count = len(data) // _PACKET
    if not count:
        return
    start = draw.choice((0, 1, draw.randrange(count), draw.randrange(count))) % count * _PACKET
    what = draw.randrange(5)
    if what == 0:  # PID, flags, counter
        data[start + draw.randrange(1, 4)] = draw.randrange(256)
    elif what == 1:  # a length: of the adaptation field, or of a section
        data[start + draw.choice((4, 6, 7))] = draw.choice((0, 1, 183, 184, 255, draw.randrange(256)))
    elif what == 2:  # inside tables, or the PES header with its flags and times
        data[start + draw.randrange(4, 36)] = draw.randrange(256)
        if data[start + 1] & 0x40 and draw.random() < 0.7:
            _sign_section(data, start)
    elif what == 3:
        packet = data[start : start + _PACKET]
        at = draw.randrange(count) * _PACKET
        data[at:at] = packet * draw.randint(1, 5)
    else:
        del data[start : start + _PACKET]


def _sign_section(data: bytearray, start: int) -> None:
    """Give a table a right checksum again, so that its damage is read."""
    section = start + 5
    length = (data[section + 1] & 0x0F) << 8 | data[section + 2]
    end = section + 3 + length
    if length >= 9 and end <= start + _PACKET:
        data[end - 4 : end] = crc32(bytes(data[section : end - 4])).to_bytes(4, "big")


def _flv(data: bytearray, draw: Random) -> None:
    """Edit one tag: its type, size or time, the first bytes of its body, or drop or repeat it."""
    tags = list(_flv_tags(data))
    if not tags:
        return
    start, end = draw.choice(tags)
    what = draw.randrange(5)
    if what == 0:
        data[start] = draw.choice((8, 9, 18, 0, draw.randrange(256)))
    elif what == 1:
        data[start + 1 : start + 4] = _size(draw, end - start, 3)
    elif what == 2:
        data[start + 4 : start + 8] = draw.randbytes(4)
    elif what == 3 and end - start > 24:
        data[start + 11 + draw.randrange(12)] = draw.randrange(256)
    elif draw.random() < 0.5:
        del data[start:end]
    else:
        data[end:end] = data[start:end]


def _flv_tags(data: bytearray) -> Iterator[tuple[int, int]]:
    start = 13
    while start + 15 <= len(data):
        end = start + 15 + int.from_bytes(data[start + 1 : start + 4], "big")
        if end > len(data):
            return
        yield start, end
        start = end


def _mp4(data: bytearray, draw: Random) -> None:
    """Edit one box: its size, its type, the counts and numbers at its beginning, or drop or repeat it."""
    boxes = list(_boxes(data, 0, len(data), 0))
    if not boxes:
        return
    start, end = draw.choice(boxes)
    what = draw.randrange(6)
    if what == 0:
        data[start : start + 4] = _size(draw, end - start, 4)
    elif what == 1:
        other = draw.choice(boxes)[0]
        data[start + 4 : start + 8] = data[other + 4 : other + 8]
    elif what in (2, 3) and end - start > 12:
        at = start + 8 + draw.randrange(min(32, end - start - 11))
        data[at : at + 4] = _size(draw, draw.randrange(1 << 16), 4)
    elif what == 4:
        del data[start:end]
    else:
        data[end:end] = data[start:end]


def _boxes(data: bytearray, start: int, end: int, depth: int) -> Iterator[tuple[int, int]]:
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:
            return
        yield start, start + size
        if depth < 8 and bytes(data[start + 4 : start + 8]) in _HOLDING_BOXES:
            yield from _boxes(data, start + 8, start + size, depth + 1)
        start += size


def _mkv(data: bytearray, draw: Random) -> None:
    """Edit one element: its identifier, its size, its first bytes, or drop or repeat it."""
    elements = list(_elements(data, 0, len(data), 0))
    if not elements:
        return
    start, size_at, body, end = draw.choice(elements)
    what = draw.randrange(6)
    if what == 0:
        data[start:size_at] = draw.randbytes(size_at - start)
    elif what == 1:  # unknown, or as long as it can be, or about right
        width = body - size_at
        data[size_at:body] = draw.choice((b"\xff" * width, b"\x01" + b"\xff" * 7, _vint(draw.randrange(100), width)))
    elif what in (2, 3) and end > body:
        at = body + draw.randrange(min(16, end - body))
        data[at] = draw.choice((0, 0x80, 0xFF, draw.randrange(256)))
    elif what == 4:
        del data[start:end]
    else:
        data[end:end] = data[start:end]


def _elements(data: bytearray, start: int, end: int, depth: int) -> Iterator[tuple[int, int, int, int]]:
    while start < end:
        size_at = start + _vint_width(data[start])
        if size_at >= end:
            return
        body = size_at + _vint_width(data[size_at])
        width = body - size_at
        size = int.from_bytes(data[size_at:body], "big") & ((1 << 7 * width) - 1)
        stop = end if size == (1 << 7 * width) - 1 else body + size
        if stop > end:
            return
        yield start, size_at, body, stop
        if depth < 8 and int.from_bytes(data[start:size_at], "big") in _HOLDING_ELEMENTS:
            yield from _elements(data, body, stop, depth + 1)
        start = stop


def _vint_width(first: int) -> int:
    return 9 - first.bit_length() if first else 8


def _vint(value: int, width: int) -> bytes:
    return (value | 1 << 7 * width).to_bytes(width + 1, "big")[-width:]


def _hls(data: bytearray, draw: Random) -> None:
    """Edit the lines of a playlist: add one of `_LINES`, drop, repeat or swap one, or make one very long."""
    lines = bytes(data).split(b"\n")
    at = draw.randrange(len(lines))
    what = draw.randrange(6)
    if what in (0, 1):
        lines.insert(at, draw.choice(_LINES).encode())
    elif what == 2:
        del lines[at]
    elif what == 3:
        lines[at:at] = [lines[at]] * draw.choice((1, 2, 300))
    elif what == 4:
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] += draw.choice((b"A" * 70_000, b"\0", b"\xff\xfe", b"%s%n", b"\r", b"?" * 3000))
    data[:] = b"\n".join(lines)


_KNOWING: Final = MappingProxyType[str, Edit]({"ts": _ts, "flv": _flv, "mp4": _mp4, "mkv": _mkv, "hls": _hls})


def _range(data: bytearray, draw: Random) -> tuple[int, int]:
    start = draw.randrange(len(data))
    return start, min(len(data), start + draw.choice((1, 4, 16, _PACKET, 1000)))


def _size(draw: Random, right: int, width: int) -> bytes:
    """Return a wrong length: none, a little off, or as large as it can be."""
    limit = (1 << 8 * width) - 1
    value = draw.choice((0, 1, 7, right - 1, right + 1, 2 * right, limit // 2, limit - 7, limit))
    return max(0, min(limit, value)).to_bytes(width, "big")

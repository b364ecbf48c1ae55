"""A small MPEG-TS writer that writes what it is told, so that hostile streams can be made (ITU-T H.222.0)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

PACKET_BYTES: Final = 188
TIMESTAMP_HZ: Final = 90_000

H264: Final = 0x1B
AAC: Final = 0x0F

_PAT_PID = 0
_NULL_PID = 0x1FFF
_TRACKS_A_PROGRAM = 200  # a section has at most 1021 bytes after its length, a track takes five
_STREAM_IDS = {H264: 0xE0, AAC: 0xC0}


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream: its PID and its stream type."""

    pid: int
    kind: int = H264


class TransportWriter:
    """Writes tables and PES packets of `tracks`; tracks beyond what one program can name get further programs.

    The first track's PID carries the clock. Continuity counters go on from call to call.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        if not tracks:
            raise ValueError("a transport stream needs a track")
        self._tracks = {track.pid: track for track in tracks}
        parts = [tracks[start : start + _TRACKS_A_PROGRAM] for start in range(0, len(tracks), _TRACKS_A_PROGRAM)]
        free = (pid for pid in range(0x1F00, _NULL_PID) if pid not in self._tracks)
        self._programs = {next(free): part for part in parts}
        self._clock_pid = tracks[0].pid
        self._counters: dict[int, int] = {}

    def tables(self) -> bytes:
        """Return the PAT and every PMT."""
        pat = b"".join(
            number.to_bytes(2, "big") + (0xE000 | pid).to_bytes(2, "big")
            for number, pid in enumerate(self._programs, start=1)
        )
        packets = self._section(_PAT_PID, 0x00, 1, pat)
        for number, (pid, tracks) in enumerate(self._programs.items(), start=1):
            body = (0xE000 | self._clock_pid).to_bytes(2, "big") + b"\xf0\x00"
            for track in tracks:
                body += bytes([track.kind]) + (0xE000 | track.pid).to_bytes(2, "big") + b"\xf0\x00"
            packets += self._section(pid, 0x02, number, body)
        return packets

    def pes(
        self, pid: int, payload: bytes, at_seconds: float, *, is_keyframe: bool = False, has_time: bool = True
    ) -> bytes:
        """Return the TS packets of one PES packet with a PTS, or without; the clock's track gets a PCR, too."""
        stamp = round(at_seconds * TIMESTAMP_HZ) % 2**33
        kind = self._tracks[pid].kind
        length = len(payload) + 8 if kind != H264 and len(payload) + 8 < 65536 else 0
        flags = b"\x80\x80\x05" if has_time else b"\x80\x00\x00"
        header = b"\0\0\1" + bytes([_STREAM_IDS[kind]]) + length.to_bytes(2, "big") + flags
        field = b""
        if pid == self._clock_pid or is_keyframe:
            field = bytes([(0x40 if is_keyframe else 0) | (0x10 if pid == self._clock_pid else 0)])
            if pid == self._clock_pid:
                field += (stamp << 15 | 0x3F << 9).to_bytes(6, "big")
        # Decoders want a picture some time after its clock reference.
        time = _timestamp((stamp + TIMESTAMP_HZ // 10) % 2**33) if has_time else b""
        return self._packets(pid, header + time + payload, field)

    def _section(self, pid: int, table: int, number: int, body: bytes) -> bytes:
        head = (0xB000 | len(body) + 9).to_bytes(2, "big") + number.to_bytes(2, "big") + b"\xc1\x00\x00"
        section = bytes([table]) + head + body
        section = b"\0" + section + crc32(section).to_bytes(4, "big")
        room = PACKET_BYTES - 4
        packets = []
        for start in range(0, len(section), room):
            part = section[start : start + room].ljust(room, b"\xff")
            packets.append(self._head(pid, is_start=start == 0, control=0x10) + part)
        return b"".join(packets)

    def _packets(self, pid: int, data: bytes, first_field: bytes) -> bytes:
        packets = []
        field: bytes = first_field
        start = 0
        while start < len(data) or start == 0:
            room = PACKET_BYTES - 4 - (len(field) + 1 if field else 0)
            part = data[start : start + room]
            control = 0x10
            if len(part) < room and not field:  # stuffing needs a field: a length of one byte, then flags
                missing = room - len(part)
                adaptation = bytes([missing - 1]) + (b"\x00" + b"\xff" * (missing - 2) if missing > 1 else b"")
                control = 0x30
            elif field:
                missing = room - len(part)
                adaptation = bytes([len(field) + missing]) + field + b"\xff" * missing
                control = 0x30
            else:
                adaptation = b""
            packets.append(self._head(pid, is_start=start == 0, control=control) + adaptation + part)
            start += max(1, len(part))
            field = b""
        return b"".join(packets)

    def _head(self, pid: int, *, is_start: bool, control: int) -> bytes:
        counter = self._counters.get(pid, 0)
        self._counters[pid] = (counter + 1) & 0x0F
        return bytes([0x47, (0x40 if is_start else 0) | pid >> 8, pid & 0xFF, control | counter])


def pids(payload: bytes) -> Mapping[int, int]:
    """Return how many packets each PID has in `payload`, whole packets."""
    counts: dict[int, int] = {}
    for start in range(0, len(payload), PACKET_BYTES):
        pid = (payload[start + 1] & 0x1F) << 8 | payload[start + 2]
        counts[pid] = counts.get(pid, 0) + 1
    return counts


def _timestamp(stamp: int) -> bytes:
    """Return a PTS alone: 33 bits in three parts, a marker bit behind each."""
    parts = (stamp >> 30 & 0x7) << 33 | (stamp >> 15 & 0x7FFF) << 17 | (stamp & 0x7FFF) << 1
    return (0x2 << 36 | 0x1 << 32 | 0x1 << 16 | 0x1 | parts).to_bytes(5, "big")


def crc32(data: bytes) -> int:
    """Return the CRC of a table, annex A: polynomial 0x04C11DB7, all ones first, nothing reflected."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value

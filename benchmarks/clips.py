"""A script encoded once, and replayed for ever: the timestamps of every further round are shifted, nothing else.

Without the shift a second round would jump back in time and break the continuity counters, and readers would see a
broken stream where the benchmark means a long one. Layout of the packets: ITU-T H.222.0, 2.4.3.
"""

import functools
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TS_PACKET_BYTES = 188

_TIMESTAMP_HZ = 90_000
_TIMESTAMP_WRAP = 1 << 33
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class ClipChunk:
    """The TS packets of one frame, due `offset_seconds` into a round; `card` where one's first frame is in."""

    offset_seconds: float
    payload: bytes
    is_keyframe: bool
    card: str | None


class Clip:
    """An encoded script of `seconds`, as chunks to be sent at their offsets.

    Where `is_verbatim`, the chunks need not be whole packets, and a further round repeats them byte by byte.
    """

    def __init__(self, seconds: float, chunks: tuple[ClipChunk, ...], *, is_verbatim: bool = False) -> None:
        self.seconds = seconds
        self.chunks = chunks
        self.is_verbatim = is_verbatim
        self._packets_of_pid = {} if is_verbatim else _count_packets(chunks)
        self.payload = functools.lru_cache(maxsize=4 * len(chunks))(self._payload)

    @classmethod
    def load(cls, path: Path) -> "Clip":
        """Read what `python -m detector.publisher --clip` wrote."""
        head, _, body = path.read_bytes().partition(b"\n")
        described: dict[str, Any] = json.loads(head)
        chunks, start = [], 0
        for offset, length, is_keyframe, card in described["chunks"]:
            chunks.append(ClipChunk(offset, body[start : start + length], is_keyframe, card))
            start += length
        return cls(described["seconds"], tuple(chunks))

    def _payload(self, index: int, round_number: int) -> bytes:
        """Return the bytes of one chunk as they are in round `round_number` (from 0)."""
        original = self.chunks[index].payload
        if round_number == 0 or self.is_verbatim:
            return original
        shift = round(round_number * self.seconds * _TIMESTAMP_HZ)
        shifted = bytearray(original)
        for start in range(0, len(shifted), TS_PACKET_BYTES):
            self._shift_packet(shifted, start, shift, round_number)
        return bytes(shifted)

    def _shift_packet(self, ts: bytearray, start: int, shift: int, round_number: int) -> None:
        has_field, has_payload = ts[start + 3] & 0x20, ts[start + 3] & 0x10
        if has_payload:
            counter = (ts[start + 3] & 0x0F) + round_number * self._packets_of_pid[_pid(ts, start)]
            ts[start + 3] = (ts[start + 3] & 0xF0) | (counter & 0x0F)
        payload = start + 4
        if has_field:
            field_bytes = ts[payload]
            if field_bytes and ts[payload + 1] & 0x10:
                _shift_clock_reference(ts, payload + 2, shift)
            payload += 1 + field_bytes
        is_unit_start = ts[start + 1] & 0x40
        if has_payload and is_unit_start and ts[payload : payload + 3] == b"\0\0\1":
            flags = ts[payload + 7]
            if flags & 0x80:
                _shift_timestamp(ts, payload + 9, shift)
            if flags & 0x40:
                _shift_timestamp(ts, payload + 14, shift)


def encode_clip(
    script: str,
    *,
    folder: Path | None = None,
    fps: int = 15,
    gop_seconds: float = 1.0,
    size: str = "320x180",
    bframes: int = 0,
) -> Clip:
    """Encode `script` in a process of its own, or take it from `folder` where it was encoded before."""
    options = ["--script", script, "--fps", str(fps), "--gop", str(gop_seconds), "--size", size]
    options += ["--bframes", str(bframes)]
    with tempfile.TemporaryDirectory() as scratch:
        name = "".join(char if char.isalnum() else "_" for char in "".join(options)) + ".clip"
        path = (folder or Path(scratch)) / name
        if not path.exists():
            made = Path(scratch) / "made"
            command = [sys.executable, "-m", "detector.publisher", "--clip", str(made), *options]
            subprocess.run(command, check=True, cwd=_ROOT)
            path.write_bytes(made.read_bytes())
        return Clip.load(path)


def _pid(ts: bytes | bytearray, start: int) -> int:
    return (ts[start + 1] & 0x1F) << 8 | ts[start + 2]


def _count_packets(chunks: tuple[ClipChunk, ...]) -> dict[int, int]:
    """Return how many packets with payload each PID has: by so much its counter is ahead after a round."""
    counts: dict[int, int] = {}
    for chunk in chunks:
        for start in range(0, len(chunk.payload), TS_PACKET_BYTES):
            pid = _pid(chunk.payload, start)
            counts[pid] = counts.get(pid, 0) + bool(chunk.payload[start + 3] & 0x10)
    return counts


def _shift_clock_reference(ts: bytearray, at: int, shift: int) -> None:
    """Add `shift` to a PCR's base of 33 bits; the six reserved bits and the extension stay."""
    value = int.from_bytes(ts[at : at + 6], "big")
    base = ((value >> 15) + shift) % _TIMESTAMP_WRAP
    ts[at : at + 6] = (base << 15 | value & 0x7FFF).to_bytes(6, "big")


def _shift_timestamp(ts: bytearray, at: int, shift: int) -> None:
    """Add `shift` to a PTS or DTS: 33 bits in three parts with a marker bit behind each."""
    value = int.from_bytes(ts[at : at + 5], "big")
    stamp = ((value >> 33 & 0x7) << 30 | (value >> 17 & 0x7FFF) << 15 | value >> 1 & 0x7FFF) + shift
    stamp %= _TIMESTAMP_WRAP
    parts = (stamp >> 30 & 0x7) << 33 | (stamp >> 15 & 0x7FFF) << 17 | (stamp & 0x7FFF) << 1
    ts[at : at + 5] = (value & 0xF << 36 | 0x1 << 32 | 0x1 << 16 | 0x1 | parts).to_bytes(5, "big")

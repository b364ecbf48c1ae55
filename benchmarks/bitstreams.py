"""H.264 written by hand, so that a picture of any size costs no encoder and no memory (ITU-T H.264, 7.3).

A macroblock that only repeats the row above it takes six bits: 16000x16000 pixels fit in some 750 kB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_IDR, _SLICE, _SPS, _PPS, _DELIMITER = 5, 1, 7, 8, 9
_I_SLICE, _P_SLICE = 7, 5
_FRAME_NUMBER_BITS = 16

# mb_type, intra_chroma_pred_mode 0, mb_qp_delta 0, no coefficient
_FROM_AVERAGE: Final = "00100" + "111"  # Intra 16x16, DC prediction: needs no neighbour
_FROM_ABOVE: Final = "010" + "111"  # Intra 16x16, vertical prediction: needs the row above


@dataclass(frozen=True, slots=True)
class Picture:
    """The size of hand-written pictures, in pixels; rounded up to whole macroblocks and cropped."""

    width: int
    height: int

    @property
    def columns(self) -> int:
        """Macroblocks in a row."""
        return -(-self.width // 16)

    @property
    def rows(self) -> int:
        """Rows of macroblocks."""
        return -(-self.height // 16)

    def headers(self) -> bytes:
        """Return SPS and PPS: baseline, one reference, output order as coded."""
        crop_right, crop_bottom = (self.columns * 16 - self.width) // 2, (self.rows * 16 - self.height) // 2
        cropping = "0" if not crop_right + crop_bottom else f"1{_ue(0)}{_ue(crop_right)}{_ue(0)}{_ue(crop_bottom)}"
        size = _ue(self.columns - 1) + _ue(self.rows - 1)
        sps = f"{66:08b}{0xC0:08b}{62:08b}" + _ue(0) + _ue(_FRAME_NUMBER_BITS - 4) + _ue(2) + _ue(1) + "0" + size
        pps = _ue(0) + _ue(0) + "00" + _ue(0) + _ue(0) + _ue(0) + "0" + "00" + _ue(0) * 3 + "100"
        return _unit(_SPS, sps + "11" + cropping + "0") + _unit(_PPS, pps)

    def keyframe(self) -> bytes:
        """Return a delimiter, the headers and a grey IDR picture in one slice."""
        macroblocks = _FROM_AVERAGE * self.columns + _FROM_ABOVE * (self.columns * (self.rows - 1))
        return delimiter() + self.headers() + _unit(_IDR, _slice(0, _I_SLICE, 0, is_idr=True) + macroblocks)

    def repeat(self, number: int) -> bytes:
        """Return a picture that repeats the one before; `number` counts pictures from the keyframe on."""
        skipped = _ue(self.columns * self.rows)
        return delimiter() + _unit(_SLICE, _slice(0, _P_SLICE, number, is_idr=False) + skipped)

    def sliced(self, number: int) -> bytes:
        """Return a picture of which every macroblock is a slice of its own; picture 0 is an IDR one."""
        is_idr = number == 0
        kind = _IDR if is_idr else _SLICE
        slices = (
            _unit(kind, _slice(first, _I_SLICE, number, is_idr=is_idr) + _FROM_AVERAGE)
            for first in range(self.columns * self.rows)
        )
        return delimiter() + (self.headers() if is_idr else b"") + b"".join(slices)

    def hollow_keyframe(self) -> bytes:
        """Return what is announced as a keyframe and holds none: its IDR slice goes by headers that never came."""
        return delimiter() + self.headers() + _unit(_IDR, _ue(0) + _ue(_I_SLICE) + _ue(5))


def delimiter() -> bytes:
    """Return an access unit delimiter for any kind of picture."""
    return _unit(_DELIMITER, "111", importance=0)


def adts_frames(count: int, payload: bytes = b"\x21\x10\x05") -> bytes:
    """Return `count` AAC frames of a few bytes each, 48 kHz mono (ISO/IEC 14496-3, 1.A.2.2)."""
    length = 7 + len(payload)
    bits = f"{0xFFF:012b}0001" + "01" + "0011" + "0" + "001" + "0000" + f"{length:013b}" + f"{0x7FF:011b}" + "00"
    return (int(bits, 2).to_bytes(7, "big") + payload) * count


def _slice(first: int, kind: int, number: int, *, is_idr: bool) -> str:
    """Return the header of a slice that is kept for reference and not deblocked."""
    head = _ue(first) + _ue(kind) + _ue(0) + f"{number % (1 << _FRAME_NUMBER_BITS):0{_FRAME_NUMBER_BITS}b}"
    if is_idr:
        head += _ue(0)
    if kind == _P_SLICE:
        head += "00"  # as many references as the PPS says, in their usual order
    return head + ("00" if is_idr else "0") + _ue(0) + _ue(1)


def _unit(kind: int, bits: str, *, importance: int = 3) -> bytes:
    """Return a NAL unit with start code, stop bit and emulation prevention."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    body = np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()
    return b"\0\0\0\1" + bytes([importance << 5 | kind]) + b"".join(_protected(body))


def _protected(body: bytes) -> Iterator[bytes]:
    start = 0
    for index in _after_two_zeros(body):
        if index - start >= 2:
            yield body[start:index] + b"\3"
            start = index
    yield body[start:]


def _after_two_zeros(body: bytes) -> Sequence[int]:
    """Return where a byte of up to 3 follows two zeros: few places, of perhaps a million."""
    array = np.frombuffer(body, np.uint8)
    if len(array) < 3:
        return []
    found = (array[2:] <= 3) & (array[1:-1] == 0) & (array[:-2] == 0)
    return [int(index) + 2 for index in np.flatnonzero(found)]


def _ue(value: int) -> str:
    """Return an unsigned Exp-Golomb code (9.1)."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits

"""MPEG-TS whose pictures libav takes for filling or reads twice, and players show (ISO/IEC 13818-1, 2.4.3)."""

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SYNC: Final = 0x47
_PADDING: Final = 0xBE
_ADAPTATION, _PAYLOAD = 0x20, 0x10

_AT_ONCE: Final = 20_000
"""Packets that are looked at together: some 4 MB."""
_MOST_GAPS: Final = 1_000
"""So often may a file lose its beat; each time costs a millisecond at most."""
_MOST_TWICE: Final = 3
"""By chance a packet looks like the one before where two recordings were joined."""
_COMPARED_BYTES: Final = 8
"""Of a packet's end: what repeats one may differ in its clock, at the beginning."""


def transport_fault(media_fd: int) -> str | None:
    """Return in words what of an MPEG-TS would not be looked at as players show it; None if nothing is known.

    PES packets of padding are what libav skips, and players that do not look at stream ids play. A packet that comes
    twice is to be read once; libav reads both, which garbles what is in them.
    """
    end = os.fstat(media_fd).st_size
    head = os.pread(media_fd, 193, 0)
    at, stride = (0, 188) if head[:1] == b"\x47" and head[188:189] == b"\x47" else (4, 192)
    twice = gaps = 0
    while at + 188 <= end:
        window = os.pread(media_fd, _AT_ONCE * stride, at)
        packets = _in_step(window, stride)
        is_elementary, heads = _pes_heads(packets)
        if (heads == _PADDING).any():
            return "it has pictures in packets of padding, which are not decoded"
        twice += _repeated(packets[is_elementary[_pids(packets)]])
        if twice > _MOST_TWICE:
            return "its packets come twice, which is not decoded as it should be"
        at += len(packets) * stride
        if len(packets) == _AT_ONCE or at + 188 > end:
            continue
        gaps += 1
        if gaps > _MOST_GAPS:
            return "it is broken too often to be looked at"
        found = window.find(_SYNC, len(packets) * stride + 1)
        at += (found if found > 0 else len(window)) - len(packets) * stride
    return None


def _in_step(window: bytes, stride: int) -> NDArray[np.uint8]:
    """The packets from the beginning of `window` on, (n, 188), up to the first that does not begin as one should."""
    padded = window + bytes(-(len(window) + stride - 188) % stride) if stride > 188 else window
    whole = len(padded) // stride
    packets = np.frombuffer(padded, np.uint8, whole * stride).reshape(whole, stride)[:, :188]
    off = np.flatnonzero(packets[:, 0] != _SYNC)
    return packets[: off[0]] if len(off) else packets


def _pes_heads(packets: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """By PID whether PES packets begin in it, and their stream ids (2.4.3.7, table 2-22).

    Tables are none: where recordings are joined, those may well repeat each other.
    """
    begins = packets[(packets[:, 1] & 0x40 != 0) & (packets[:, 3] & _PAYLOAD != 0)]
    starts = np.where(begins[:, 3] & _ADAPTATION, 5 + begins[:, 4].astype(int), 4)
    begins, starts = begins[starts <= 184], starts[starts <= 184]
    heads = np.take_along_axis(begins, starts[:, None] + np.arange(4), axis=1)
    is_pes = (heads[:, :3] == (0, 0, 1)).all(axis=1)
    is_elementary = np.zeros(1 << 13, np.bool_)
    is_elementary[_pids(begins[is_pes])] = True
    return is_elementary, heads[is_pes, 3]


def _pids(packets: NDArray[np.uint8]) -> NDArray[np.int64]:
    return (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]


def _repeated(packets: NDArray[np.uint8]) -> int:
    """How many of them repeat the one before of their PID: the same counter, and the same at the end."""
    pids = _pids(packets)
    counted = np.flatnonzero(packets[:, 3] & _PAYLOAD)
    ordered = counted[np.argsort(pids[counted], kind="stable")]
    before, after = packets[ordered[:-1]], packets[ordered[1:]]
    is_same = (pids[ordered[:-1]] == pids[ordered[1:]]) & ((before[:, 3] ^ after[:, 3]) & 0x0F == 0)
    return int((is_same & (before[:, -_COMPARED_BYTES:] == after[:, -_COMPARED_BYTES:]).all(axis=1)).sum())

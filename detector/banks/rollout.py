"""Staged roll-out: where a stream stands when a bank may act on a part of the streams only. Pure."""

import hashlib
from typing import Final

_BITS: Final = 53
"""What a float holds exactly."""


def place_of(bank: str, stream_id: str) -> float:
    """Where a stream stands in the roll-out of a bank: 0 or more, less than 1, evenly spread and always the same.

    Seeded by the bank's name, so that one bank's first tenth is not the next one's too. A stream that a ratio takes in
    stays in at every larger one.
    """
    digest = hashlib.blake2b(stream_id.encode(), digest_size=8, key=bank.encode()[:64]).digest()
    return float((int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS))

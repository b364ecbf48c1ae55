"""The packets since the last keyframe, kept so that a stretch nobody looked at can still be decoded."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

PACKET_OVERHEAD_BYTES = 512
"""What a kept packet costs beside its bytes; counted, so that a flood of empty packets cannot fill the memory."""


class Sized(Protocol):
    """Anything that knows its payload's size in bytes."""

    @property
    def size(self) -> int:
        """Payload bytes."""


PacketT = TypeVar("PacketT", bound=Sized)


class RingBudget:
    """What the rings of one source may hold together: tracks that a publisher adds get him no more memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held now by all of them."""
        return self._held_bytes

    def take(self, wanted_bytes: int) -> bool:
        """Grant `wanted_bytes` more; False if they do not fit."""
        if self._held_bytes + wanted_bytes > self._limit_bytes:
            return False
        self._held_bytes += wanted_bytes
        return True

    def give_back(self, held_bytes: int) -> None:
        """Take back what was granted."""
        self._held_bytes -= held_bytes


class GopRing(Generic[PacketT]):
    """Packets with their arrival times, oldest first, in at most `limit`: bytes, or a budget shared with other rings.

    It never drops a packet by itself: one that does not fit is refused and counted in `overflows`, and the caller
    decodes what is here before it is cleared. So a publisher who never sends a keyframe costs CPU time, not blindness.
    """

    def __init__(self, limit: int | RingBudget) -> None:
        self._budget = limit if isinstance(limit, RingBudget) else RingBudget(limit)
        self._entries: list[tuple[PacketT, float]] = []
        self._held_bytes = 0
        self._overflows = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[PacketT, float]]:
        return iter(self._entries)

    @property
    def held_bytes(self) -> int:
        """Bytes held now, with `PACKET_OVERHEAD_BYTES` for each packet."""
        return self._held_bytes

    @property
    def overflows(self) -> int:
        """How often a packet was refused."""
        return self._overflows

    def add(self, packet: PacketT, arrived_at: float) -> bool:
        """Keep `packet`; False if it does not fit (then nothing changed but the count)."""
        cost_bytes = packet.size + PACKET_OVERHEAD_BYTES
        if not self._budget.take(cost_bytes):
            self._overflows += 1
            return False
        self._entries.append((packet, arrived_at))
        self._held_bytes += cost_bytes
        return True

    def drop_before(self, packet: PacketT) -> None:
        """Forget what came before `packet`; everything, if it is not here."""
        places = (place for place, (kept, _) in enumerate(self._entries) if kept is packet)
        dropped = self._entries[: next(places, len(self._entries))]
        del self._entries[: len(dropped)]
        given_back = sum(kept.size + PACKET_OVERHEAD_BYTES for kept, _ in dropped)
        self._budget.give_back(given_back)
        self._held_bytes -= given_back

    def clear(self) -> None:
        """Forget every packet."""
        self._entries.clear()
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

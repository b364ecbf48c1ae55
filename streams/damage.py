"""A source whose packets get lost or damaged on purpose, so that a rehearsal meets the real decoder."""

import time
from collections.abc import Callable, Iterable, Iterator
from random import Random

from streams.job import Damage
from streams.source import AnyPacket, Source

_KEPT_BYTES = 8
"""So much of a damaged packet stays: its first start code or length, as where a stream is torn in its middle."""


class DamagedSource(Source):
    """An open source, less what `damage` takes from it. Closes the one that it is made of."""

    def __init__(self, source: Source, damage: Iterable[Damage]) -> None:
        super().__init__(source._media, source.tracks, source.facts)  # noqa: SLF001 - the same class's
        self._damage = [(each, Random(each.seed)) for each in damage]  # noqa: S311 - to be repeated, not to be secret

    def packets(
        self, begin_wait: Callable[[], object] = int, end_wait: Callable[[], object] = int
    ) -> Iterator[AnyPacket]:
        """As `Source.packets`."""
        for packet in super().packets(begin_wait, end_wait):
            now = time.monotonic()
            if not any(self._takes(packet, each, draws, now) for each, draws in self._damage):
                yield packet

    def _takes(self, packet: AnyPacket, damage: Damage, draws: Random, now: float) -> bool:
        """Whether the packet is lost; one that is not may hold noise now."""
        if not damage.begins_at <= now < damage.ends_at or draws.random() >= damage.ratio:
            return False
        if not damage.loses:
            kept = bytes(packet)[:_KEPT_BYTES]
            packet.update(kept + draws.randbytes(packet.size - len(kept)))
        return damage.loses

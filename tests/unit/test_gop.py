"""The ring of packets since the last keyframe."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from streams.gop import PACKET_OVERHEAD_BYTES, GopRing, RingBudget


@dataclass(frozen=True)
class Parcel:
    size: int


@given(sizes=st.lists(st.integers(0, 4000)), limit_bytes=st.integers(0, 20_000))
def test_ring_when_filled_holds_at_most_its_limit_and_says_what_it_refused(sizes: list[int], limit_bytes: int) -> None:
    """The ring never holds more than its limit, and every packet is either in it or counted."""
    ring: GopRing[Parcel] = GopRing(limit_bytes)

    kept = [ring.add(Parcel(size), float(number)) for number, size in enumerate(sizes)]

    assert ring.held_bytes == sum(packet.size + PACKET_OVERHEAD_BYTES for packet, _ in ring) <= limit_bytes
    assert ring.overflows == kept.count(False)
    assert [at for _, at in ring] == [float(number) for number, was_kept in enumerate(kept) if was_kept]


def test_ring_when_cleared_is_empty_and_takes_packets_again() -> None:
    """Clearing frees the whole limit and keeps the count of overflows."""
    ring: GopRing[Parcel] = GopRing(PACKET_OVERHEAD_BYTES + 10)
    assert ring.add(Parcel(10), 0.0)
    assert not ring.add(Parcel(0), 1.0)

    ring.clear()

    assert (len(ring), ring.held_bytes, ring.overflows) == (0, 0, 1)
    assert ring.add(Parcel(10), 2.0)


def test_rings_that_share_a_budget_hold_no_more_together() -> None:
    """What one ring of a source holds is not there for the others, until it is cleared."""
    budget = RingBudget(3 * PACKET_OVERHEAD_BYTES)
    first: GopRing[Parcel] = GopRing(budget)
    second: GopRing[Parcel] = GopRing(budget)

    assert first.add(Parcel(0), 0.0)
    assert first.add(Parcel(0), 0.0)
    assert second.add(Parcel(0), 0.0)
    assert not second.add(Parcel(0), 1.0)
    assert budget.held_bytes == 3 * PACKET_OVERHEAD_BYTES

    first.clear()
    assert second.add(Parcel(0), 2.0)
    assert budget.held_bytes == 2 * PACKET_OVERHEAD_BYTES

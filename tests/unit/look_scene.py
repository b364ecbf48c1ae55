"""A stream of fake packets, looked at as in the reader: what the tests of sampling share."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from streams.frame import SampleReason
from streams.gop import GopRing, RingBudget
from streams.live_look import LiveLook
from streams.peek import PEEK_PACKETS
from streams.sampling import Sampler, SamplingMode, SamplingSettings
from streams.whole_gop import Output


@dataclass(frozen=True)
class FakePacket:
    """`is_keyframe` is the container's claim, `is_intra` whether it can be decoded on its own."""

    number: int
    is_keyframe: bool
    is_intra: bool
    size: int = 100

    @property
    def pts(self) -> int:
        return self.number


class FakeDecoder:
    """Gives the number of a packet as its frame, if everything it refers to went in before."""

    def __init__(self) -> None:
        self.alone: list[int] = []
        self.through: list[int] = []
        self.is_through = False
        self._next: int | None = None

    def note(self, packet: FakePacket) -> None:
        pass

    def decode_alone(self, packet: FakePacket) -> int | None:
        self.alone.append(packet.number)
        return packet.number if packet.is_intra else None

    def decode_through(self, packet: FakePacket) -> list[int]:
        self.is_through = True
        self.through.append(packet.number)
        if not packet.is_intra and packet.number != self._next:
            return []
        self._next = packet.number + 1
        return [packet.number]

    def finish_through(self) -> list[int]:
        self.is_through, self._next = False, None
        return []

    def is_shown_from(self, packet: FakePacket, frame: int) -> bool:
        return frame >= packet.number

    def plane(self, frame: int) -> np.ndarray:
        return np.full((64, 64), frame % 250, np.uint8)


class StillDecoder(FakeDecoder):
    """Shows one card in every frame: where it counts what is decoded, and not what of it differs."""

    _CARD = np.zeros((64, 64), np.uint8)

    def plane(self, frame: int) -> np.ndarray:
        return self._CARD


Sample = tuple[int, float, float, SampleReason]


@dataclass
class Watched:
    """A stream that was looked at: `samples` holds (frame number, its arrival, when it was analysed, reason).

    `bursts` holds the same for what was handed over together. Neighbouring frames hardly differ, those five apart do.
    """

    sampling: SamplingSettings
    seed: int = 1
    ring_limit: int | RingBudget = 1 << 24
    now: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    bursts: list[list[Sample]] = field(default_factory=list)
    decoder: FakeDecoder = field(default_factory=FakeDecoder)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.sampling, random.Random(self.seed).random)
        self.ring: GopRing[FakePacket] = GopRing(self.ring_limit)
        output: Output[int, Sample] = Output(self._emit, self._keep, self._hand_over)
        self.look: LiveLook[FakePacket, int, Sample] = LiveLook(self.sampler, self.ring, self.decoder, output)

    def _emit(self, frame: int, arrived_at: float, reason: SampleReason) -> None:
        self.samples.append((frame, arrived_at, self.now, reason))

    def _keep(self, frame: int, arrived_at: float, reason: SampleReason) -> Sample:
        return frame, arrived_at, self.now, reason

    def _hand_over(self, samples: list[Sample]) -> None:
        self.bursts.append([(frame, arrived_at, self.now, reason) for frame, arrived_at, _, reason in samples])

    def take(self, at: float, kind: str, size: int = 0) -> None:
        """Let a packet arrive: `K` a keyframe, `R` flagged as one without being one, `S` a spike, `P` any other."""
        packet = FakePacket(len(self.arrivals), kind in "KR", kind == "K", size or (1000 if kind in "KS" else 100))
        self.arrivals.append(at)
        self.now = at
        self.look.take(packet, at)

    def hear(self, at: float) -> None:
        """Let a packet of sound arrive."""
        self.now = at
        self.look.overhear(at)

    def pause(self, at: float) -> None:
        """Let it be noticed that nothing comes."""
        self.now = at
        self.look.pause()

    def play(self, kinds: Iterable[str], rate: float = 30.0, start: float = 0.0) -> "Watched":
        """Let packets arrive evenly."""
        for number, kind in enumerate(kinds):
            self.take(start + number / rate, kind)
        return self

    @property
    def sampled_at(self) -> list[float]:
        return [at for _, at, _, _ in self.samples]


def gops(length: int, count: int, first: str = "K") -> str:
    """`count` GOPs of `length` packets."""
    return (first + "P" * (length - 1)) * count


schedules = st.lists(
    st.tuples(
        st.one_of(st.floats(0.001, 0.1), st.floats(0.001, 0.1), st.floats(0.1, 6.0)),
        st.sampled_from("PPPPPPPPPPPPPPKRS"),
    ),
    max_size=250,
)


promises = st.builds(
    SamplingSettings,
    st.floats(0.3, 5.0),
    st.floats(0.1, 5.0),
    st.sampled_from([SamplingMode.AUTO, SamplingMode.FULL]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)


def spiked(at: set[int], length: int = 60, count: int = 20) -> str:
    """`count` GOPs; those of them whose numbers are in `at` have a spike as their tenth packet."""
    return "".join("K" + "P" * 9 + ("S" if number in at else "P") + "P" * (length - 11) for number in range(count))


def beyond_peeks(watched: Watched, length: int = 60) -> list[int]:
    """What was decoded through of GOPs so long, but for their first packets, which are looked at now and then."""
    return [number for number in watched.decoder.through if number % length > PEEK_PACKETS]

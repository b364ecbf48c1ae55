"""What a sampling setting buys, by chance and by promise, worked out before it runs: pure.

Everything here follows from how `streams.sampling` and `streams.bursts` draw; nothing is fitted. A publisher is taken
to know the settings and this code. What he cannot know is what was drawn, and where in a block of GOPs, in an interval
or in a GOP the moment lies at which something appears: all of these are taken as uniform.

Times are seconds from that moment until a frame that shows it is handed over for analysis. A GOP chosen by chance is
handed over when it ends, one whose packet sizes showed a change at once. What a decoder holds back is not in it:
`reorder_seconds` says how much that is.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum, unique

from streams.sampling import LEAVES_ABOVE, SHORTEST_INTERVAL_SECONDS, SamplingMode, SamplingSettings

_PHASES = 400
"""Into so many parts a GOP is cut where there is no formula: errors below 0.3 points."""

_MOST_HELD_BACK = 2
"""Frames that H.264 and HEVC encoders make a decoder hold back, as they refer to B-frames at most once."""


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What an encoder sends: seconds from keyframe to keyframe, B-frames in a row, frames per second."""

    gop_seconds: float = 2.0
    b_frames: int = 2
    fps: float = 30.0


@unique
class Look(StrEnum):
    """How GOPs of some length are looked at. The value stands in tables."""

    KEYFRAMES = "keyframes"
    LOOKED_BACK = "keyframes, looked back"
    THROUGH = "through"


def look_at(settings: SamplingSettings, gop_seconds: float) -> Look:
    """How a stream with such GOPs is looked at once it is known."""
    if settings.mode is SamplingMode.FULL:
        return Look.THROUGH
    if settings.mode is SamplingMode.KEYFRAMES or gop_seconds <= settings.detect_within_seconds:
        return Look.KEYFRAMES
    return Look.THROUGH if gop_seconds > LEAVES_ABOVE * settings.detect_within_seconds else Look.LOOKED_BACK


def interval_in_force(settings: SamplingSettings) -> float:
    """The interval of decoding through, in seconds: never longer than what is promised."""
    return max(SHORTEST_INTERVAL_SECONDS, min(settings.interval_seconds, settings.detect_within_seconds))


def keyframe_seconds(settings: SamplingSettings, gop_seconds: float) -> float:
    """Mean time between two keyframes that are decoded: those that come too densely are thinned at random."""
    interval = interval_in_force(settings)
    if gop_seconds >= interval / 2:
        return gop_seconds
    # The next one is due at a uniform time in [interval / 2, interval), and the first keyframe from then on is taken.
    first, last = math.ceil(interval / 2 / gop_seconds), math.ceil(interval / gop_seconds)
    inner = sum(2 * gop_seconds / interval * count for count in range(first + 1, last))
    head = (first * gop_seconds - interval / 2) * 2 / interval
    return gop_seconds * (head * first + inner + (interval - (last - 1) * gop_seconds) * 2 / interval * last)


def burst_miss(share: float, gops: int) -> float:
    """Chance that none of `gops` GOPs in a row, from a random one on, is chosen when `share` of them are.

    One GOP is chosen in each block, at a uniform place. Blocks are as long as 1 / share says, or of the two whole
    lengths next to it, the longer ones spread evenly among the shorter: no two in a row while they are the fewer.
    """
    if share <= 0.0 or gops <= 0:
        return 1.0
    mean = max(1.0, 1.0 / share)
    short = math.floor(mean)
    long_share = mean - short
    fewer = min(long_share, 1.0 - long_share)
    both = {
        (short, short): max(0.0, 1.0 - 2 * long_share),
        (short, short + 1): fewer,
        (short + 1, short): fewer,
        (short + 1, short + 1): max(0.0, 2 * long_share - 1.0),
    }
    within = sum(
        rate * (length - gops + 1) * (1.0 - gops / length)
        for length, rate in ((short, 1.0 - long_share), (short + 1, long_share))
        if length > gops
    )
    across = sum(
        rate * (1.0 - head / first) * (1.0 - (gops - head) / second)
        for (first, second), rate in both.items()
        for head in range(max(1, gops - second + 1), min(gops, first))
    )
    return (within + across) / mean


def spike_miss(settings: SamplingSettings, gop_seconds: float, gops: int, shows: float) -> float:
    """Chance that none of `gops` GOPs in a row is decoded because of its sizes, where every GOP has a cut, always.

    A cut shows in the sizes of `shows` (0 to 1) of the GOPs. After a GOP that was decoded none is for a time between 0
    and twice `detect_within_seconds`, drawn anew each time: cuts that exhaust the budget get GOPs decoded themselves.
    """
    if not settings.spikes or settings.mode is not SamplingMode.AUTO or shows <= 0.0:
        return 1.0
    pause = 2.0 * settings.detect_within_seconds / gop_seconds
    most = max(1, math.ceil(pause))
    # rests[k]: chance that the pause covers the next k GOPs, so that one k + 1 further on is the first that may be.
    rests = [min(1.0, (count + 1) / pause) - min(1.0, count / pause) for count in range(most)]
    mean = sum(rest * (count + 1) for count, rest in enumerate(rests)) + (1.0 - shows) / shows
    missed = 0.0
    for count, rest in enumerate(rests):
        # The gap is count + 1 + g GOPs, g geometric: the mean of what it exceeds `gops` by.
        over = count + 1 - gops
        missed += rest * (over + (1.0 - shows) / shows if over >= 0 else (1.0 - shows) ** (-over + 1) / shows)
    return missed / mean


def peek_seconds(settings: SamplingSettings, gop_seconds: float) -> float:
    """Mean time between two looks at the first frames after a keyframe; inf where there are none."""
    if not _peeks(settings, look_at(settings, gop_seconds)):
        return math.inf
    every = keyframe_seconds(settings, gop_seconds)
    return every * sum(count * chance for count, chance in _peek_gaps(settings, every))


def peek_miss(settings: SamplingSettings, gop_seconds: float, gops: int) -> float:
    """Chance that behind none of `gops` keyframes in a row, from a random moment on, the first frames are looked at."""
    gaps = list(_peek_gaps(settings, gop_seconds))
    mean = sum(count * chance for count, chance in gaps)
    return sum(max(0, count - gops) * chance for count, chance in gaps) / mean


def interval_miss(interval_seconds: float, seconds: float) -> float:
    """Chance that no instant lies in `seconds` from a random moment on, one being drawn in each interval."""
    length = seconds / interval_seconds
    if length >= 2.0:
        return 0.0
    if length >= 1.0:
        return (2.0 - length) ** 3 / 6
    within = (1.0 - length) ** 2
    # Across two intervals: the integral of (1 - x)(1 - (length - x)) over x, the part that lies in the first.
    return within + length - length**2 + length**3 / 6


def chance_between_keyframes(
    settings: SamplingSettings,
    gop_seconds: float,
    within_seconds: float,
    *,
    sizes_show: float,
    decoys: float = 0.0,
    in_first_frames: bool = False,
) -> float:
    """Chance that what is between keyframes, from a random moment on, is handed over `within_seconds`.

    It is in all frames but keyframes with `in_first_frames`, else in all but those and the first few behind each of
    them, which are looked at now and then whatever their sizes; the handful of frames that takes is not in it.

    `sizes_show` is the share of GOPs whose packet sizes show it: 0 where the encoder flattens them, near 1 with usual
    rate control. `decoys` is the share of GOPs, before and after, that begin with a hard cut to something else: these
    use up the budget of spikes, but a GOP that is decoded because of one is decoded to its end.
    """
    if settings.mode is SamplingMode.KEYFRAMES:
        return 0.0
    look = look_at(settings, gop_seconds)
    if look is Look.LOOKED_BACK:
        return 1.0 - _over_phases(
            gop_seconds,
            lambda phase: (
                0.0
                if in_first_frames and _peeks(settings, look) and phase + within_seconds >= gop_seconds
                else _miss_looked_back(settings, gop_seconds, within_seconds, sizes_show, phase)
            ),
        )
    if decoys > 0.0 and _shown(settings, decoys, look) > 0.0:
        any_show = 1.0 - (1.0 - sizes_show) * (1.0 - decoys)
        return 1.0 - _over_phases(
            gop_seconds, lambda phase: _miss_among_decoys(settings, gop_seconds, within_seconds, any_show, phase)
        )
    unseen = 1.0 - _shown(settings, sizes_show, look)
    every = keyframe_seconds(settings, gop_seconds)
    is_peeked = in_first_frames and _peeks(settings, look)
    miss = sum(
        chance
        * burst_miss(settings.burst_share, gops)
        * unseen ** (gops + 1)
        * (peek_miss(settings, every, gops) if is_peeked else 1.0)
        for gops, chance in _gop_ends(every, within_seconds)
    )
    if look is Look.THROUGH:
        miss *= interval_miss(interval_in_force(settings), within_seconds)
    return 1.0 - miss


def chance_of_flash(
    settings: SamplingSettings, shape: StreamShape, flash_seconds: float, *, sizes_show: float, flashes: int = 1
) -> float:
    """Chance that at least one of `flashes` is seen, each shown once for so long at a random moment of its own GOP.

    Shorter than a frame is a frame. Several are in consecutive GOPs. Here a keyframe may show it, too.
    """
    frames = max(1, round(flash_seconds * shape.fps))
    look = look_at(settings, shape.gop_seconds)
    shown_seconds = frames / shape.fps
    miss = 1.0 - min(1.0, shown_seconds / keyframe_seconds(settings, shape.gop_seconds))
    if look is Look.THROUGH:
        miss *= interval_miss(interval_in_force(settings), shown_seconds)
    elif look is Look.LOOKED_BACK:
        miss = 1.0 - min(1.0, 2 * shown_seconds / shape.gop_seconds)
    share = 0.0 if settings.mode is SamplingMode.KEYFRAMES else settings.burst_share
    return 1.0 - (miss * (1.0 - _shown(settings, sizes_show, look))) ** flashes * burst_miss(share, flashes)


def reorder_seconds(shape: StreamShape) -> float:
    """How long a decoder that decodes through holds a frame back, as B-frames are shown before what they refer to."""
    return min(shape.b_frames, _MOST_HELD_BACK) / shape.fps


def seen_within_seconds(settings: SamplingSettings, shape: StreamShape) -> float:
    """The longest that what stays on screen can be there before a frame that shows it is handed over for analysis.

    In mode `keyframes` nothing but a keyframe counts, however long the GOP. Arrival is taken to be steady.
    """
    frame_seconds = 1.0 / shape.fps
    interval = interval_in_force(settings)
    match look_at(settings, shape.gop_seconds):
        case Look.THROUGH:
            longest = min(2 * interval, settings.detect_within_seconds) + frame_seconds + reorder_seconds(shape)
        case Look.LOOKED_BACK:
            longest = settings.detect_within_seconds + frame_seconds + reorder_seconds(shape)
        case Look.KEYFRAMES if shape.gop_seconds < interval / 2:
            longest = math.ceil(interval / shape.gop_seconds - 1e-9) * shape.gop_seconds
        case Look.KEYFRAMES:
            longest = shape.gop_seconds
    return max(longest, settings.slowed_to_seconds)


def _gop_ends(gop_seconds: float, within_seconds: float) -> Iterator[tuple[int, float]]:
    """How many GOPs end within that time of a random moment, with the chance of each number."""
    gops = within_seconds / gop_seconds
    whole = math.floor(gops)
    yield whole, 1.0 - (gops - whole)
    yield whole + 1, gops - whole


def _peek_gaps(settings: SamplingSettings, gop_seconds: float) -> Iterator[tuple[int, float]]:
    """After how many keyframes the next one is that has its first frames looked at, with the chance of each number.

    It is the first from a uniform time in the second half of `detect_within_seconds` on.
    """
    half = settings.detect_within_seconds / 2
    for count in range(max(1, math.ceil(half / gop_seconds)), max(1, math.ceil(2 * half / gop_seconds)) + 1):
        least = -math.inf if count == 1 else (count - 1) * gop_seconds
        drawn = min(count * gop_seconds, 2 * half) - max(least, half)
        yield count, max(0.0, drawn) / half


def _peeks(settings: SamplingSettings, look: Look) -> bool:
    return settings.spikes and settings.mode is SamplingMode.AUTO and look is not Look.THROUGH


def _shown(settings: SamplingSettings, sizes_show: float, look: Look) -> float:
    return sizes_show if _peeks(settings, look) else 0.0


def _miss_looked_back(
    settings: SamplingSettings, gop_seconds: float, within_seconds: float, sizes_show: float, since_keyframe: float
) -> float:
    """Chance to miss what appears so long after a keyframe, where GOPs are a little longer than `detect_within`."""
    promised = settings.detect_within_seconds
    miss = 1.0 - _shown(settings, sizes_show, Look.LOOKED_BACK)
    if since_keyframe < promised:
        return 0.0 if since_keyframe + within_seconds >= promised else miss
    left = gop_seconds - since_keyframe
    if within_seconds >= left + promised:
        return 0.0
    interval = interval_in_force(settings)
    miss *= _stretch_miss(
        interval, since_keyframe - promised, min(since_keyframe + within_seconds, gop_seconds) - promised
    )
    if within_seconds >= left:
        miss *= (1.0 - settings.burst_share) * (1.0 - _shown(settings, sizes_show, Look.LOOKED_BACK))
    return miss


def _miss_among_decoys(
    settings: SamplingSettings, gop_seconds: float, within_seconds: float, shows: float, since_keyframe: float
) -> float:
    """Chance to miss what appears so long after a keyframe, where a hard cut begins that share of all GOPs.

    A GOP that is decoded because of its cut is decoded through: a frame of each interval is seen before it ends.
    """
    interval = interval_in_force(settings)
    end = since_keyframe + within_seconds
    gops = math.floor(end / gop_seconds)
    in_last = _stretch_miss(interval, 0.0 if gops else since_keyframe, end - gops * gop_seconds)
    none, none_and_last = (spike_miss(settings, gop_seconds, count, shows) for count in (gops, gops + 1))
    return burst_miss(settings.burst_share, gops) * (none_and_last + (none - none_and_last) * in_last)


def _over_phases(gop_seconds: float, miss: Callable[[float], float]) -> float:
    """The mean of what is missed over the moments of a GOP, given in seconds since its keyframe."""
    return sum(miss(gop_seconds * (part + 0.5) / _PHASES) for part in range(_PHASES)) / _PHASES


def _stretch_miss(interval: float, begin: float, end: float) -> float:
    """Chance that no instant lies between two times that count from the begin of the first interval."""
    miss = 1.0
    for number in range(math.floor(begin / interval), math.floor(end / interval) + 1):
        inside = min(end, (number + 1) * interval) - max(begin, number * interval)
        miss *= 1.0 - max(0.0, inside) / interval
    return miss

"""What a heartbeat cannot say, whatever the reader did: pure. The service counts and shares by these figures."""

from operator import attrgetter

from streams.messages import Heartbeat

MOST_CORES = 2.0
"""A reader has one thread that works, and two that hardly do."""

_SLACK_SECONDS = 2.0
_MOST_EVENTS_PER_SECOND = 1_000_000

_EVENTS = (
    "packets",
    "keyframes",
    "keyframes_without_picture",
    "decode_errors",
    "replaced_samples",
    "ring_overflows",
    "bursts",
    "spikes",
    "keyframes_decoded",
    "time_jumps",
)
_PARTS = ("keyframe_cpu_seconds", "through_cpu_seconds", "whole_cpu_seconds")
_NEVER_LESS = ("sent_at", "received_bytes", "cpu_seconds", "throttled_seconds", *_PARTS, *_EVENTS)

_never_less, _events, _parts = attrgetter(*_NEVER_LESS), attrgetter(*_EVENTS), attrgetter(*_PARTS)


def heartbeat_fault(before: Heartbeat | None, beat: Heartbeat, lived_seconds: float) -> str:
    """Say in words what `beat` cannot say after `before`; empty if nothing.

    Counters go up, and no faster than can be; a reader that has lived for `lived_seconds` (on its own clock, which may
    run faster) has used no more CPU time than its threads could, and no part of it is more than the whole.
    """
    most_seconds = lived_seconds + _SLACK_SECONDS
    if before is not None and any(now < was for was, now in zip(_never_less(before), _never_less(beat), strict=True)):
        return "a count that goes back"
    if max(_events(beat)) > _MOST_EVENTS_PER_SECOND * most_seconds:
        return "more than can have happened"
    if not 0.0 <= beat.gop_seconds <= most_seconds or not 0.0 <= beat.throttled_seconds <= most_seconds:
        return "a length of time that cannot be"
    parts = _parts(beat)
    if not 0.0 <= beat.cpu_seconds <= MOST_CORES * most_seconds or min(parts) < 0.0:
        return "CPU time that cannot be"
    return "CPU time in parts that are more than the whole" if sum(parts) > beat.cpu_seconds + _SLACK_SECONDS else ""

"""What leaves a reader: samples wait without holding anybody up, and whoever listens no more is noticed."""

import contextlib
import select
import socket
import time

import pytest

from streams.frame import Frame, SampleReason
from streams.sender import Counters, Sender, ServiceGone, read_message
from streams.wire import Burst, EndCode, Ended, Heartbeat, Message


def sample(sequence: int, reason: SampleReason) -> Frame:
    return Frame(sequence, 1.0, 1.0, None, reason, False, 64, 64, bytes(4096), bytes(196608))


def test_sender_replaces_waiting_samples_of_a_live_stream() -> None:
    """While the service does not read, the newest sample of each reason waits and the others are counted."""
    ours, theirs = socket.socketpair()
    counters = Counters()
    with ours, theirs:
        with Sender(theirs.fileno(), counters, lambda _: None, drops=True) as sender:
            for sequence in range(1, 21):
                sender.put(sample(sequence, SampleReason.KEYFRAME))
                time.sleep(0.005)
            sender.put(sample(21, SampleReason.CLOSER_LOOK))
            heard: list[Message] = []
            while not heard or getattr(heard[-1], "sequence", 0) < 21:
                heard.append(read_message(ours.fileno()))
        frames = [message.sequence for message in heard if isinstance(message, Frame)]

    assert frames[-2:] == [20, 21]
    assert len(frames) + counters.replaced_samples == 21
    assert counters.replaced_samples >= 10


def await_full(end: socket.socket) -> None:
    """Return when nothing more fits into the socket."""
    deadline = time.monotonic() + 30.0
    while select.select([], [end], [], 0.0)[1]:
        assert time.monotonic() < deadline, "nothing was sent"
        time.sleep(0.005)


def test_sender_displaces_no_burst() -> None:
    """While the service does not read, two bursts wait whole; a further one is left out and its frames are counted."""
    ours, theirs = socket.socketpair()
    counters = Counters()
    with ours, theirs:
        with Sender(theirs.fileno(), counters, lambda _: None, drops=True) as sender:
            sender.put(sample(1, SampleReason.KEYFRAME))
            await_full(theirs)  # it is under way
            for first in (10, 20, 30):
                sender.put(Burst(tuple(sample(first + place, SampleReason.BURST) for place in range(3))))
            for sequence in range(40, 50):
                sender.put(sample(sequence, SampleReason.KEYFRAME))
            heard: list[Message] = []
            while not heard or getattr(heard[-1], "sequence", 0) < 49:
                heard.append(read_message(ours.fileno()))
        bursts = [message for message in heard if isinstance(message, Burst)]

    assert [burst.frames[0].sequence for burst in bursts] == [10, 20]
    assert counters.replaced_samples == 3 + 9


def test_sender_tells_when_nobody_listens() -> None:
    """A waiting `put` ends when the other side closes."""
    ours, theirs = socket.socketpair()
    with theirs, Sender(theirs.fileno(), Counters(), lambda _: None, drops=False) as sender:
        ours.close()
        started_at = time.monotonic()
        with contextlib.suppress(ServiceGone):  # the first may still find a place to wait
            sender.put(sample(1, SampleReason.INTERVAL))
        with pytest.raises(ServiceGone):
            sender.put(sample(2, SampleReason.INTERVAL))
        assert time.monotonic() - started_at < 10.0


def test_sender_ends_an_overlong_wait() -> None:
    """Waiting beyond what it may take ends in a last word, whatever the thread that waits does."""
    ours, theirs = socket.socketpair()
    overdue_at = time.monotonic() - 7.0
    with ours, theirs, Sender(theirs.fileno(), Counters(overdue_at=overdue_at), lambda _: None, drops=True):
        beat, ended = read_message(ours.fileno()), read_message(ours.fileno())

    assert isinstance(beat, Heartbeat)
    assert isinstance(ended, Ended)
    assert ended.code is EndCode.TIMEOUT

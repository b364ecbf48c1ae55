"""What a stream held goes with the stream: no frame waits for a full collection, of which there is one in minutes."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.analysis.messages import WorkerSetup
from detector.analysis.pool import AnalysisPool, FrameDropped, PoolSettings
from streams.conversation import Conversation
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason
from streams.wire import pack


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def frame_of(picture: bytes) -> Frame:
    return Frame(1, 0.0, 0.0, None, SampleReason.KEYFRAME, False, 256, 256, bytes(PLANE_BYTES), picture)


async def test_dropped_frame_is_held_by_nothing(tmp_path: Path) -> None:
    """The error that tells of a drop and the call that raised it would hold each other, and the frame between them."""
    pool = AnalysisPool(PoolSettings(1, 0, 1.0, WorkerSetup(str(tmp_path), {}, (), (), "off", 0)))
    picture = bytearray(PICTURE_BYTES)
    before = sys.getrefcount(picture)

    async def drop() -> None:
        try:
            await pool.inspect(frame_of(picture), deadline_at=0.0)  # type: ignore[arg-type]
        except FrameDropped:
            return
        raise AssertionError("there is room for no frame")

    await asyncio.gather(*(drop() for _ in range(3)))

    assert pool.dropped["overload"] == 3
    assert sys.getrefcount(picture) == before


class _Listener:
    def heard(self, message: object) -> bool:
        raise AssertionError(message)

    def ended(self, error: Exception | None) -> None:
        raise AssertionError(error)

    def silent(self, seconds: float) -> None:
        raise AssertionError(seconds)


async def test_conversation_that_is_closed_keeps_no_room_for_the_rest_of_a_frame() -> None:
    """A reader is killed in the middle of a frame as often as not."""
    conversation = Conversation(_Listener(), 5.0, 5.0)
    beginning = pack(frame_of(bytes(PICTURE_BYTES)))[:1000]
    conversation.get_buffer(-1)[: len(beginning)] = beginning
    conversation.buffer_updated(len(beginning))
    room = len(conversation.get_buffer(-1))

    conversation.close()

    assert room > PICTURE_BYTES - len(beginning)
    assert len(conversation.get_buffer(-1)) == 0

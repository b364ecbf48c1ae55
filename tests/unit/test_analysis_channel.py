"""The conversation with an analysis process: whole messages however they are cut, and word of its end at once."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.analysis import messages
from detector.analysis.channel import Channel, open_channel
from detector.analysis.messages import AnalysisProtocolError, Kind


@asynccontextmanager
async def conversation() -> AsyncIterator[tuple[Channel, socket.socket]]:
    own_end, other = socket.socketpair()
    own_end.setblocking(False)
    with other, closing(await open_channel(own_end)) as channel:
        yield channel, other


@given(
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=9),
)
@settings(max_examples=30, deadline=None)
def test_messages_arrive_whole_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    """Pieces of any size give the messages that were sent, in order."""

    async def talk() -> list[tuple[Kind, bytes]]:
        async with conversation() as (channel, other):
            rest = b"".join(messages.pack(Kind.RESULT, body) for body in bodies)
            for cut in cuts:
                other.sendall(rest[:cut])
                rest = rest[cut:]
                await asyncio.sleep(0)
            other.sendall(rest)
            return [await channel.receive() for _ in bodies]

    assert asyncio.run(talk()) == [(Kind.RESULT, body) for body in bodies]


async def test_rest_ends_when_woken_and_once() -> None:
    """Who rests goes on when woken; nobody is woken who does not rest."""
    async with conversation() as (channel, _):
        assert not channel.wake()
        resting = asyncio.create_task(channel.rest())
        await asyncio.sleep(0)

        assert channel.wake()
        assert not channel.wake()
        await resting


@pytest.mark.parametrize("last_words", [b"", b"\x12", messages.pack(Kind.RESULT, b"{}")])
async def test_rest_ends_with_the_process_or_when_it_speaks_unasked(last_words: bytes) -> None:
    """A process that dies or talks while nothing was asked of it is known to be lost at once."""
    async with conversation() as (channel, other):
        resting = asyncio.create_task(channel.rest())
        await asyncio.sleep(0)
        if last_words:
            other.sendall(last_words)
        else:
            other.close()

        with pytest.raises(EOFError):
            await asyncio.wait_for(resting, 30)


async def test_an_answer_that_ends_half_way_is_none() -> None:
    """The socket's end in the middle of a message raises `EOFError`, and every later call too."""
    async with conversation() as (channel, other):
        other.sendall(messages.pack(Kind.RESULT, b"0123456789")[:-1])
        other.close()
        for _ in range(2):
            with pytest.raises(EOFError):
                await asyncio.wait_for(channel.receive(), 30)


@pytest.mark.parametrize(
    "flood", [b"\xff" * messages.HEADER.size, messages.pack(Kind.STAGE, bytes(1000)) * 1100], ids=["no header", "flood"]
)
async def test_what_no_process_says_ends_the_conversation(flood: bytes) -> None:
    """Neither an unknown message nor more of them than anybody takes fills the service's memory."""

    async def hear_it_all(channel: Channel) -> None:
        while True:
            await channel.receive()

    async with conversation() as (channel, other):
        other.settimeout(30)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                await asyncio.to_thread(other.send, flood)
        with pytest.raises(AnalysisProtocolError):
            await asyncio.wait_for(hear_it_all(channel), 30)

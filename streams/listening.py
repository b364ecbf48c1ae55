"""Listening no more: a server's socket is closed with nobody left between the door and the room."""

import asyncio


async def end_listening(server: asyncio.Server) -> None:
    """Close `server` once whoever it accepted has been begun with.

    asyncio accepts a connection in one round of its loop and makes its transport in the next one; a server that closed
    in between leaves the connection open, unheard, until the garbage collector finds it. Closed before, `server` stays
    as it is.
    """
    for each in server.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())
    for _ in range(2):  # a round for the transport, a round for its protocol
        await asyncio.sleep(0)
    server.close()

"""When memory goes back to the kernel."""

import asyncio

import pytest

from detector.quiet_moments import keep_giving_back


async def given_at(busy: list[bool]) -> list[int]:
    """At which of the looks something is given back."""
    given: list[int] = []
    look = 0

    async def sleep(_: float) -> None:
        nonlocal look
        look += 1
        if look > len(busy):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keep_giving_back(lambda: busy[look - 1], lambda: given.append(look), sleep=sleep)
    return given


@pytest.mark.parametrize(
    ("busy", "given"),
    [
        ([False] * 9, []),
        ([True, True, False, False, False], [3]),
        ([True, False, False, True, True, False], [2, 6]),
        ([True] * 9, []),
        ([True] * 15_000, [7200, 14_400]),
    ],
)
async def test_memory_goes_back_once_for_each_quiet_moment_and_at_least_every_hour(
    busy: list[bool], given: list[int]
) -> None:
    """Once when the last stream has gone; while there always are some, once an hour; never where there were none."""
    assert await given_at(busy) == given

"""The service's reader, models and policy over files and URLs: what was found in each, written in their order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from detector.analysis.pool import AnalysisPool
from detector.looking import MediumLook, ScanSettings, Tell
from detector.media_files import MEDIA_SUFFIXES, Medium
from streams.keeper import Nursery
from streams.wire import UNKNOWN_FORMAT, EndCode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an input came to. `fault` is one sentence where it could not be read to its end.

    `is_passed_over`: a folder contained it and it is no media, so it has no summary.
    """

    has_found: bool = False
    fault: str | None = None
    is_passed_over: bool = False
    frames_not_analysed: int = 0


async def scan_medium(
    medium: Medium, *, nursery: Nursery, pool: AnalysisPool, settings: ScanSettings, tell: Tell
) -> Outcome:
    """Look at one input; `tell` gets each detection as it is made and the summary at the end."""
    watch = MediumLook(medium, pool, settings, tell)
    code, fault = await watch.read(nursery)
    if code == EndCode.NOT_MEDIA and watch.fault_detail == UNKNOWN_FORMAT and _is_bystander(medium):
        return Outcome(is_passed_over=True)
    if fault is None:
        code, fault = watch.what_was_not_seen(code)
    tell({"summary": watch.summary(code, fault)})
    return Outcome(watch.has_found, fault, frames_not_analysed=watch.frames_not_analysed)


def _is_bystander(medium: Medium) -> bool:
    return not medium.is_expected and (medium.path is None or medium.path.suffix.lower() not in MEDIA_SUFFIXES)


class InOrder:
    """Lines of inputs that are looked at side by side, written input after input in the order of their places."""

    def __init__(self, write: Tell) -> None:
        self._write = write
        self._turn = 0
        self._kept: dict[int, list[dict[str, Any]]] = {}
        self._done: set[int] = set()

    def tell(self, place: int, content: dict[str, Any]) -> None:
        """Write what the input at `place` says, at once if it is its turn."""
        if place == self._turn:
            self._write(content)
        else:
            self._kept.setdefault(place, []).append(content)

    def done(self, place: int) -> None:
        """The input at `place` says no more: what the next ones said meanwhile is written."""
        self._done.add(place)
        while self._turn in self._done:
            self._done.discard(self._turn)
            self._turn += 1
            for content in self._kept.pop(self._turn, []):
                self._write(content)


async def scan_all(
    media: Sequence[Medium], at_once: int, look: Callable[[Medium, Tell], Awaitable[Outcome]], write: Tell
) -> list[Outcome]:
    """Look at all inputs, `at_once` side by side; returns their outcomes in order."""
    order = InOrder(write)
    outcomes = [Outcome() for _ in media]
    places = iter(range(len(media)))

    async def work() -> None:
        for place in places:
            try:
                outcomes[place] = await look(media[place], partial(order.tell, place))
            finally:
                order.done(place)

    tasks = [asyncio.create_task(work(), name=f"scan[{number}]") for number in range(min(at_once, len(media)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes

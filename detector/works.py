"""What runs for as long as the service does: each work a named task, and one that ends by a fault is told of."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Work:
    """One work: `run` returns only when it is cancelled. Its task is called `service.<name>`."""

    name: str
    run: Callable[[], Awaitable[None]]


class Works:
    """`async with Works([...]) as works`: all of them run until the block ends.

    A work that fails ends neither the others nor the service: the log has its traceback, `problems` says so for good.
    """

    def __init__(self, works: Iterable[Work]) -> None:
        self._works = tuple(works)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for work in self._works:
            task = asyncio.create_task(_keep(work), name=f"service.{work.name}")
            task.add_done_callback(_note_failure)
            self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def problems(self) -> list[str]:
        """One sentence for each work that failed."""
        return [
            f"{task.get_name()} has failed and does nothing more; restart stopframe, and report what its log says"
            for task in self._tasks
            if task.done() and not task.cancelled()
        ]


async def _keep(work: Work) -> None:
    await work.run()


def _note_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("service.work_failed", work=task.get_name(), exc_info=error)

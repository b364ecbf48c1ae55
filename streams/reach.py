"""What a caged reader cannot do for itself, done before it starts: names are resolved, and the Job is made its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from streams.address import resolve
from streams.job import Job


@dataclass(frozen=True, slots=True)
class Reached:
    """A source within a reader's reach: the Job as the reader gets it, and what it finds open on descriptor 4."""

    job: Job
    media_fd: int | None


@asynccontextmanager
async def reach(job: Job) -> AsyncIterator[Reached]:
    """Bring the source of `job` within a reader's reach, for as long as the reader lives.

    `job.url` is as an operator wrote it. Raises `SourceUnreachable`, whose text never holds the URL.
    """
    url, port = await resolve(job.url, job.kind)
    yield Reached(replace(job, url=url, port=port), None)

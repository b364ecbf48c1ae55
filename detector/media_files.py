"""Inputs that a command names: files, folders and URLs; found in order, opened safely, read in the cage."""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from detector.config.addresses import SourceUrl
from streams.job import Job, SourceKind
from streams.keeper import Keeper, Nursery
from streams.reach import reach

MEDIA_SUFFIXES = frozenset(
    {".ts", ".mts", ".m2ts", ".flv", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".png", ".jpg", ".jpeg", ".webp"}
)
"""Names that promise media: such a file that cannot be read is a failure, wherever it was found."""


NO_FILE = "no file is in what was named, so nothing was looked at; name a folder with media in it"
"""What a command says of empty folders."""


class MediumUnreadable(Exception):
    """Raised where an input cannot be opened; `code` is a word for scripts, the text one sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Medium:
    """One input. `name` is what outputs call it; of a URL only scheme and host, since its path may be a key.

    `is_expected` is False for a file that a folder merely contained: if it is no media, nobody said it was. With a
    `descriptor` it is open already, from its beginning; whoever opened it closes it.
    """

    name: str
    path: Path | None = None
    url: SourceUrl | None = None
    is_expected: bool = True
    fault: str | None = None
    descriptor: int | None = None


def find_media(arguments: Sequence[str]) -> list[Medium]:
    """Return the inputs in order; a folder gives the files in it and below, sorted, and none that lies outside it."""
    found: list[Medium] = []
    for argument in arguments:
        if "://" in argument:
            found.append(_url(argument, found))
        elif not argument:  # an unset variable of a script; it would be the current folder
            found.append(Medium("''", fault="is no name of a file; name a file, a folder or a URL"))
        elif Path(argument).is_dir():
            found.extend(_folder(Path(argument)))
        else:
            found.append(Medium(_text(argument), Path(argument)))
    return found


@asynccontextmanager
async def reading(
    nursery: Nursery, job: Job, medium: Medium, refused: Callable[[], None] = lambda: None
) -> AsyncIterator[Keeper]:
    """Start a caged reader on `medium`; `job` says how, not what. `refused` is as in `streams.reach.reach`.

    Raises:
        MediumUnreadable: a file cannot be opened.
        SourceUnreachable: a URL's host has no address.
        NurseryBroken: no reader can be started.
    """
    if medium.url is not None:
        wanted = replace(job, kind=medium.url.kind_as(), url=medium.url.reveal())
        async with reach(wanted, refused) as reached, Keeper(nursery, reached.job, reached.media_fd) as keeper:
            yield keeper
        return
    with _opened(medium) as descriptor:
        async with Keeper(nursery, replace(job, kind=SourceKind.FILE, url="", port=0), descriptor) as keeper:
            yield keeper


@contextmanager
def _opened(medium: Medium) -> Iterator[int]:
    if medium.fault is not None:
        raise MediumUnreadable("unreadable", medium.fault)
    if medium.descriptor is not None:
        yield medium.descriptor
        return
    assert medium.path is not None
    # Without blocking: a pipe that nobody writes to would be waited for.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if medium.is_expected else os.O_NOFOLLOW)
    try:
        descriptor = os.open(medium.path, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no valid path"
        raise MediumUnreadable("unreadable", f"cannot be read ({reason}); name a readable file") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MediumUnreadable("unreadable", "is no regular file; name a file, a folder or a URL")
        yield descriptor
    finally:
        os.close(descriptor)


def _url(argument: str, before: Sequence[Medium]) -> Medium:
    try:
        url = SourceUrl.parse(argument)
    except ValueError as error:
        scheme = argument.partition("://")[0]
        name = scheme if scheme.isascii() and scheme.isalnum() else "URL"
        return Medium(f"{name}://", fault=f"{error}")
    same = sum(medium.url is not None and medium.url.origin == url.origin for medium in before)
    return Medium(url.origin if not same else f"{url.origin}#{same + 1}", url=url)


def _folder(root: Path) -> Iterator[Medium]:
    inside = root.resolve()
    faults: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=faults.append):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_symlink():
                path = path.resolve()
                if not path.is_relative_to(inside) or not path.is_file():
                    continue
            if path.is_file():
                yield Medium(_text(Path(folder, name)), path, is_expected=False)
    for fault in faults:
        yield Medium(_text(fault.filename or root), fault=f"cannot be read ({fault.strerror}); let this user read it")


def _text(path: str | Path) -> str:
    """The path as JSON can carry it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")

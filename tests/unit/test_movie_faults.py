"""What is known of an MP4 before libav reads it."""

import os

import pytest

from streams.movie_faults import movie_fault
from tests.hostile import two_faced


def _told(content: bytes) -> str:
    descriptor = os.memfd_create("movie")
    try:
        os.write(descriptor, content)
        return movie_fault(descriptor) or ""
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (two_faced.two_formats(), "several formats"),
        (two_faced.cut_out(), "aperture"),
        (two_faced.joined(), "two movies"),
        (b"\0\0\0\x08moov" * 2, "two movies"),
        (b"\0\0\0\x18moov\0\0\0\x10cmovxxxxxxxx", "compressed"),
        (b"\0\0\0\x08free" * 200_000, "pieces"),
    ],
    ids=["formats", "aperture", "joined", "empty ones", "compressed", "pieces"],
)
def test_movies_that_show_some_viewers_more_are_named(content: bytes, says: str) -> None:
    """In words that say why."""
    assert says in _told(content)


def test_ordinary_movies_pass() -> None:
    """In fragments, with an aperture that cuts off a border, and cut off in the middle of anything."""
    assert not _told(two_faced.back_in_time())
    assert not _told(two_faced.cut_out(640, 352))
    movie = two_faced.cut_out(640, 352)
    index = movie.index(b"moov")
    assert not any(_told(movie[:end]) for end in range(index, len(movie), 7))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 2**32 - 1])
def test_sizes_that_lie_end_the_search(size: int) -> None:
    """At once, whatever is inside."""
    inside = b"\0\0\0\x10trak" + size.to_bytes(4, "big") + b"mdia"
    assert not _told(b"\0\0\0\x18moov" + inside)
    assert not _told(size.to_bytes(4, "big") + b"moov" + inside)

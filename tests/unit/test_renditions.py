"""Of a master playlist the reader is shown one variant: the smallest that is large enough, or another if it fails."""

import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.address import Place
from streams.renditions import MAX_VARIANTS, Renditions

PLACE = Place(urlsplit("http://media.test:8080/live/master.m3u8"), "media.test", 8080, "127.0.0.1")
VIDEO = 'CODECS="avc1.64001f,mp4a.40.2"'


def master(*variants: tuple[str, str], more: str = "") -> bytes:
    """A master playlist of (attributes, URI)."""
    lines = [f"#EXT-X-STREAM-INF:{attributes}\n{uri}" for attributes, uri in variants]
    return f"#EXTM3U\n#EXT-X-VERSION:4\n{more}".encode() + "\n".join([*lines, ""]).encode()


def size(width: int, height: int, more: str = VIDEO) -> str:
    return f"BANDWIDTH={width * height},RESOLUTION={width}x{height},{more}"


def chosen(renditions: Renditions, playlist: bytes) -> list[str]:
    """The URIs that are left."""
    left = renditions.lowest_of(playlist, PLACE, "/live/master.m3u8").decode().splitlines()
    return [line for line in left if line and not line.startswith("#")]


LADDER = (
    (size(1920, 1080), "high.m3u8"),
    (size(640, 360), "low.m3u8"),
    (size(1280, 720), "mid.m3u8"),
    (size(256, 144), "tiny.m3u8"),
)


@pytest.mark.parametrize(
    ("variants", "uri"),
    [
        (LADDER, "low.m3u8"),
        ((LADDER[3], (size(320, 180), "small.m3u8")), "small.m3u8"),  # none is large enough: the largest
        ((("BANDWIDTH=9000", "nameless.m3u8"), LADDER[0]), "high.m3u8"),
        ((("BANDWIDTH=9000", "b.m3u8"), ("BANDWIDTH=800", "a.m3u8")), "a.m3u8"),
        ((('BANDWIDTH=64000,CODECS="mp4a.40.2"', "sound.m3u8"), LADDER[0]), "high.m3u8"),
        (((size(640, 360, 'CODECS="dav1.x"'), "odd.m3u8"), LADDER[0]), "high.m3u8"),
        (((size(640, 360), "http://other.test/low.m3u8"), LADDER[0]), "high.m3u8"),
        (((size(640, 360), "http://media.test:9/low.m3u8"), LADDER[0]), "high.m3u8"),
        (((size(640, 360), "https://media.test:8080/low.m3u8"), LADDER[0]), "high.m3u8"),
        (((size(640, 360), "file:///etc/passwd"), LADDER[0]), "high.m3u8"),
        (
            ((size(640, 360), "http://media.test:8080/low.m3u8?key=1"), LADDER[0]),
            "http://media.test:8080/low.m3u8?key=1",
        ),
        ((("RESOLUTION=0x0,BANDWIDTH=-1", "none.m3u8"), ("RESOLUTION=999999x1", "wide.m3u8"), LADDER[2]), "mid.m3u8"),
    ],
)
def test_lowest_usable_variant_is_left_alone(variants: tuple[tuple[str, str], ...], uri: str) -> None:
    """Fewest pixels among those that analysis need not blow up; never sound, another server or an unknown codec."""
    assert chosen(Renditions(), master(*variants)) == [uri]


def test_what_belongs_to_the_others_goes_with_them() -> None:
    """No request is left for sound, subtitles or trick play; other camera angles of the chosen one stay."""
    media = "".join(
        f'#EXT-X-MEDIA:TYPE={kind},GROUP-ID="{group}",NAME="x",URI="{uri}"\n'
        for kind, group, uri in [
            ("AUDIO", "a", "sound.m3u8"),
            ("SUBTITLES", "s", "text.m3u8"),
            ("VIDEO", "angles", "angle.m3u8"),
            ("VIDEO", "others", "other.m3u8"),
        ]
    )
    trick = '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="trick.m3u8"\n'
    playlist = master((size(640, 360, 'AUDIO="a",VIDEO="angles"'), "low.m3u8"), LADDER[0], more=media + trick)
    left = Renditions().lowest_of(playlist, PLACE, "/live/master.m3u8").decode()
    assert [word in left for word in ("low", "angle.m3u8")] == [True, True]
    assert not any(word in left for word in ("high", "sound", "text.", "other", "trick"))


def test_playlist_without_a_choice_is_passed_on_as_it_is() -> None:
    """A media playlist, and a master of which nothing is usable: the reader says what is wrong with it."""
    for playlist in (b"#EXTM3U\n#EXTINF:1.0,\na.ts\n", master(('CODECS="mp4a.40.2"', "sound.m3u8"))):
        renditions = Renditions()
        assert renditions.lowest_of(playlist, PLACE, "/live/master.m3u8") == playlist
        assert (renditions.shown, renditions.has_another) == ("", False)


def test_failed_rendition_gives_way_for_a_minute() -> None:
    """Each failure brings the next one up; when all have failed, the one that did so longest ago; then the lowest."""
    now = 0.0
    renditions = Renditions(lambda: now)
    seen = []
    for _ in range(5):
        seen += chosen(renditions, master(*LADDER))
        renditions.failed()
        now += 5.0
    assert seen == ["low.m3u8", "mid.m3u8", "high.m3u8", "tiny.m3u8", "low.m3u8"]
    assert (renditions.switches, renditions.shown, renditions.has_another) == (4, "640x360 of 4", False)
    now += 60.0
    assert chosen(renditions, master(*LADDER)) == ["low.m3u8"]
    assert renditions.has_another


def test_choice_outlives_uris_with_a_session_in_them() -> None:
    """A server that writes other URIs for each session is not asked for what failed before."""
    renditions = Renditions(lambda: 0.0)
    assert chosen(renditions, master((size(640, 360), "low?s=1"), (size(1280, 720), "mid?s=1"))) == ["low?s=1"]
    renditions.failed()
    assert chosen(renditions, master((size(640, 360), "low?s=2"), (size(1280, 720), "mid?s=2"))) == ["mid?s=2"]


def test_number_of_variants_is_bounded() -> None:
    """What comes after the first ones is never chosen, and costs no time."""
    many = master(*[(size(1280 + 2 * number, 720), f"{number}") for number in range(20_000)], LADDER[1])
    renditions = Renditions()
    assert chosen(renditions, many) == ["0"]
    assert renditions.shown == f"1280x720 of {MAX_VARIANTS}"


@pytest.mark.parametrize(
    "line", [b"#EXT-X-STREAM-INF:" + b"A" * 1_000_000, b"#EXT-X-STREAM-INF:" + b'A="' * 330_000, b"#EXT-X-MEDIA:A=1\n"]
)
def test_no_playlist_holds_the_service_up(line: bytes) -> None:
    """A megabyte of one line or of many is gone through in no time: the whole service waits for that."""
    lines = (1_000_000 // len(line)) * line
    playlist = master(LADDER[1]) + lines + b"\nbig.m3u8\n"
    begun = time.thread_time()
    assert chosen(Renditions(), playlist) == ["low.m3u8"]
    assert time.thread_time() - begun < 0.3


def test_variant_whose_address_is_none_spoils_no_other() -> None:
    """A variant with a URI that cannot be read is left out; the others are chosen from as ever."""
    assert chosen(Renditions(), master((size(640, 360), "http://[low/a.m3u8"), LADDER[0])) == ["high.m3u8"]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=12)), max_size=6), st.binary(max_size=60))
def test_any_playlist_leaves_at_most_one_variant(variants: list[tuple[str, str]], rest: bytes) -> None:
    """Whatever the attributes say, one variant at most is left, or the playlist as it was."""
    playlist = master(*variants) + rest
    left = Renditions().lowest_of(playlist, PLACE, "/live/master.m3u8")
    assert left == playlist or sum(line.startswith(b"#EXT-X-STREAM-INF:") for line in left.splitlines()) == 1

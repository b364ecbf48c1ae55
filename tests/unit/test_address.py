"""From configured URLs to ones with an IP literal, and no secret in any error."""

import asyncio
import contextlib
import socket
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.address import SourceUnreachable, resolve
from streams.job import SourceKind

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("kind", "url", "expected"),
    [
        (SourceKind.RTMP, "rtmp://127.0.0.1/live/key", ("rtmp://127.0.0.1/live/key", 1935)),
        (SourceKind.RTMP, "rtmp://10.0.0.7:2935/live/key?a=b", ("rtmp://10.0.0.7:2935/live/key?a=b", 2935)),
        (SourceKind.RTMP, "rtmp://[::1]/live/key", ("rtmp://[::1]/live/key", 1935)),
        (SourceKind.HTTP_TS, "http://127.0.0.1/live.ts", ("http://127.0.0.1/live.ts", 80)),
        (SourceKind.HTTP_TS, "http://u:p%40@[fe80::1]:81/x", ("http://u:p%40@[fe80::1]:81/x", 81)),
        (SourceKind.HTTP_FLV, "http://127.0.0.1:8000/live/key.flv", ("http://127.0.0.1:8000/live/key.flv", 8000)),
        (SourceKind.RTMP, "rtmps://127.0.0.1/live/key", ("rtmp://127.0.0.1/live/key", 443)),
        (SourceKind.HTTP_TS, "https://u:p@127.0.0.1/x", ("http://u:p@127.0.0.1/x", 443)),
        (SourceKind.RTSP, "rtsp://127.0.0.1/cam", ("rtsp://127.0.0.1/cam", 554)),
        (SourceKind.UDP, "udp://239.1.1.1:5000", ("udp://239.1.1.1:5000", 5000)),
        (SourceKind.FILE, "/tmp/clip.ts", ("", 0)),
    ],
)
async def test_literal_stays_as_it_is(kind: SourceKind, url: str, expected: tuple[str, int]) -> None:
    """An address needs no name server; port, credentials, path and query are untouched."""
    assert await resolve(url, kind) == expected


async def test_name_becomes_the_address_that_accepts() -> None:
    """Of a name's addresses the one on which somebody listens is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        url, resolved_port = await resolve(f"rtmp://user:{SECRET}@localhost:{port}/live/key", SourceKind.RTMP)

    assert url == f"rtmp://user:{SECRET}@127.0.0.1:{port}/live/key"
    assert resolved_port == port


@pytest.mark.parametrize(
    ("kind", "url", "remedy"),
    [
        (SourceKind.RTMP, f"rtsp://host/{SECRET}", "rtmp://"),
        (SourceKind.RTMP, f"http://host/{SECRET}", "rtmp://"),
        (SourceKind.HTTP_TS, f"file:///{SECRET}", "http://"),
        (SourceKind.HTTP_TS, f"concat:{SECRET}", "http://"),
        (SourceKind.HTTP_FLV, f"rtmp://host/{SECRET}", "http://"),
        (SourceKind.HLS, f"rtmp://host/{SECRET}", "http:// or https://"),
        (SourceKind.RTSP, f"rtsps://host/{SECRET}", "rtsp://"),
        (SourceKind.UDP, f"udp://{SECRET}", "names no port"),
        (SourceKind.HLS, f"https://{SECRET}\u00df.example/", "strange characters"),
        (SourceKind.RTMP, f"rtmp:///live/{SECRET}", "names no host"),
        (SourceKind.RTMP, f"rtmp://host:0/live/{SECRET}", "port 0"),
        (SourceKind.RTMP, f"rtmp://user:{SECRET}/x@host/live", "percent-encode"),
        (SourceKind.RTMP, f"rtmp://[{SECRET}/live", "percent-encode"),
        (SourceKind.RTMP, f"rtmp://{SECRET}:70000/live", "percent-encode"),
        (SourceKind.RTMP, f"rtmp://u:{SECRET}@no-such-host.invalid/live", "does not resolve"),
        (SourceKind.RTMP, f"rtmp://{'x' * 80}.{SECRET}/live", "does not resolve"),
    ],
)
async def test_bad_url_names_the_remedy_and_no_secret(kind: SourceKind, url: str, remedy: str) -> None:
    """A URL that cannot be used raises one sentence; neither it nor what is chained to it quotes the URL."""
    with pytest.raises(SourceUnreachable) as caught:
        await resolve(url, kind)

    assert remedy in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(
    st.sampled_from(["", "rtmp://[", "rtmp://1.2.3.4:"]),
    st.text(st.characters(exclude_characters="@"), max_size=60),  # no user, and so no host name to ask for
)
def test_any_text_is_resolved_or_refused(beginning: str, text: str) -> None:
    """Whatever stands in a config raises nothing but SourceUnreachable."""
    with contextlib.suppress(SourceUnreachable):
        url, port = asyncio.run(resolve(beginning + text, SourceKind.RTMP))
        assert url.startswith("rtmp://")
        assert 0 < port < 65536

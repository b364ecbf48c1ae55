"""The egress gate: which requests it takes, what it says of a server, and that it leads to one address only."""

import asyncio
import contextlib
import ssl
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.address import Place, SourceUnreachable
from streams.gate import CONNECTIONS, Gate, Route, _without_tls, forwarded, tls_context, why_unreachable

PLACE = Place(urlsplit("https://media.example/live/a.m3u8"), "media.example", 443, "192.0.2.7")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"GET http://media.example:443/live/a.ts?b=c HTTP/1.1", b"/live/a.ts?b=c"),
        (b"GET http://MEDIA.example:443 HTTP/1.0", b"/"),
        (b"GET http://media.example:443//other.example/x HTTP/1.1", b"//other.example/x"),
    ],
)
def test_a_request_for_the_own_server_is_made_the_servers(line: bytes, path: bytes) -> None:
    """It gets the host as the operator wrote it, and ends with its answer; the reader's other headers stay."""
    head = (
        line + b"\r\nHost: x\r\nProxy-Connection: keep-alive\r\nAuthorization: Basic k\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    expected = b"GET %b HTTP/1.1\r\nHost: media.example\r\nConnection: close\r\nAuthorization: Basic k\r\n\r\n" % path
    assert forwarded(head, PLACE) == expected


def test_no_request_holds_the_service_up() -> None:
    """A header of nothing but blanks, as long as a request may be, is gone through in no time."""
    head = b"GET http://media.example:443/a HTTP/1.1\r\nAccept:" + b" " * 16_000 + b"\x01\r\n\r\n"
    begun = time.thread_time()
    assert b"Accept" not in forwarded(head, PLACE)
    assert time.thread_time() - begun < 0.1


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://media.example/live/a.ts HTTP/1.1",
        b"GET http://media.example:8443/live/a.ts HTTP/1.1",
        b"GET http://other.example:443/live/a.ts HTTP/1.1",
        b"GET http://192.0.2.7:443/live/a.ts HTTP/1.1",
        b"GET http://media.example:443@other.example/ HTTP/1.1",
        b"GET http://media.example@media.example:443/ HTTP/1.1",
        b"GET https://media.example:443/live/a.ts HTTP/1.1",
        b"GET /live/a.ts HTTP/1.1",
        b"GET media.example:443 HTTP/1.1",
        b"CONNECT media.example:443 HTTP/1.1",
        b"POST http://media.example:443/live/a.ts HTTP/1.1",
        b"GET http://media.example:443/a b HTTP/1.1",
        b"GET http://media.example:x/a HTTP/1.1",
        b"GET http://[media.example/a HTTP/1.1",
        b"GET http://media.example:443/a HTTP/2",
        b"GET http://media.example.:443/a HTTP/1.1",
        b"GET http://media.example:0/a HTTP/1.1",
        b"GET http://[::ffff:192.0.2.7]:443/a HTTP/1.1",
        b"GET http://127.0.0.1:443/a HTTP/1.1",
        b"GET http://media.example:443\\@other.example/ HTTP/1.1",
        b"GET http://media.example:443#@other.example/ HTTP/1.1 x",
        b"HEAD http://media.example:443/a HTTP/1.1",
        b"\xff\xfe",
        b"",
    ],
)
def test_every_other_request_is_refused(line: bytes) -> None:
    """Another host, port, scheme or method than the stream's own gets nothing."""
    assert forwarded(line + b"\r\nHost: media.example\r\n\r\n", PLACE) == b""


@given(st.binary(max_size=300), st.sampled_from([b"", b"GET http://media.example:443/", b"GET http://"]))
def test_whatever_is_asked_is_one_request_to_the_own_server_or_none(rest: bytes, begin: bytes) -> None:
    """A reader that was taken over can put no second request and no other host into what is sent on."""
    sent = forwarded(begin + rest + b"\r\n\r\n", PLACE)
    if sent:
        assert sent.startswith(b"GET /")
        assert sent.count(b"\r\n\r\n") == 1
        assert sent.endswith(b"\r\n\r\n")
        assert [line for line in sent.lower().split(b"\r\n") if line.startswith(b"host:")] == [b"host: media.example"]


@pytest.mark.parametrize(
    "field",
    [
        b"X: a\nHost: other.example",
        b"User-Agent: a\n\nGET /admin HTTP/1.1\nHost: other.example",
        b"Accept: a\rHost: other.example",
        b"Host : other.example",
        b" Host: other.example",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 40",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"X-Forwarded-Host: other.example",
        b"X-HTTP-Method-Override: DELETE",
        b"Proxy-Authorization: Basic k",
        b"Cookie: a\0b",
    ],
)
def test_no_field_smuggles_a_request_or_a_host(field: bytes) -> None:
    """Bare line ends, bodies, upgrades and other names of host and method stay behind; the request goes on without."""
    head = b"GET http://media.example:443/a HTTP/1.1\r\n" + field + b"\r\nRange: bytes=0-\r\n\r\n"

    expected = b"GET /a HTTP/1.1\r\nHost: media.example\r\nConnection: close\r\nRange: bytes=0-\r\n\r\n"
    assert forwarded(head, PLACE) == expected


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (10, "not valid today"),
        (18, "under ca_file"),
        (20, "under ca_file"),
        (62, "the name that it was issued for"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "without the s"),
        (TimeoutError(), "firewalls"),
        (ConnectionRefusedError(), "start the server"),
        (OSError(113, "No route to host"), "network"),
    ],
)
def test_what_is_wrong_with_a_server_names_the_remedy(error: Exception | int, remedy: str) -> None:
    """An expired, unknown or foreign certificate and a dead server are told apart."""
    if isinstance(error, int):
        code, error = error, ssl.SSLCertVerificationError(1, "KEY")
        error.verify_code = code
    assert remedy in why_unreachable(error)
    assert "KEY" not in why_unreachable(error)


def test_a_playlists_https_urls_lead_through_the_gate() -> None:
    """Each gets the port it meant, in lines and in attributes; everything else stays as it is, byte by byte."""
    playlist = (
        b'#EXT-X-KEY:METHOD=AES-128,URI="https://media.example/k?u=https://x.example"\n'
        b"https://media.example:8443/a.ts\nHTTPS://[::1]/a\nhttp://media.example/b.ts\nrelative.ts?https\n\xff"
    )
    assert _without_tls(playlist) == (
        b'#EXT-X-KEY:METHOD=AES-128,URI="http://media.example:443/k?u=https://x.example"\n'
        b"http://media.example:8443/a.ts\nhttp://[::1]:443/a\nhttp://media.example/b.ts\nrelative.ts?https\n\xff"
    )


async def _gate_to(port: int, *, is_proxy: bool) -> Gate:
    place = Place(urlsplit(f"http://127.0.0.1:{port}/"), "127.0.0.1", port, "127.0.0.1")
    return Gate(Route(place, None, is_proxy=is_proxy), lambda: None)


@pytest.mark.parametrize("is_proxy", [False, True])
async def test_a_gate_holds_a_bounded_number_of_connections_and_leaves_none(*, is_proxy: bool) -> None:
    """A reader that opens more is refused and counted; when the gate closes, its port and its connections are gone."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with await _gate_to(server.sockets[0].getsockname()[1], is_proxy=is_proxy) as gate:
        clients = [await asyncio.open_connection("127.0.0.1", gate.port) for _ in range(CONNECTIONS + 3)]
        async with asyncio.timeout(30):
            while gate.refusals < 3:
                await asyncio.sleep(0.01)
        for _, writer in clients:
            writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", gate.port)
    server.close()


async def test_a_head_that_never_ends_is_cut_off() -> None:
    """What a taken-over reader sends takes no more than the bounded head of the service's memory."""
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    async with await _gate_to(server.sockets[0].getsockname()[1], is_proxy=True) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(b"x" * 64 * 1024)
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
    server.close()


async def test_a_server_that_is_not_there_is_said_before_a_reader_starts() -> None:
    """Opening the gate makes the first connection."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    with pytest.raises(SourceUnreachable, match="nobody listens there"):
        async with await _gate_to(port, is_proxy=False):
            pass


def test_a_file_without_certificates_is_no_authority() -> None:
    """The sentence names the key; the verification of everything else stays on."""
    with pytest.raises(SourceUnreachable, match="under ca_file"):
        tls_context(__file__)
    context = tls_context("")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

"""What libav is told for each kind of source: what it may open, what it may not, and what it calls the server."""

import pytest

from streams.faults import SourceError
from streams.job import Job, SandboxMode, SourceKind
from streams.opening import _NETWORK_OPTIONS, _OPTIONS, _rtmp_app, _server, open_media
from streams.sampling import SamplingSettings

KEY = "secret-stream-key"
NETWORK = [kind for kind in SourceKind if not kind.is_handed_over]


def job(kind: SourceKind, url: str, origin: str = "") -> Job:
    return Job(kind, url, 4321, True, SamplingSettings(), SandboxMode.OFF, origin=origin)


@pytest.mark.parametrize("kind", NETWORK)
def test_every_kind_has_its_lists(kind: SourceKind) -> None:
    """Format, protocols and formats are fixed for each kind; none has a file, a listener or TLS among them."""
    name, options = _NETWORK_OPTIONS[kind]
    assert name in options["format_whitelist"].split(",")
    protocols = set(options["protocol_whitelist"].split(","))
    assert protocols <= {"rtmp", "http", "tcp", "crypto"}
    assert ("crypto" in protocols) == (kind is SourceKind.HLS)
    assert options.get("max_redirects", "0") == "0"
    assert not {"nobuffer", "fflags", "listen"} & (options | _OPTIONS).keys()


@pytest.mark.parametrize("kind", NETWORK)
@pytest.mark.parametrize("url", [f"file:///{KEY}", f"https://h/{KEY}", f"concat:{KEY}", f"udp://{KEY}:1", ""])
def test_a_url_that_no_reach_made_is_not_opened(kind: SourceKind, url: str) -> None:
    """Whoever gives a reader another scheme, TLS among them, gets our words and no key in them."""
    with pytest.raises(SourceError, match="starts with") as refusal:
        open_media(job(kind, url), None, quick=True)
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize("kind", [SourceKind.FILE, SourceKind.UDP])
def test_what_is_handed_over_must_be_there(kind: SourceKind) -> None:
    """Without a descriptor nothing is opened in its place."""
    with pytest.raises(SourceError, match="handed over"):
        open_media(job(kind, "http://127.0.0.1/"), None, quick=True)


@pytest.mark.parametrize(
    ("path", "app"),
    [
        ("/live/key", "live"),
        ("/live/instance/key", "live/instance"),
        ("/live/instance/key/more", "live/instance"),
        ("/live/mp4:a/b", "live"),
        ("/ondemand/a/b", "ondemand"),
        ("/live", "live"),
        ("/live/key?a=b", "live"),
        ("/live/key?a=/b/c", "live/key?a="),
        ("", ""),
    ],
)
def test_the_application_is_read_as_libav_reads_it(path: str, app: str) -> None:
    """What the server is told in tcUrl is the application that libav connects to."""
    assert _rtmp_app(f"rtmp://127.0.0.1:1935{path}") == app


def test_a_server_hears_the_name_it_goes_by() -> None:
    """The URL has an address; the name stands in tcUrl, in Host, or in the URL that the gate is asked for."""
    _, _, rtmp = _server(job(SourceKind.RTMP, "rtmp://127.0.0.1:9/live/k", "rtmps://media.example"))
    _, _, exact = _server(job(SourceKind.RTMP, "rtmp://127.0.0.1:9/?app=a%2Fb&playpath=k", "rtmp://media.example:1"))
    _, _, http = _server(job(SourceKind.HTTP_FLV, "http://127.0.0.1:9/k", "https://media.example:8443"))
    _, _, hls = _server(job(SourceKind.HLS, "http://media.example:443/k.m3u8", "https://media.example"))
    assert rtmp["rtmp_tcurl"] == "rtmps://media.example/live"
    assert exact["rtmp_tcurl"] == "rtmp://media.example:1/a/b"
    assert http["headers"] == "Host: media.example:8443\r\n"
    assert hls["http_proxy"] == "http://127.0.0.1:4321"
    assert "rtmp_tcurl" not in _server(job(SourceKind.RTMP, "rtmp://127.0.0.1:9/live/k"))[2]

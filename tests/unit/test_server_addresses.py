"""Addresses of servers beside us, and what a source's URL is read as."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config.faults import ConfigError
from detector.config.loading import check_files, load_config
from detector.config.servers import HookUrl, HttpServerUrl, PlainHttpServerUrl, RtmpServerUrl, ServerUrl
from detector.settings import reader_job
from streams.job import SourceKind

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("kind", "text", "host", "port"),
    [
        (HttpServerUrl, "http://127.0.0.1:9997", "127.0.0.1", 9997),
        (HttpServerUrl, "https://media.example:9997/", "media.example", 9997),
        (PlainHttpServerUrl, "http://[::1]:8000", "::1", 8000),
        (RtmpServerUrl, "rtmp://192.0.2.1:1935", "192.0.2.1", 1935),
    ],
)
def test_an_address_is_read_and_printed_back(kind: type[ServerUrl], text: str, host: str, port: int) -> None:
    """What is printed parses to the same address."""
    read = kind.parse(text)
    assert (read.host, read.port) == (host, port)
    assert kind.parse(str(read)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:9997",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        f"http://u:{SECRET}@127.0.0.1:1",
        f"http://127.0.0.1:1/{SECRET}",
        f"http://127.0.0.1:1?{SECRET}",
        f"ftp://{SECRET}:1",
    ],
)
@pytest.mark.parametrize("kind", [HttpServerUrl, RtmpServerUrl])
def test_anything_else_is_refused_without_being_quoted(kind: type[ServerUrl], text: str) -> None:
    """Paths and credentials have no place in it, and none of them comes back."""
    with pytest.raises(ValueError, match="HOST:PORT") as caught:
        kind.parse(text)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """Whatever stands in a config raises nothing else."""
    for kind in (HttpServerUrl, HookUrl):
        with contextlib.suppress(ValueError):
            assert str(kind.parse("http://" + text)).startswith("http://")


@pytest.mark.parametrize("url", ["rtmp://h/x", f"http://u:{SECRET}@h/x", "ftp://h/x", "http://", 7])
def test_a_hook_is_http_without_credentials(url: object) -> None:
    """Its path and query stay secret; a user name in it is refused."""
    with pytest.raises(ValueError, match="no URL of a hook"):
        HookUrl.parse(url)
    hook = HookUrl.parse(f"https://platform.example/auth?k={SECRET}")
    assert (str(hook), SECRET in repr(hook)) == ("https://platform.example", False)
    assert hook.reveal().endswith(SECRET)


@pytest.mark.parametrize(
    ("url", "written", "kind"),
    [
        ("http://h/live/a.flv", "", SourceKind.HTTP_FLV),
        ("http://h/live/a.FLV?k=1", "", SourceKind.HTTP_FLV),
        ("http://h/live/a.ts?x=.flv", "", SourceKind.HTTP_TS),
        ("http://h/live/a", "", SourceKind.HTTP_TS),
        ("http://h/live/a", ", format: flv", SourceKind.HTTP_FLV),
        ("http://h/live/a.flv", ", format: ts", SourceKind.HTTP_TS),
        ("rtmp://h/live/a.flv", "", SourceKind.RTMP),
        ("rtmp://h/live/a", ", format: flv", SourceKind.RTMP),
        ("rtmps://h/live/a", "", SourceKind.RTMP),
        ("https://h/live/a.ts", ", ca_file: ca.pem", SourceKind.HTTP_TS),
        ("https://h/live/a.flv", "", SourceKind.HTTP_FLV),
        ("https://h/live/a.m3u8?t=1", "", SourceKind.HLS),
        ("http://h/live/a", ", format: hls", SourceKind.HLS),
        ("http://h/live/a.m3u8", ", format: ts", SourceKind.HTTP_TS),
        ("udp://239.1.1.1:5000", ", format: ts", SourceKind.UDP),
        ("rtsp://h/a", "", SourceKind.RTSP),
    ],
)
def test_a_sources_url_says_what_comes(url: str, written: str, kind: SourceKind, tmp_path: Path) -> None:
    """The path's ending decides, and what is written decides over it; from the environment as well."""
    path = tmp_path / "stopframe.yaml"
    for value in (f"'{url}'", "'${URL}'"):
        path.write_text(f"sources: [{{name: a, url: {value}{written}}}]\nreader: {{allow_rtsp: true}}")
        assert load_config(path, environment={"URL": url}).sources[0].kind is kind


@pytest.mark.parametrize(
    ("source", "key", "remedy"),
    [
        ("url: rtmp://h/KEY, format: ts", "format", "RTMP does not carry"),
        ("url: rtmps://h/KEY, format: hls", "format", "leave it out"),
        ("url: 'udp://h:1', format: flv", "format", "UDP does not carry"),
        ("url: http://h/KEY, format: dash", "format", "ts"),
        ("url: http://h/KEY, ca_file: ca.pem", "ca_file", "write https:// or rtmps://"),
        ("url: http://h/KEY.ts, renditions: all", "renditions", "write format: hls"),
        ("url: rtmp://h/live/KEY, renditions: all", "renditions", "write format: hls"),
        ("url: http://h/KEY.m3u8, renditions: some", "renditions", "lowest"),
        ("url: rtsp://h/KEY", "url", "set reader.allow_rtsp to true"),
        ("url: 'srt://h:9000/KEY'", "url", "relay send it on as MPEG-TS to a udp:// source"),
        ("url: 'rist://h:9000?KEY'", "url", "docs/sources.md"),
        ("url: whep://h/KEY", "url", "relay"),
        ("url: rtsps://h/KEY", "url", "relay"),
        ("url: udp://127.0.0.1", "url", "udp://HOST:PORT alone"),
        ("url: 'udp://@239.1.1.1:5000'", "url", "udp://HOST:PORT alone"),
        ("url: 'udp://127.0.0.1:5000?listen=KEY'", "url", "udp://HOST:PORT alone"),
        ("url: 'udp://127.0.0.1:5000/KEY'", "url", "udp://HOST:PORT alone"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_line_and_remedy(
    source: str, key: str, remedy: str, tmp_path: Path
) -> None:
    """Nonsense is found when the config is checked, not when a stream goes unwatched; no key is repeated."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(f"sources:\n  - {{name: a, {source}}}\n")
    (fault,) = check_files([path])
    assert (fault.key, fault.line) == (f"sources[0].{key}", 2)
    assert remedy in fault.message
    assert "KEY" not in fault.message


def test_two_sources_do_not_listen_on_one_port(tmp_path: Path) -> None:
    """The second would get nothing, or take it from the first."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("sources: [{name: a, url: 'udp://127.0.0.1:5000'}, {name: b, url: 'udp://127.0.0.1:5000'}]")
    assert [fault.key for fault in check_files([path])] == ["sources[1].url"]


def test_the_reader_is_told_which_authority_its_server_has(tmp_path: Path) -> None:
    """A source's own CA file reaches its reader's job as an absolute path, and no other source's."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("sources: [{name: a, url: https://h/a, ca_file: ca.pem}, {name: b, url: https://h/b}]")
    config = load_config(path)
    jobs = [reader_job(config, "source/x", source.kind, source.url.reveal()) for source in config.sources]
    assert [job.ca_file for job in jobs] == [str(tmp_path / "ca.pem"), ""]
    assert not jobs[0].allow_rtsp


@pytest.mark.parametrize("kind", ["mediamtx", "node-media-server"])
def test_passwords_stand_in_no_config(kind: str, tmp_path: Path) -> None:
    """A password is named, never written; its place is checked without reading it."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(f"ingest: {{kind: {kind}, username: op, password: {SECRET}}}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [fault.key for fault in caught.value.faults] == ["ingest.password"]
    assert SECRET not in str(caught.value.faults)
    path.write_text(f"ingest: {{kind: {kind}, username: op, password: '${{PW}}'}}")
    assert check_files([path]) == []
    assert SECRET not in repr(load_config(path, environment={"PW": SECRET}))

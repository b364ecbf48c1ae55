"""What nginx-rtmp says, read without trust: forms, the stat page, and who is live when its two witnesses disagree."""

import asyncio
import statistics
import time
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ports import free_port
from detector.config.endpoints import EndpointUrl
from detector.events import StreamKey
from detector.hold import Hold, HoldSettings
from detector.ingest.hooks import BODY_LIMIT_BYTES, BadForm, HookAnswer, HookOutcome, first_values
from detector.ingest.nginx_roll import Roll
from detector.ingest.nginx_rtmp import NginxRtmp
from detector.ingest.nginx_settings import NginxRtmpSettings
from detector.ingest.nginx_stat import BadStat, StatPage, StatPublisher, parse_stat
from detector.ingest.revocations import FileRevocations, Revocations
from detector.metrics import Metrics
from streams.opening import _exact_rtmp
from tests.fixtures_nginx_rtmp import Nginx, hook_server

PAGE = """<?xml version="1.0" encoding="utf-8" ?>
<rtmp><pid>7</pid><server><application><name>live</name><live>
<stream><name>{name}</name><client><id>12</id><address>127.0.0.1</address><flashver>x</flashver><publishing/></client>
<client><id>13</id><address>127.0.0.1</address></client><nclients>2</nclients><publishing/></stream>
</live></application></server></rtmp>"""


def _key(name: str) -> StreamKey:
    return StreamKey("n", "live", name)


def _page(*names: tuple[str, str], pid: str = "1") -> tuple[StatPage, tuple[StatPublisher, ...]]:
    found = tuple(StatPublisher("live", name, clientid, "") for clientid, name in names)
    return StatPage(pid, found), found


def _server(folder: Path, **settings: object) -> NginxRtmp:
    revocations = Revocations(FileRevocations(folder / "revoked"), lambda key: key.path.encode().hex())
    return NginxRtmp(NginxRtmpSettings.model_validate({"hook_deadline": "0s", **settings}), revocations)


def _form(name: str, call: str = "publish", clientid: str = "5", app: str = "live") -> bytes:
    return str(httpx.QueryParams({"app": app, "clientid": clientid, "call": call, "name": name})).encode()


def test_the_first_value_of_a_field_counts() -> None:
    """A publisher's own arguments come last and change nothing."""
    fields = first_values(b"app=live&clientid=1&call=publish&name=banned1&type=live&name=innocent&clientid=2")
    assert (fields["name"], fields["clientid"]) == ("banned1", "1")


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1), st.binary(max_size=200))
def test_whatever_is_appended_the_fields_before_it_stay(fields: dict[str, str], appended: bytes) -> None:
    """No bytes after a form change what stood in it, and none make it raise."""
    body = str(httpx.QueryParams(fields)).encode()
    assert {name: first_values(body + b"&" + appended)[name] for name in fields} == fields


def test_a_form_without_end_is_refused() -> None:
    """What is longer than any question is not looked at."""
    with pytest.raises(BadForm):
        first_values(b"a" * (BODY_LIMIT_BYTES + 1))


def test_the_stat_page_tells_publishers_from_viewers() -> None:
    """Publishers come with app, name, clientid and address, XML's escapes undone."""
    page = parse_stat(PAGE.format(name="a&amp;b&lt;c").encode())
    assert page == StatPage("7", (StatPublisher("live", "a&b<c", "12", "127.0.0.1"),))
    assert page.publishers[0].is_exact
    assert not parse_stat(PAGE.format(name="ü").encode()).publishers[0].is_exact


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>not it</html>",
        b"<rtmp><pid>1</pid>",
        b'<!DOCTYPE rtmp [<!ENTITY a "b">]><rtmp><pid>&a;</pid></rtmp>',
        b'<!DOCTYPE rtmp SYSTEM "file:///etc/hostname"><rtmp><pid>1</pid></rtmp>',
        b"<a>" * 100_000,
    ],
)
def test_what_is_no_stat_page_is_refused(page: bytes) -> None:
    """Entities, document types, other pages and bottomless ones end in one error."""
    with pytest.raises(BadStat):
        parse_stat(page)


@given(st.binary(max_size=300))
def test_no_name_breaks_the_page_for_the_others(name: bytes) -> None:
    """Control characters and broken UTF-8 in one client's name leave the page readable."""
    harmless = name.translate(None, b"<>&")
    page = parse_stat(PAGE.encode().replace(b"{name}", harmless))
    assert [p.clientid for p in page.publishers] == ["12"]


def test_a_spoilt_name_is_mended_by_the_next_update() -> None:
    """Stat writes a space for what is no ASCII: nobody is watched under such a name before a hook said the true one."""
    roll = Roll("n", update_seconds=3.0)
    roll.listed(*_page(("1", "  1")), now=0.0)
    assert roll.on_air(0.0) == []
    roll.updated("1", _key("ü1"), "", now=2.0)
    assert [p.key.name for p in roll.on_air(2.0)] == ["ü1"]
    roll.listed(*_page(("1", "  1")), now=3.0)
    assert [p.key.name for p in roll.on_air(3.0)] == ["ü1"]
    assert roll.missing() == []


def test_a_name_with_spaces_is_believed_in_the_end() -> None:
    """Where no update comes the name on the page is the best there is."""
    roll = Roll("n", update_seconds=1.0)
    roll.listed(*_page(("1", "x y")), now=0.0)
    roll.listed(*_page(("1", "x y")), now=4.0)
    assert [p.key.name for p in roll.on_air(4.0)] == ["x y"]


def test_live_by_hooks_and_missing_in_stat_is_told_and_kept() -> None:
    """After a reload updates still come: the publisher stays on the roll, as missing, until they end."""
    roll = Roll("n", update_seconds=3.0)
    roll.published("1", _key("a"), "", now=0.0)
    roll.listed(*_page(("1", "a")), now=1.0)
    roll.listed(*_page(pid="2"), now=2.0)
    assert roll.missing() == []
    roll.updated("1", _key("a"), "", now=3.0)
    assert [e.clientid for e in roll.missing()] == ["1"]
    assert len(roll.on_air(3.0)) == 1
    roll.listed(*_page(pid="2"), now=11.0)
    assert roll.on_air(11.0) == []
    assert not roll.has_several_workers


def test_a_worker_that_comes_back_is_one_of_several() -> None:
    """A reload brings a new worker once; two that take turns are two."""
    roll = Roll("n", update_seconds=3.0)
    for at, pid in enumerate(["1", "2", "2"]):
        roll.listed(*_page(pid=pid), now=float(at))
    assert not roll.has_several_workers
    roll.listed(*_page(pid="1"), now=4.0)
    assert roll.has_several_workers


def test_who_is_listed_outranks_who_only_asked() -> None:
    """A second publisher of a key does not displace the one that stat has, and takes over when that one ends."""
    roll = Roll("n", update_seconds=3.0)
    first = roll.published("1", _key("a"), "", now=0.0)
    roll.listed(*_page(("1", "a")), now=1.0)
    second = roll.published("2", _key("a"), "", now=2.0)
    assert roll.on_air(2.0) == [first.publisher]
    roll.remove("1")
    assert roll.on_air(2.0) == [second.publisher]


def test_a_server_that_is_away_takes_its_publishers_with_it() -> None:
    """Whoever no hook spoke of since it went away is gone; whoever one did is kept."""
    roll = Roll("n", update_seconds=3.0)
    roll.published("1", _key("a"), "", now=0.0)
    roll.published("2", _key("b"), "", now=0.0)
    roll.unreachable(since=1.0, now=2.0)
    assert len(roll.on_air(2.0)) == 2
    roll.updated("2", _key("b"), "", now=3.0)
    roll.unreachable(since=1.0, now=6.0)
    assert [p.key.name for p in roll.on_air(6.0)] == ["b"]


def test_a_clientid_that_names_another_key_is_another_publisher() -> None:
    """A restarted server counts from one again: the old publisher ends, the new one has a connection of its own."""
    roll = Roll("n", update_seconds=3.0)
    old = roll.published("1", _key("a"), "", now=0.0)
    roll.listed(*_page(("1", "b")), now=1.0)
    assert [p.key.name for p in roll.on_air(1.0)] == ["b"]
    again = roll.published("1", _key("a"), "", now=2.0)
    assert old.publisher.connection != again.publisher.connection


@pytest.mark.parametrize(
    "body",
    [
        _form("x\x00y"),
        _form("x\r\ny"),
        _form(""),
        _form("k" * 300),
        _form("x", clientid="1&app=other"),
        _form("x", clientid=""),
        b"call=publish&clientid=1&app=live&name=%FF%FE",
        b"call=publish",
    ],
)
async def test_names_that_no_reader_can_ask_for_are_refused(body: bytes, tmp_path: Path) -> None:
    """A stream that could be published and never be seen is not let in."""
    answer = await _server(tmp_path).answer_hook(body)
    assert answer == HookAnswer(403, HookOutcome.UNREADABLE)


@given(st.binary(max_size=400))
async def test_the_hook_answers_whatever_it_is_asked(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """No body raises or hangs."""
    answer = await asyncio.wait_for(_server(tmp_path_factory.getbasetemp()).answer_hook(body), 30)
    assert answer.status in (200, 403, 413)


async def test_other_applications_are_none_of_our_business(tmp_path: Path) -> None:
    """With `apps` set the others are let in and not watched."""
    server = _server(tmp_path, apps=["live"])
    assert (await server.answer_hook(_form("x", app="vod"))).outcome is HookOutcome.TOLD
    assert server._board.current() == []
    assert (await server.answer_hook(_form("x"))).outcome is HookOutcome.LET_IN
    assert [p.key.name for p in server._board.current()] == ["x"]


async def test_a_denied_key_is_answered_from_memory(tmp_path: Path) -> None:
    """Over the whole HTTP side, half of the refusals take under 20 ms and none waits for a reader."""
    server = _server(tmp_path, hook_deadline="5s")
    await server.revoke(StreamKey(server.name, "live", "k+1"))
    nginx = Nginx(tmp_path, 0, 0, free_port())
    metrics = Metrics()
    times = []
    async with hook_server(nginx, server, metrics), httpx.AsyncClient(trust_env=False) as client:
        for _ in range(20):
            started_at = time.perf_counter()
            answer = await client.post(_address(nginx), content=_form("k+1"))
            times.append(time.perf_counter() - started_at)
            assert (answer.status_code, answer.content) == (403, b"")
    assert min(times) < 0.02
    assert sorted(times)[10] < 0.2
    assert metrics.value("stopframe_hook_seconds_count", outcome="denied") == 20


async def test_the_hook_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    """A wrong secret, another server's name or another method find nothing; a body without end is refused unread."""
    nginx = Nginx(tmp_path, 0, 0, free_port())
    async with hook_server(nginx, _server(tmp_path)), httpx.AsyncClient(trust_env=False) as client:
        right = _address(nginx)
        for wrong in (right.replace("5ec0", "5ec1", 1), right.replace("nginx-rtmp", "mediamtx"), right + "/x"):
            answer = await client.post(wrong, content=_form("secret-name"))
            assert answer.status_code == 404
            assert "secret" not in answer.text
        assert (await client.post(right.replace(nginx.secret, "%FF"), content=b"")).status_code == 404
        assert (await client.get(right)).status_code == 405
        assert (await client.post(right, content=b"a" * (BODY_LIMIT_BYTES + 1))).status_code == 413
        assert (await client.post(right, content=_form("x"))).status_code == 200


def _address(nginx: Nginx) -> str:
    return f"http://127.0.0.1:{nginx.hook_port}/hook/{nginx.secret}/nginx-rtmp"


@pytest.mark.parametrize("name", ["plain", "x y", "a/b.mp4", "v.flv", "k+1", "ü&=#?%41"])
def test_a_reader_asks_for_exactly_the_key(name: str, tmp_path: Path) -> None:
    """The stream key reaches libav as it is, whatever libav would make of it in a path."""
    server = _server(tmp_path, rtmp="rtmp://127.0.0.1:1935")
    url, options = _exact_rtmp(server.reader_source(_key(name))[1])
    assert url == "rtmp://127.0.0.1:1935/"
    assert options["rtmp_app"] == "live"
    played, _, argument = options["rtmp_playpath"].rpartition("?")
    assert (played, argument.partition("=")[0]) == (name, "stopframe")
    assert _exact_rtmp("rtmp://h/live/key?token=x") == ("rtmp://h/live/key?token=x", {})


@pytest.mark.parametrize("text", ["http://h:1/stat", "https://[::1]:8080/a/b"])
def test_a_page_is_written_as_it_is_read(text: str) -> None:
    """The parsed form prints what was written."""
    assert str(EndpointUrl.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "h:1/stat", "http://h/stat", "http://u:p@h:1/s", "http://h:1/s?x=1", "ftp://h:1/s"]
)
def test_what_is_no_page_is_said_without_repeating_it(text: str) -> None:
    """One sentence with the remedy."""
    with pytest.raises(ValueError, match="write http://HOST:PORT/PATH") as caught:
        EndpointUrl.parse(text)
    assert "u:p" not in str(caught.value)


async def _cpu_of_a_viewers_question(folder: Path, publishers: int) -> float:
    """CPU seconds that the answer to one viewer takes, with so many publishers live and held."""
    server = _server(folder / str(publishers))
    server.viewers = hold = Hold(HoldSettings(samples=3), lambda _: "id")
    for number in range(publishers):
        entry = server._roll.published(str(number), StreamKey(server.name, "live", f"k{number}"), "", 1.0)
        hold.begin(entry.publisher.key, entry.publisher.connection)
    took = []
    for number in range(200):
        body = _form(f"k{number % publishers}", call="play", clientid=f"{10_000 + number}")
        begun_at = time.process_time()
        assert (await server.answer_hook(body)).outcome is HookOutcome.HELD
        took.append(time.process_time() - begun_at)
    return statistics.median(took)  # a collection of garbage is nobody's fault


async def test_viewers_are_answered_from_memory_however_many_publish(tmp_path: Path) -> None:
    """Far below the 20 ms that a hook may take, and no dearer for 5,000 publishers than for 10."""
    few, many = [await _cpu_of_a_viewers_question(tmp_path, count) for count in (10, 5000)]
    assert many < 0.002
    assert many < 5 * few


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans()), max_size=40))
def test_publishers_are_found_by_their_key_as_by_looking_through_all(steps: list[tuple[int, str, bool]]) -> None:
    """Whoever comes, changes and leaves, the quick way and the slow one find the same."""
    roll = Roll("n", 3.0)
    for at, (clientid, name, leaves) in enumerate(steps):
        if leaves:
            roll.remove(str(clientid))
        else:
            roll.updated(str(clientid), _key(name), "", float(at))
        for each in "abc":
            assert roll.of(_key(each)) == [e for e in roll.entries.values() if e.publisher.key == _key(each)]


async def test_a_hold_that_holds_nobody_is_told(tmp_path: Path) -> None:
    """Where nginx never asks about our own reader it asks about no viewer: health says so, and what to set."""
    now = 100.0
    revocations = Revocations(FileRevocations(tmp_path / "revoked"), lambda key: key.name)
    server = NginxRtmp(NginxRtmpSettings.model_validate({"hook_deadline": "0s"}), revocations, clock=lambda: now)
    assert (await server.answer_hook(_form("key"))).outcome is HookOutcome.LET_IN
    now += 60.0
    await server.answer_hook(_form("key", call="update_publish"))
    assert server.problems() == [], "nobody is to be held"
    server.viewers = Hold(HoldSettings(samples=1), lambda _: "id")
    assert [told.endswith("set on_play in nginx.conf") for told in server.problems()] == [True]
    play = dict(parse_qsl(server.reader_source(StreamKey(server.name, "live", "key"))[1].partition("?")[2]))["playpath"]
    name, _, argument = play.partition("?")
    assert (await server.answer_hook(_form(name, call="play") + b"&" + argument.encode())).outcome is HookOutcome.TOLD
    assert server.problems() == []


async def test_after_a_restart_of_nginx_nobody_is_taken_for_who_was_in_quarantine(tmp_path: Path) -> None:
    """A client's number comes again then: whoever publishes under it now is told of, and stays watched by updates."""
    server = _server(tmp_path, quarantine="jail")
    await server.revoke(StreamKey(server.name, "live", "bad"))
    sent_away = await server.answer_hook(_form("bad"))
    assert isinstance(sent_away, HookAnswer)
    assert (sent_away.status, sent_away.location) == (302, "jail-5")
    for call in ("publish", "update_publish"):
        answer = await server.answer_hook(_form("good", call=call))
        assert isinstance(answer, HookAnswer)
        assert answer.status == 200
    listed = StatPublisher("live", "good", "5", "")
    assert server._is_ours(listed)
    assert [publisher.key.name for publisher in server._board.current()] == ["good"]

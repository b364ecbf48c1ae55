"""The webhook: what receivers check, what its answers mean, and that nothing secret is said of it."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Iterator

import pytest
import structlog.testing

from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.alerts.webhook import WebhookSettings, WebhookSink, signature
from tests.fixtures_endpoint import SECRET, Endpoint
from tests.fixtures_web import MakeAuthority


def _notice(payload: bytes = b'{"a":1}') -> Notice:
    return Notice("id-1", "S", True, payload, int(time.time() * 1000) + 60_000, 1.0)


def _sink(endpoint: Endpoint, *, ca_file: str | None = None, seconds: float = 5.0) -> WebhookSink:
    url = endpoint.url
    return WebhookSink(WebhookSettings(url=url, secret=lambda: SECRET, ca_file=ca_file, timeout_seconds=seconds))


@pytest.fixture(autouse=True)
def _nothing_secret_is_said() -> Iterator[None]:
    with structlog.testing.capture_logs() as logged:
        yield
    assert SECRET not in str(logged)
    assert "path-secret" not in str(logged)


async def test_the_signature_is_what_receivers_know() -> None:
    """HMAC-SHA256 over the seconds, a dot and the body as sent, in the header with the seconds."""
    async with Endpoint() as endpoint, _sink(endpoint) as sink:
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        head, body = endpoint.heads[0], endpoint.bodies[0]
        fields = dict(part.split("=") for part in head["stopframe-signature"].split(","))
        expected = hmac.new(SECRET.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(fields["v1"], expected)
        assert abs(int(fields["t"]) - time.time()) < 60
        assert (head["stopframe-alert"], head["content-type"]) == ("id-1", "application/json")

    assert signature("s", 1, b"x") != signature("s", 2, b"x") != signature("s", 2, b"y")


@pytest.mark.parametrize(
    ("status", "receipt"),
    [
        *((status, Receipt.ACCEPTED) for status in (200, 202)),
        *((status, Receipt.NOT_AUTHORIZED) for status in (401, 403)),
        *((status, Receipt.REFUSED) for status in (302, 404)),
        *((status, None) for status in (429, 500, 503)),
    ],
)
async def test_only_2xx_is_accepted(status: int, receipt: Receipt | None) -> None:
    """Every other status is sent again, and health says what to do in one sentence that names the host alone."""
    async with Endpoint(status=status, headers=("Location: http://127.0.0.1:1/elsewhere",)) as endpoint:
        async with _sink(endpoint) as sink:
            try:
                said = await sink.deliver(_notice())
            except SinkUnavailable:
                said = None
            assert said is receipt
            assert bool(sink.problems()) == (receipt is not Receipt.ACCEPTED)
            for problem in sink.problems():
                assert str(status) in problem
                assert "path-secret" not in problem
        assert len(endpoint.targets) == 1


async def test_an_endpoint_that_hangs_is_given_up_and_one_that_is_back_is_reached() -> None:
    """No answer in time raises by name; the problem goes with the first success."""
    async with Endpoint(pause=30.0) as endpoint, _sink(endpoint, seconds=0.2) as sink:
        with pytest.raises(SinkUnavailable):
            await sink.deliver(_notice())
        assert "0.2 s" in sink.problems()[0]
        endpoint.pause = 0.0
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        assert sink.problems() == []


async def test_tls_is_always_verified(make_authority: MakeAuthority) -> None:
    """A certificate that no trusted authority issued is refused; the named authority's is taken."""
    authority = make_authority("IP:127.0.0.1")
    async with Endpoint(tls=authority.server()) as endpoint:
        async with _sink(endpoint) as sink:
            with pytest.raises(SinkUnavailable):
                await sink.deliver(_notice())
            assert "certificate" in sink.problems()[0]
        async with _sink(endpoint, ca_file=str(authority.ca_file)) as sink:
            assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        async with _sink(endpoint, ca_file="/nowhere/ca.pem") as sink:
            with pytest.raises(SinkUnavailable):
                await sink.deliver(_notice())
            assert "alerts.webhook.ca_file" in sink.problems()[0]
    assert len(endpoint.bodies) == 1


async def test_an_answers_body_is_heard_up_to_its_bound() -> None:
    """An acknowledgement in the body is handed on; a flood is not read."""
    heard: list[bytes] = []
    async with Endpoint(body=b'{"state":"cut"}') as endpoint, _sink(endpoint) as sink:
        sink.hear = lambda _notice, body: heard.append(body)
        await sink.deliver(_notice())
        endpoint.body = b"x" * 100_000
        async with asyncio.timeout(30):
            assert await sink.deliver(_notice()) is Receipt.ACCEPTED
    assert heard == [b'{"state":"cut"}']

"""Secrets in force never stand in a text that is shown, however they are written there, and looking costs little."""

import base64
import json
import re
import secrets
import time
import timeit
from html import escape
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.redaction import (
    Secrets,
    hide_secret,
    hide_stream_key,
    hide_url,
    printable,
    without_secrets,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(before=TEXTS, after=TEXTS, secret=st.text(st.characters(codec="utf-8"), min_size=6, max_size=60))
def test_a_secret_is_found_wherever_it_begins(before: str, after: str, secret: str) -> None:
    """As it stands, percent-encoded, as Python, JSON or XML show it: nothing of a secret in force is left in a text."""
    hide_secret(secret)
    encoded = secret.encode()
    urls = (quote(encoded, safe=""), quote(encoded), quote_plus(encoded))
    sources = (ascii(secret)[1:-1], repr(encoded)[2:-1], json.dumps(secret)[1:-1])
    pages = (json.dumps(secret, ensure_ascii=False)[1:-1], escape(secret), encoded.decode("latin-1"))
    for written in (secret, *urls, *sources, *pages):
        assert written not in without_secrets(f"{before} {written} {after}").replace("***", "\0")


@given(user=st.text(st.characters(codec="ascii"), max_size=9), size=st.integers(12, 40))
def test_a_secret_is_found_in_base64(user: str, size: int) -> None:
    """Basic authorization hides a password behind any user name; what is left tells at most its edges."""
    secret = secrets.token_urlsafe(40)[:size]
    hide_secret(secret)

    header = base64.b64encode(f"{user}:{secret}".encode()).decode()

    left = without_secrets(f"Authorization: Basic {header}")
    assert "***" in left
    assert len(left) < len("Authorization: Basic ") + len(base64.b64encode(f"{user}:".encode())) + 12


@given(st.lists(st.text("ab", min_size=6, max_size=12), max_size=30), st.text("ab", max_size=60))
def test_spans_are_those_of_a_plain_search(values: list[str], text: str) -> None:
    """The pieces that are looked up miss no value that a plain search finds, and find nothing else."""
    known = Secrets(limit=8, shortest=6)
    known.add(values)
    kept = list(dict.fromkeys(reversed(values)))[:8]

    plain = {(m.start(), m.start() + len(v)) for v in kept for m in re.finditer(f"(?={v})", text)}

    assert set(known.spans(text, len(text))) == plain
    assert len(known) == len(kept)


def test_what_was_forgotten_leaves_nothing_behind() -> None:
    """The oldest values give way and take their index with them: memory is bounded whoever comes and goes."""
    known = Secrets(limit=10, shortest=6)
    known.add(f"value-{number}" for number in range(1000))
    first = sum(len(places) for places in known._lengths.values())
    known.add(f"other-{number}" for number in range(1000))

    assert len(known) == 10
    assert sum(len(places) for places in known._lengths.values()) <= first + 10
    assert known.spans("value-999", 9) == []


def test_parts_of_a_url_are_secret() -> None:
    """User, password, path, query and their parts are hidden, alone and together; the host is not."""
    hide_url("http://0perator:c0rrect%20horse@cdn.example.org:8080/live/k3y-of-someone.ts?token=t0ken%2Fend&n=1")

    for text in ("0perator", "c0rrect horse", "c0rrect%20horse", "k3y-of-someone", "t0ken/end", "t0ken%2Fend"):
        assert without_secrets(f"GET {text} HTTP") == "GET *** HTTP"
    assert without_secrets("cdn.example.org:8080 is down") == "cdn.example.org:8080 is down"
    assert without_secrets("rtmp://someone:else@192.0.2.1/x") == "rtmp://***@192.0.2.1/x"


def test_a_scheme_and_a_host_are_no_secret() -> None:
    """A sentence can say which server does not answer, with or without the slash in the config."""
    for url in ("https://hma.partner.example", "http://192.0.2.10:8080/"):
        hide_url(url)
        assert without_secrets(f"{url}: nobody answers there") == f"{url}: nobody answers there"
    hide_url("http://192.0.2.10:8080?t0ken-of-ours")
    assert without_secrets("GET t0ken-of-ours") == "GET ***"


def test_plain_words_of_a_url_stay_in_other_sentences() -> None:
    """`stream`, `admin` or `default` in a source's URL blank no other text; its own are hidden all the same."""
    url = "http://operator:c0rrect-h0rse@cdn.example:80/streaming/playlist.m3u8?profile=default"
    hide_url(url)
    hide_url("http://cam.example/stream")

    for text in ("stopframe/streams/x", "the operator's streaming by default", "no playlist came"):
        assert without_secrets(text) == text
    for text in (url, "/streaming/playlist.m3u8", "operator:c0rrect-h0rse", "c0rrect-h0rse", "profile=default"):
        assert without_secrets(f"GET {text}") in {"GET ***", "GET http://***@***"}


def test_publishers_cannot_make_a_line_dear() -> None:
    """Names that begin alike and differ in length cost a text of theirs next to nothing: the rest of it is hidden."""
    for number in range(16, 1016):
        hide_stream_key("live", "a" * number)
    hide_secret("Sw0rdfish-and-more")
    started_at = time.process_time()

    shown = without_secrets("the server said: " + "a" * 5000 + " Sw0rdfish-and-more", 500)

    assert time.process_time() - started_at < 1.0
    assert shown.startswith("the server said: ***")
    assert "Sw0rd" not in shown
    assert without_secrets("the server said: nothing") == "the server said: nothing"


def test_a_publisher_takes_no_word_out_of_our_sentences() -> None:
    """A key that is a plain word is hidden with its app alone; one that looks like a key is hidden by itself."""
    hide_stream_key("live", "connection")
    hide_stream_key("live", "4f9a8b7c6d5e")

    assert without_secrets("the connection to the broker broke") == "the connection to the broker broke"
    assert without_secrets("GET /live/connection") == "GET /***"
    assert without_secrets("no such file: 4f9a8b7c6d5e.flv") == "no such file: ***.flv"


@given(TEXTS, st.integers(0, 50))
def test_a_limit_never_cuts_a_secret_open(before: str, limit: int) -> None:
    """What begins within the limit is hidden whole, and no more of the text is shown than the limit says."""
    secret = "Sw0rdfish-and-more"
    hide_secret(secret)

    shown = without_secrets(before + secret * 3, limit)

    assert not any(secret[:n] in shown.partition("... (")[0] for n in (6, 10)) or secret[:6] in before


@pytest.mark.parametrize("hostile", ["\n", "\r", "\x1b[2J", "\x9b31m", "\u2028", "\u202e", "\u2066", "\0", "\udcff"])
def test_nothing_moves_a_cursor(hostile: str) -> None:
    """Control characters, line separators, bidi marks and half characters are escaped; letters of any script stay."""
    shown = printable(f"Ünï 日本 {hostile}end")

    assert shown.isprintable()
    assert shown.startswith("Ünï 日本 \\")


def test_a_thousand_live_keys_cost_next_to_nothing() -> None:
    """The cost of a line depends on its length: a thousand keys that all begin alike do not make it slow."""
    text = "the reader lost its stream: the ingest server closed the connection while it waited"
    hide_secret(secrets.token_hex(16))
    few = min(timeit.repeat(lambda: without_secrets(text), number=500, repeat=5)) / 500
    for number in range(1000):
        hide_stream_key("live", f"stream_{number:04d}_{secrets.token_hex(8)}")

    many = min(timeit.repeat(lambda: without_secrets(text), number=500, repeat=5)) / 500

    assert many < 20e-6 or many < 4 * few

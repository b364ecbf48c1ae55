"""Damaged lists: valid files of every format, cut, flipped, nested, swollen and spelled otherwise. Seeded."""

import io
import random
from collections.abc import Callable

import numpy as np

from models.bank_rows import OPINION_CODES
from models.lists.contents import ListContents, ListedRows
from models.lists.registry import FORMATS

Mutation = Callable[[bytes, random.Random], bytes]

_LAUGHS = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">%s]><queryResult><images><image><id>&z9;</id>'
_ENTITIES = b"".join(
    b'<!ENTITY z%d "%s">' % (level, b"&z%d;" % (level - 1) * 10 if level else b"&a;" * 10) for level in range(10)
)
_BOMBS = (
    b'{"data":[' + b'{"id":' * 5_000,
    b"[" * 100_000,
    b'{"a":[' * 30_000,
    b"<image>" * 5_000,
    b"<queryResult><images><image>" + b"<fingerprints>" * 5_000,
    b"<image><![CDATA[" * 3_000,
    _LAUGHS % _ENTITIES,
    b'<!DOCTYPE q SYSTEM "file:///etc/passwd"><q>&x;</q>',
    b'"' * 50_001,
    b'{"id": ' + b"9" * 20_000 + b', "indicator": "", "type": "HASH_PDQ", "descriptors": []}',
    b'{"id": 1e999999, "should_delete": true}, {"id": "1", "should_delete": true, "last_updated": Infinity}',
    b'{"results": [{"id": NaN, "deleted": true}, {"id": -0, "deleted": 1e400, "algorithm": "PDQ"}]}',
    b'{"id": "\\ud800", "should_delete": true}',
    b'{"id": "a", "id": "b", "should_delete": false, "should_delete": true}',
    b'["' + b"f" * 64 + b',1e9999,NaN"]\n["' + b"0" * 64 + b',100,99999999999.0"]',
    b"0,100," + b"0" * 64 + b",-1\n" + b"1" * 5_000 + b",100," + b"0" * 64 + b",0.0",
    b"hash,hash,entry,window\n" + b"0" * 64 + b"," + b"1" * 64 + b",\xe2\x80\xae,2\n",
    b'hash,entry\n"' + b"x\n" * 200 + b"0" * 64 + b",a\n",
)


def seeds() -> dict[str, bytes]:
    """A small valid file of each format."""
    rng = np.random.default_rng(3)
    rows = ListedRows(
        rng.integers(0, 256, (12, 32), dtype=np.uint8),
        np.arange(12),
        [f"4{number}-clip, {number % 5}" for number in range(12)],
        np.array([OPINION_CODES.index(OPINION_CODES[2 + number % 2]) for number in range(12)], dtype=np.uint8),
        np.arange(12, dtype=np.int32) * 500,
    )
    contents = ListContents({"pdq": rows}, withdrawn=["7-gone", "ImagePDQ:" + "a" * 64], as_of_seconds=1.7e9)
    found = {}
    for name, form in FORMATS.items():
        file = io.BytesIO()
        form.write(file, contents)
        found[name] = file.getvalue()
    return found


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 12)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    pieces = [
        rng.randbytes(rng.randrange(1, 40)),
        b"\x00" * 9,
        b'"',
        b"<",
        b"&",
        b"]]>",
        b"\\",
        b"{",
        b"}",
        b"]",
        b"\n",
    ]
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(pieces) * rng.choice([1, 1, 3]) + content[place:]


def _bomb(content: bytes, rng: random.Random) -> bytes:
    place = rng.choice([0, len(content), rng.randrange(len(content) + 1)])
    return content[:place] + rng.choice(_BOMBS) + content[place:]


def _swap(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines[: rng.randrange(1, len(lines) + 1)] * rng.choice([1, 2]))


def _number(content: bytes, rng: random.Random) -> bytes:
    words = [
        b"-1",
        b"1" * 400,
        b"1" * 5_000,
        b"NaN",
        b"Infinity",
        b"1e309",
        b"null",
        b"true",
        b'"x"',
        b"[]",
        b"{}",
        b"0x1",
    ]
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = rng.choice(places) if places else 0
    return content[:place] + rng.choice(words) + content[place + 1 :]


def _respell(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    spelled = {
        "utf-16": lambda: text.encode("utf-16"),
        "utf-32": lambda: text.encode("utf-32"),
        "bom": lambda: b"\xef\xbb\xbf" + content,
        "latin": lambda: content.replace(b"UTF-8", b"ISO-8859-1").replace(b"clip", b"cl\xefp"),
        "unknown": lambda: content.replace(b"UTF-8", rng.choice([b"UTF-7", b"x", b"EBCDIC", b"UTF-16", b"\xff"])),
        "cr": lambda: content.replace(b"\n", b"\r"),
        "upper": content.upper,
    }
    return spelled[rng.choice(sorted(spelled))]()


def _splice(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[begin:end] * rng.choice([1, 1, 5]) + content[place:]


_MUTATIONS: tuple[Mutation, ...] = (_cut, _flip, _flip, _insert, _insert, _bomb, _swap, _number, _respell, _splice)


def damaged(name: str, number: int, valid: dict[str, bytes]) -> bytes:
    """The file `number` of a format: one to three mutations of a valid one, now and then of another format's."""
    rng = random.Random(f"lists {name} {number}")
    content = valid[name] if rng.random() < 0.95 else valid[rng.choice(sorted(valid))]
    for _ in range(rng.choice([1, 1, 2, 3])):
        content = rng.choice(_MUTATIONS)(content, rng) if content else b""
    return content

"""Messages that nobody may act on: forged and replayed alerts, acknowledgements and commands, in every way we know."""

import base64
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from detector.trust.signing import Signer

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group that Ed25519 signs in (RFC 8032, section 5.1): S + ORDER would be another spelling of a signature."""

Forge = Callable[[dict[str, Any], random.Random], bytes]


def forged(genuine: dict[str, Any], count: int, *, stranger: Signer, seed: int = 20) -> Iterator[tuple[str, bytes]]:
    """Forgeries of a signed message, each way in turn, with the name of the way."""
    draw = random.Random(seed)
    ways = _ways(stranger)
    for number in range(count):
        name, forge = ways[number % len(ways)]
        yield name, forge(json.loads(json.dumps(genuine)), draw)


def _ways(stranger: Signer) -> list[tuple[str, Forge]]:
    return [
        ("altered field", _altered),
        ("added field", lambda m, d: _dump(m | {f"x{d.randrange(9)}": d.random()})),
        ("removed field", lambda m, d: _dump(_without(m, d.choice([k for k in m if k not in {"sig", "key_id"}])))),
        ("no signature", lambda m, _: _dump(_without(m, "sig"))),
        ("no key", lambda m, _: _dump(_without(m, "key_id"))),
        ("null signature", lambda m, _: _dump(m | {"sig": None})),
        ("random signature", lambda m, d: _dump(m | {"sig": _text(d.randbytes(64))})),
        ("short signature", lambda m, d: _dump(m | {"sig": _text(d.randbytes(d.randrange(64)))})),
        ("padded signature", lambda m, _: _dump(m | {"sig": m["sig"] + "=="})),
        ("second spelling of base64", lambda m, _: _dump(m | {"sig": m["sig"][:-1] + _next(m["sig"][-1])})),
        ("S beyond the order", _beyond_the_order),
        ("stranger's key", lambda m, _: _dump(stranger.sign(m))),
        ("stranger's signature, our key id", lambda m, _: _dump(stranger.sign(m) | {"key_id": m["key_id"]})),
        ("our signature, stranger's key id", lambda m, _: _dump(m | {"key_id": stranger.key_id})),
        ("key id in other digits", lambda m, _: _dump(m | {"key_id": "".join(map(_wide, m["key_id"]))})),
        ("key id in capitals", lambda m, _: _dump(m | {"key_id": m["key_id"].upper() + "0"})),
        ("other canonical form", lambda m, _: _dump(_signed_otherwise(m, stranger))),
        ("name twice, ours last", lambda m, _: b'{"node":"other","stream":"other",' + _dump(m)[1:]),
        ("name twice, ours first", lambda m, _: _dump(m)[:-1] + b',"node":"other","stream":"other"}'),
        ("name twice by an escape", lambda m, _: _dump(m)[:-1] + b',"\\u0073chema":"other"}'),
        ("invisible character", lambda m, d: _dump(m | {_string(m, d): m[_string(m, d)] + "\u200b"})),
        ("look-alike letter", lambda m, _: _dump(m | {"schema": m["schema"].replace("o", "\u043e")})),
        ("other normal form", lambda m, _: _dump(m | {"by": unicodedata.normalize("NFD", "caf\u00e9")})),
        ("half a character", lambda m, _: _dump(m)[:-1] + b',"x":"\\ud800"}'),
        ("not UTF-8", lambda m, _: _dump(m).replace(b"stopframe", b"stopfr\xe1me", 1)),
        ("UTF-16", lambda m, _: _dump(m).decode().encode("utf-16")),
        ("byte order mark", lambda m, _: b"\xef\xbb\xbf" + _dump(m) + b"x"),
        ("NaN", lambda m, _: _dump(m)[:-1] + b',"x":NaN}'),
        ("infinite", lambda m, _: _dump(m)[:-1] + b',"x":1e999}'),
        ("long number", lambda m, _: _dump(m)[:-1] + b',"x":' + b"9" * 2000 + b"}"),
        ("deep", lambda m, _: _dump(m)[:-1] + b',"x":' + b"[" * 900 + b"]" * 900 + b"}"),
        ("unclosed", lambda m, _: b'{"x":' * 600),
        ("a megabyte", lambda m, _: _dump(m)[:-1] + b',"x":"' + b"y" * 1_000_000 + b'"}'),
        ("two in one", lambda m, _: _dump(m) + _dump(m)),
        ("in a list", lambda m, _: b"[" + _dump(m) + b"]"),
        ("cut short", lambda m, d: _dump(m)[: d.randrange(len(_dump(m)))]),
        ("flipped bit", _flipped),
    ]


def _altered(message: dict[str, Any], draw: random.Random) -> bytes:
    name = draw.choice([each for each in message if each not in {"sig", "key_id"}])
    value = message[name]
    if isinstance(value, bool) or value is None:
        message[name] = "x"
    elif isinstance(value, (int, float)):
        message[name] = value + draw.randrange(1, 1000)
    elif isinstance(value, str):
        place = draw.randrange(len(value))
        message[name] = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
    else:
        message[name] = {"stream": "B" * 26}
    return _dump(message)


def _flipped(message: dict[str, Any], draw: random.Random) -> bytes:
    raw = bytearray(_dump(message))
    raw[draw.randrange(1, len(raw) - 1)] ^= 1 << draw.randrange(7)
    return bytes(raw)


def _beyond_the_order(message: dict[str, Any], _: random.Random) -> bytes:
    raw = base64.urlsafe_b64decode(message["sig"] + "==")
    beyond = int.from_bytes(raw[32:], "little") + ORDER
    return _dump(message | {"sig": _text(raw[:32] + beyond.to_bytes(32, "little"))})


def _signed_otherwise(message: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """As somebody signs who takes sorted JSON with spaces for the canonical form."""
    bare = _without(message, "sig")
    signature = signer._private.sign(json.dumps(bare, sort_keys=True).encode())
    return bare | {"sig": _text(signature)}


def _string(message: dict[str, Any], _: random.Random) -> str:
    return next(name for name, value in message.items() if isinstance(value, str) and name != "sig")


def _without(message: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in message.items() if each != name}


def _wide(digit: str) -> str:
    return chr(ord(digit) - ord("0") + 0xFF10) if digit.isdigit() else digit


def _next(character: str) -> str:
    """The same last bits of a signature, and spare ones that differ: the four spellings of one value."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) ^ 1]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _dump(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")

"""Which of an HLS master playlist's variants is looked at, and the master playlist without the others.

A transcoder's renditions show the same picture in several sizes: one is enough, and the smallest is the cheapest. The
reader is handed a playlist that names nothing else (RFC 8216, section 4.3.4), so the others are never asked for.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urljoin, urlsplit

from streams.address import Place
from streams.frame import MAX_SIDE, PICTURE_SIDE

MAX_VARIANTS = 64
"""So many are chosen from; the variants after them are left out."""

_CONSIDERED_BYTES = 128 * 1024
"""What a playlist has beyond that is left out, too: it is read where the service waits for all streams."""

_LINE_BYTES = 4096
"""Libav's demuxer reads no more of a line."""

_SHUNNED_SECONDS = 60.0
"""So long a rendition whose reader ended is chosen only where all others ended later."""

_CODECS = ("avc1", "avc3", "hvc1", "hev1", "dvh1", "dvhe", "av01", "vp08", "vp09", "vp8", "vp9")
"""How a decodable codec is called in CODECS (RFC 6381)."""

_MARK = b"#EXT-X-STREAM-INF:"
_ATTRIBUTE = re.compile(r'(?<![A-Z0-9-])([A-Z0-9-]+)=("[^"\r\n]*"|[^",\s]+)')
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant as its playlist has it: `width` and `height` are 0 where it does not say.

    `lines` are where its tag and its URI stand.
    """

    uri: str
    width: int
    height: int
    bandwidth: int
    is_video: bool
    lines: tuple[int, int]
    video_group: str

    @property
    def identity(self) -> tuple[int, int, int]:
        """What stays the same when the playlist is read anew; its URI may hold a session's number."""
        return self.lines[0], self.width, self.height

    @property
    def shown(self) -> str:
        """For operators: its size, or its bit rate."""
        return f"{self.width}x{self.height}" if self.width else f"{self.bandwidth // 1000} kbit/s"


class Renditions:
    """The choice for one source, over all its readers: the lowest usable rendition that did not fail of late.

    Usable is what has a codec that can be decoded and is on the source's own server. The one with the fewest pixels is
    taken among those with at least `PICTURE_SIDE` on the shorter side, which is what analysis gets: a smaller one would
    be blown up to it. Where none is so large, the largest is taken. Those that do not say how large they are come
    last, by their bandwidth.

    `shown` says in words what was chosen, empty where nothing had to be; `switches` counts changes of the choice.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = ""
        self.switches = 0
        self._clock = clock
        self._usable: list[Variant] = []
        self._chosen: Variant | None = None
        self._failed_at: dict[tuple[int, int, int], float] = {}

    @property
    def has_another(self) -> bool:
        """Whether there is one that was not tried of late, beside the chosen one."""
        return any(one != self._chosen and not self._is_shunned(one) for one in self._usable)

    def failed(self) -> None:
        """Nothing came of what was chosen: its reader ended, or could see nothing. The next choice is another."""
        if self._chosen is not None:
            self._failed_at[self._chosen.identity] = self._clock()

    def lowest_of(self, playlist: bytes, place: Place, path: str) -> bytes:
        """Return the playlist that came from `path` of `place` with one variant; as it is if it offers none."""
        if _MARK not in playlist:
            return playlist
        considered = playlist
        if len(playlist) > _CONSIDERED_BYTES:
            considered = playlist[:_CONSIDERED_BYTES].rpartition(b"\n")[0]
        lines = considered.splitlines()
        base = urljoin(place.url_at(place.host, place.port), path)
        usable = [one for one in _variants(lines) if one.is_video and _is_own(base, one.uri, place)]
        if not usable:
            return playlist
        return b"\n".join(_without_others(lines, self._choose(usable))) + b"\n"

    def _choose(self, usable: list[Variant]) -> Variant:
        known = {one.identity for one in usable}
        self._failed_at = {identity: at for identity, at in self._failed_at.items() if identity in known}
        chosen = min(
            usable, key=lambda one: (self._failed_at[one.identity] if self._is_shunned(one) else -math.inf, _cost(one))
        )
        self.switches += self._chosen is not None and self._chosen.identity != chosen.identity
        self._usable, self._chosen = usable, chosen
        self.shown = f"{chosen.shown} of {len(usable)}"
        return chosen

    def _is_shunned(self, variant: Variant) -> bool:
        return self._clock() - self._failed_at.get(variant.identity, -math.inf) < _SHUNNED_SECONDS


def _cost(variant: Variant) -> tuple[int, int, int]:
    pixels = variant.width * variant.height
    if not pixels:
        return 2, variant.bandwidth, 0
    if min(variant.width, variant.height) < PICTURE_SIDE:
        return 1, -pixels, variant.bandwidth
    return 0, pixels, variant.bandwidth


def _variants(lines: list[bytes]) -> list[Variant]:
    """The variants, each named once: the next line that is no tag or comment is its URI."""
    found: dict[str, Variant] = {}
    marks = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    for mark, following in pairwise([*marks[:MAX_VARIANTS], len(lines)]):
        for number in range(mark + 1, following):
            uri = lines[number].decode("utf-8", "replace").strip()
            if uri and not uri.startswith("#"):
                variant = _variant(lines[mark], uri, (mark, number))
                found.setdefault(uri, variant)
                break
    return list(found.values())


def _variant(line: bytes, uri: str, lines: tuple[int, int]) -> Variant:
    claims = _claims(line)
    size = _SIZE.fullmatch(claims.get("RESOLUTION", ""))
    width, height = (int(size[1]), int(size[2])) if size else (0, 0)
    if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE:
        width = height = 0
    bandwidth = claims.get("BANDWIDTH", "")
    codecs = [one.strip().lower() for one in claims.get("CODECS", "").split(",") if one.strip()]
    return Variant(
        uri=uri,
        width=width,
        height=height,
        bandwidth=int(bandwidth[:12]) if bandwidth.isascii() and bandwidth.isdecimal() else 0,
        # Who does not say may well have video; sound alone says so.
        is_video=not codecs or any(one.startswith(_CODECS) for one in codecs),
        lines=lines,
        video_group=claims.get("VIDEO", ""),
    )


def _claims(line: bytes) -> dict[str, str]:
    """The attributes of a tag."""
    text = line[:_LINE_BYTES].decode("utf-8", "replace")
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(text)}


def _without_others(lines: list[bytes], chosen: Variant) -> list[bytes]:
    """The lines without other variants, and without alternative sound and subtitles, which nobody looks at.

    Other pictures that belong to the chosen one (EXT-X-MEDIA of type VIDEO: camera angles) stay, and are looked at.
    """
    kept = []
    for number, line in enumerate(lines):
        if line.startswith(b"#EXT-X-MEDIA:"):
            claims = _claims(line)
            is_kept = claims.get("TYPE") == "VIDEO" and claims.get("GROUP-ID") == chosen.video_group
        else:
            is_kept = line.startswith(b"#") and not line.startswith((_MARK, b"#EXT-X-I-FRAME-STREAM-INF:"))
        if is_kept or number in chosen.lines:
            kept.append(line)
    return kept


def _is_own(base: str, uri: str, place: Place) -> bool:
    """Whether the gate would let a request for it pass; what was https there is http by then."""
    try:
        parts = urlsplit(urljoin(base, uri))
        port = parts.port or 80
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname == place.host.lower() and port == place.port

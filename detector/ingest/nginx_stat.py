"""The `rtmp_stat` page of nginx-rtmp: who publishes, told by a stranger's XML that is read without trust.

Format: `ngx_rtmp_stat_module.c` of github.com/arut/nginx-rtmp-module. Every byte of a name that is not printable ASCII
stands there as a space, so a name with spaces may be another one: `is_exact` is False for it.
"""

from dataclasses import dataclass, field
from xml.parsers import expat

_NAME_BYTES = 255
STAT_LIMIT_BYTES = 32 * 1024 * 1024
"""Longest page that is read: about 700 bytes a client."""

_PRINTABLE = bytes(byte if byte in b"\n\t" or 0x20 <= byte < 0x7F else 0x20 for byte in range(256))
_DEPTH = 32


class BadStat(ValueError):
    """A page that is no `rtmp_stat` page. Raised by `parse_stat`; one sentence."""


@dataclass(frozen=True, slots=True)
class StatPublisher:
    """One publisher as the page has it."""

    app: str
    name: str = field(repr=False)
    clientid: str
    address: str

    @property
    def is_exact(self) -> bool:
        """Whether the name can be no other than it says."""
        return " " not in self.name and " " not in self.app


@dataclass(frozen=True, slots=True)
class StatPage:
    """What one worker says: its process number and its publishers."""

    pid: str
    publishers: tuple[StatPublisher, ...]


@dataclass(slots=True)
class _Reading:
    """What is known in the middle of the page."""

    path: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    pid: str = ""
    app: str = ""
    stream: str = ""
    client: dict[str, str] = field(default_factory=dict)
    found: list[StatPublisher] = field(default_factory=list)

    def start(self, name: str, _: dict[str, str]) -> None:
        if len(self.path) >= _DEPTH:
            raise BadStat("the stat page is too deep")
        self.path.append(name)
        self.text.clear()
        if name == "client":
            self.client = {}

    def end(self, name: str) -> None:
        text = "".join(self.text)
        self.text.clear()
        self.path.pop()
        above = self.path[-1] if self.path else ""
        match above, name:
            case "rtmp", "pid":
                self.pid = text
            case "application", "name":
                self.app = text
            case "stream", "name":
                self.stream = text
            case "client", _:
                self.client[name] = text
            case "stream", "client":
                self._take_client()

    def _take_client(self) -> None:
        clientid = self.client.get("id", "")
        if "publishing" in self.client and clientid.isdecimal():
            address = self.client.get("address", "")
            self.found.append(StatPublisher(self.app, self.stream, clientid, address))


def parse_stat(page: bytes) -> StatPage:
    """Read a page. No document type, no entity and no processing of anything outside it; raises `BadStat`."""
    if len(page) > STAT_LIMIT_BYTES:
        raise BadStat("the stat page is too long")
    reading = _Reading()
    parser = expat.ParserCreate("US-ASCII")
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.text.append
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        # What was made printable cannot break the page for everybody by a control character in one client's name.
        parser.Parse(page.translate(_PRINTABLE), True)
    except expat.ExpatError:
        raise BadStat("the stat page is no XML") from None
    if not reading.pid:
        raise BadStat("the stat page tells no pid")
    return StatPage(reading.pid, tuple(reading.found))


def _refuse_doctype(*_: object) -> None:
    raise BadStat("the stat page declares a document type")


def is_readable(text: str) -> bool:
    """Whether a reader can ask for it: UTF-8 without control characters, as long as nginx takes."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= _NAME_BYTES and not any(ord(c) < 0x20 or ord(c) == 0x7F or c == "?" for c in text)

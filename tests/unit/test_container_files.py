"""The shipped container files: pinned, locked up, and in step with the configs and the code they use.

hadolint lints the Dockerfiles in `make lint`. compose.yaml is held to our own rules here: its linters need a newer node
than Debian's. Where a container engine answers, scripts/container-check builds and runs the images.
"""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.config.loading import check_files
from detector.credentials import load_or_create

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/container"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

every_service = pytest.mark.parametrize("name", SERVICES)
every_dockerfile = pytest.mark.parametrize("dockerfile", sorted(FOLDER.glob("*Dockerfile")), ids=lambda path: path.name)


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@every_dockerfile
def test_images_are_pinned_and_run_as_nobody(dockerfile: Path) -> None:
    """Every base has a version, the user is a number other than root's, and no index or host is named."""
    instructions = _instructions(dockerfile)
    stages: set[str] = set()
    for word, rest in instructions:
        if word == "FROM":
            base, _, stage = rest.partition(" AS ")
            assert base in stages or re.search(r":\d+\.\d+[\w.-]*$", base), base
            stages.add(stage)
    users = [rest for word, rest in instructions if word == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    assert "http" not in "".join(rest for _, rest in instructions)


def test_the_service_is_installed_from_the_lock_alone() -> None:
    """Every pip install has --require-hashes, or --no-deps for our own wheel; what is copied exists and is let in."""
    instructions = _instructions(FOLDER / "Dockerfile")
    installs = re.findall(r"pip install [^&]*", " ".join(rest for word, rest in instructions if word == "RUN"))
    assert installs
    assert all("--require-hashes" in one or "--no-deps /wheel/" in one for one in installs)
    let_in = {
        line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"
    }
    for sources in (rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest):
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in let_in, source
    said = dict(instructions)
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert '"stopframe", "health", "--live"' in said["HEALTHCHECK"]


@every_service
def test_each_service_is_locked_up_and_bounded(name: str) -> None:
    """Read-only, no capability, no new privileges, a user of its own, limits on memory and processes."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert set(service) >= {"mem_limit", "pids_limit", "logging", "tmpfs"}
    assert not set(service) & {"privileged", "cap_add", "pid", "ipc", "devices", "environment"}
    assert service["network_mode"] != "host" if "network_mode" in service else service["networks"]


@every_service
def test_each_service_finds_what_it_names(name: str) -> None:
    """Mounted files are in the repository, secrets and volumes are declared, builds have their targets."""
    service = SERVICES[name]
    for volume in service["volumes"]:
        source, _, mode = volume.partition(":")
        if source.startswith("."):
            assert (FOLDER / source).is_file(), source
            assert mode.endswith(":ro"), "what the host lends is not written"
        else:
            assert source in COMPOSE["volumes"]
    for secret in service.get("secrets", ()):
        assert (secret["source"] if isinstance(secret, dict) else secret) in COMPOSE["secrets"]
    if build := service.get("build"):
        context = (FOLDER / build["context"]).resolve()
        assert context == ROOT
        stages = re.findall(r"^FROM .* AS (\S+)$", (context / build["dockerfile"]).read_text("utf-8"), re.MULTILINE)
        assert build.get("target") in {*stages, None}


def test_users_are_the_images_users() -> None:
    """compose.yaml and the Dockerfiles name the same numbers."""
    users = {rest for path in FOLDER.glob("*Dockerfile") for word, rest in _instructions(path) if word == "USER"}
    assert {service["user"] for service in SERVICES.values()} == users


def test_only_publishing_is_open_to_the_world() -> None:
    """One port; the broker's network leads nowhere, and secrets come from files that are not in the repository."""
    assert [port for service in SERVICES.values() for port in service.get("ports", ())] == ["1935:1935"]
    assert COMPOSE["networks"]["alerts"]["internal"] is True
    assert SERVICES["stopframe"]["network_mode"] == "service:nginx"
    assert all(secret["file"].startswith("./secrets/") for secret in COMPOSE["secrets"].values())
    assert not (FOLDER / "secrets").exists() or "configs/container/secrets" in (ROOT / ".gitignore").read_text("utf-8")


def test_the_config_fits_the_examples_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No fault; it asks nginx as the example does, names the acl's node, and the hook's line is what nginx includes."""
    assert check_files([FOLDER / "stopframe.yaml"]) == []
    ours, nginx = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (FOLDER / "stopframe.yaml", ROOT / "configs/examples/nginx-rtmp/stopframe.yaml")
    )
    assert (ours["ingest"], ours["http"]) == (nginx["ingest"], nginx["http"])
    assert f"topic write stopframe/{ours['node']}/available" in (ROOT / "configs/examples/mosquitto/acl").read_text()

    (script,) = SERVICES["hook"]["command"]
    exec(compile(ast.parse(script.replace("$$", "$").replace("/var/lib/stopframe", str(tmp_path))), "hook", "exec"), {})
    line = capsys.readouterr().out
    assert (
        line
        == f"set $stopframe_hook http://{ours['http']['listen']}/hook/{load_or_create(tmp_path).hook}/nginx-rtmp;\n"
    )

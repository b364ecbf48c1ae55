"""Config files as tired operators leave them: refused by `check`, by `run` and by a reload, with line and remedy."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from detector.assembly import open_service
from detector.cli.output import CommandFailed
from detector.cli.run import _read
from detector.config.loading import read_public
from detector.config_file import ConfigFile
from detector.service import Service
from detector.simulation.rehearsal import Rehearsal
from tests.fixtures_cli import CommandLine

_GOOD = """\
state_dir: state
ingest: {kind: none}
models: []
analysis: {workers: 1}
http: {listen: "127.0.0.1:0"}
alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}
"""


@dataclass(frozen=True)
class Broken:
    """One file: its content, and where and how it is to be refused."""

    name: str
    content: str | bytes
    line: int
    key: str
    remedy: str

    @property
    def encoded(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


BROKEN = [
    Broken("rate-zero", "sampling:\n  interval: 0s\n", 2, "sampling.interval", "write between 50ms and 10m"),
    Broken("negative", "alerts:\n  expire_after: -5m\n", 2, "alerts.expire_after", "write"),
    Broken("no-unit", "sampling:\n  detect_within: 3\n", 2, "sampling.detect_within", "write"),
    Broken("wrong-unit", "reader:\n  memory_limit: 2 gigs\n", 2, "reader.memory_limit", "write"),
    Broken("swapped-units", "reader:\n\n  ring_limit: 16s\n", 3, "reader.ring_limit", "write"),
    Broken("threshold", "classes:\n  standin-cards/smptebars:\n    cut: 1.5\n", 3, "cut", "write at most 1"),
    Broken("percent", "classes:\n  standin-cards/smptebars:\n    review: 70%\n", 3, "review", "write a number"),
    Broken("not-a-number", "classes:\n  standin-cards/smptebars: {review: .nan}\n", 2, "review", "write a number"),
    Broken("infinite", "classes:\n  standin-cards/smptebars: {cut: .inf}\n", 2, "cut", "write a number"),
    Broken("cut-below", "classes:\n  standin-cards/smptebars:\n    review: 0.9\n    cut: 0.6\n", 4, "cut", "lower"),
    Broken("step", "classes:\n  standin-cards/smptebars: {step: kill}\n", 2, "step", "off, shadow, review or cut"),
    Broken("class-typo", "classes:\n  standin-card/smptebars: {}\n", 2, "classes", "did you mean standin-cards"),
    Broken("bank-lowercase", "banks:\n  my_bank: {step: cut}\n", 2, "banks.my_bank", "capitals"),
    Broken("distance", "banks:\n  TERROR: {max_distance: 99}\n", 2, "max_distance", "0 to 72"),
    Broken("near-miss", "enforcment:\n  live: true\n", 1, "enforcment", "did you mean enforcement?"),
    Broken("wrong-place", "detect_within: 3s\n", 1, "detect_within", "write sampling.detect_within"),
    Broken("low-floor", "sampling:\n  floor: 2s\n", 2, "sampling.floor", "write at least that"),
    Broken("floor-of-one", "streams:\n- match: a\n  sampling: {detect_within: 1m}\n", 3, "detect_within", "floor: 1m"),
    Broken("risk-word", "streams:\n- match: a\n  risk: urgent\n", 3, "streams[0].risk", "low, normal or high"),
    Broken("no-cpu", "sampling:\n  max_cpu: 0%\n", 2, "sampling.max_cpu", "between 1% and 100%"),
    Broken("yes", "enforcement:\n  live: yes\n", 2, "enforcement.live", "write true or false"),
    Broken("quoted-number", 'votes:\n  k: "3"\n', 2, "votes.k", "write a whole number"),
    Broken("k-of-n", "votes:\n  k: 6\n", 2, "votes.k", "write at most 5"),
    Broken("list-for-map", "sampling:\n  - interval: 1s\n", 1, "sampling", "write keys and values below it"),
    Broken("map-for-list", "sources:\n  lobby: {url: http://h/x}\n", 1, "sources", "write a list"),
    Broken("nothing-below", "analysis:\n  workers:\n", 2, "analysis.workers", "auto"),
    Broken("tab", "sampling:\n\tinterval: 1s\n", 2, "(file)", "tab"),
    Broken("unclosed", "sampling: {interval: 1s\nvotes: {k: 3}\n", 2, "(file)", "YAML"),
    Broken("twice", "votes: {k: 1}\nlog: {}\nvotes: {k: 2}\n", 3, "votes", "line 1"),
    Broken("same-source", "sources:\n- {name: a, url: http://h/1}\n- {name: a, url: http://h/2}\n", 3, "name", "once"),
    Broken("topic", "alerts:\n  mqtt:\n    prefix: stopframe/#\n", 3, "alerts.mqtt.prefix", "no + # $"),
    Broken("port-clash", "http:\n  listen: 127.0.0.1:8935\n", 2, "http.listen", "another port"),
    Broken("port-range", "http:\n  listen: 127.0.0.1:99999\n", 2, "http.listen", "65535"),
    Broken("no-port", "http:\n  listen: localhost\n", 2, "http.listen", "host:port"),
    Broken("address-typo", "http:\n  listen: 127.0.0.1.1:80\n", 2, "http.listen", "host:port"),
    Broken("plain-secret", "alerts:\n  mqtt:\n    username: a\n    password: hunter22\n", 4, "password", "${NAME}"),
    Broken("secret-in-url", "alerts:\n  mqtt:\n    url: mqtt://a:hunter22@127.0.0.1\n", 3, "mqtt.url", "password"),
    Broken("scheme", "sources:\n  - name: a\n    url: gopher://hunter22/x\n", 3, "sources[0].url", "write"),
    Broken("ingest-kind", "ingest:\n  kind: nginx\n", 2, "ingest.kind", "nginx-rtmp"),
    Broken("other-kinds-key", "ingest:\n  kind: none\n  listen: 127.0.0.1:1\n", 3, "ingest.listen", "kind"),
    Broken("anchors", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", 1, "(file)", "anchors"),
    Broken("tags", "state_dir: !!python/object/apply:os.system [id]\n", 1, "(file)", "tags"),
    Broken("two-documents", "votes: {k: 1}\n---\nvotes: {k: 2}\n", 2, "(file)", "second document"),
    Broken("ten-megabytes", b"# padding\n" * (1 << 20), 1, "(file)", "larger than 1 MiB"),
    Broken("binary", bytes(range(256)) * 16, 2, "(file)", "save it as UTF-8"),
    Broken("utf-16", "votes: {k: 1}\n".encode("utf-16"), 1, "(file)", "UTF-8"),
    Broken("latin-1", "# Prüfung\nnode: straße\n".encode("latin-1"), 1, "(file)", "UTF-8"),
    Broken("html", "<!DOCTYPE html>\n<html><body>404</body></html>\n", 1, "(file)", "the file holds"),
    Broken("deep", "a: " + "[" * 5000 + "\n", 1, "(file)", "too deep"),
]  # fmt: skip

every_broken = pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)


def _is_told(broken: Broken, path: Path | str, text: str) -> bool:
    """Whether one of the lines names file, line and key, and says what would be right."""
    begins = f"{path}:{broken.line}: "
    told = [line for line in text.splitlines() if line.startswith(begins)]
    return any(broken.key in line.removeprefix(begins).split(": ")[0] and broken.remedy in line for line in told)


@every_broken
def test_run_refuses_it_before_anything_starts(tmp_path: Path, broken: Broken) -> None:
    """The sentence that `run` ends with names file, line, key and remedy, repeats no secret, and nothing was made."""
    path = tmp_path / "stopframe.yaml"
    path.write_bytes(broken.encoded)
    with pytest.raises(CommandFailed) as refused:
        _read(path, Rehearsal())
    assert _is_told(broken, path, str(refused.value)), str(refused.value)[:2000]
    assert refused.value.exit_code == 2
    assert "hunter22" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]


def test_check_refuses_them_all(stopframe: CommandLine) -> None:
    """One command over all files: exit 2, each with its line, no traceback, and no word about the sound ones."""
    for broken in BROKEN:
        (stopframe.folder / f"{broken.name}.yaml").write_bytes(broken.encoded)
    (stopframe.folder / "folder.yaml").mkdir()
    for name, content in {"bom": b"\xef\xbb\xbfvotes: {k: 1}\n", "crlf": b"votes:\r\n  k: 1\r\n"}.items():
        (stopframe.folder / f"{name}.yaml").write_bytes(content)
    names = [f"{broken.name}.yaml" for broken in BROKEN]
    run = stopframe("check", *names, "folder.yaml", "missing.yaml", "bom.yaml", "crlf.yaml")
    assert run.code == 2
    for broken in BROKEN:
        assert _is_told(broken, f"{broken.name}.yaml", run.err), broken.name
    assert "folder.yaml:1: (file): cannot be read (Is a directory); name a readable config file" in run.err
    assert "missing.yaml:1: (file): cannot be read (No such file or directory)" in run.err
    assert "bom.yaml" not in run.err
    assert "crlf.yaml" not in run.err
    assert "hunter22" not in run.err


def test_the_commands_themselves_exit_with_2(stopframe: CommandLine) -> None:
    """`run` and `reload` end with the same sentence as `check`, exit 2 and no traceback."""
    stopframe.write_config("votes: {k: 6}\n")
    for command in (["run"], ["reload"], ["check"]):
        run = stopframe(*command)
        assert run.code == 2
        assert run.err.startswith(f"{stopframe.config}:3: votes.k: ")
    assert not (stopframe.folder / "state").exists()


@pytest.mark.integration
async def test_a_running_service_is_left_as_it_is_by_any_of_them(tmp_path: Path) -> None:
    """Each file in turn takes the place of the config: told with its line, without any effect, and over when mended."""
    path = tmp_path / "stopframe.yaml"
    path.write_text(_GOOD)
    file = ConfigFile(path)
    config = file.read().config
    assert config is not None
    async with open_service(config, file) as service:
        problems = service.health().problems
        for broken in BROKEN:
            path.write_bytes(broken.encoded)
            report = await service.reload()
            assert _is_told(broken, path, "\n".join(report.faults)), (broken.name, report.faults[:3])
            _is_unmoved(service, config, problems)
        for gone in (_remove, _folder, _empty):
            gone(path)
            report = await service.reload()
            assert len(report.faults) == 1
            _is_unmoved(service, config, problems)
        path.write_text(_GOOD)
        await asyncio.sleep(0)
        assert (await service.reload()).faults == ()
        assert not any("config file" in note for note in service.health().notes)


def _is_unmoved(service: Service, config: object, problems: tuple[str, ...]) -> None:
    assert service.config is config
    health = service.health()
    assert health.problems == problems
    assert sum("config file has a fault" in note for note in health.notes) == 1


def _remove(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.rmdir()
    path.write_text("# all of it is gone\n")


def test_a_checked_config_knows_no_secret(tmp_path: Path) -> None:
    """`check` and `reload` read the file alone: what it takes from the environment or a file stays unread there."""
    path = tmp_path / "stopframe.yaml"
    path.write_text("http: {token: '${NOT_SET_ANYWHERE}'}\n")
    config = read_public(path).config
    assert config is not None
    assert config.http.token is not None
    assert config.http.token.value is None

"""A cutter's config file read again: what changes at once, what waits, and what a fault leaves in force."""

import logging
from pathlib import Path

import pytest
import structlog.testing

from detector.config.loading import load_other
from detector.credentials import load_or_create
from detector.cutter.config import CutterConfig
from detector.cutter.following import LIVE, FollowedConfig
from detector.metrics import Metrics
from detector.reload import leaf_patterns
from detector.trust.keyring import load_keyring
from detector.trust.signing import public_key_text


class Scene:
    """A config file, and what follows it."""

    def __init__(self, folder: Path) -> None:
        load_or_create(folder / "service")
        self.path = folder / "cutter.yaml"
        self.folder = folder
        self.metrics = Metrics()
        self.write("one")
        self.followed = FollowedConfig(self.path, load_other(CutterConfig, self.path), self.metrics)
        self.taken: list[CutterConfig] = []
        self.followed.take = self.taken.append

    def key(self, who: str) -> str:
        (self.folder / who).mkdir(exist_ok=True, mode=0o700)
        return public_key_text(load_keyring(self.folder / who).signer.public_key)

    def write(self, *trusted: str, more: str = "") -> None:
        keys = ", ".join(f"{{name: {one}, public_key: '{self.key(one)}', may: [alert, command]}}" for one in trusted)
        self.path.write_text(
            "secret: {file: service/secrets/deployment}\ningest: {kind: mediamtx, api: 'http://127.0.0.1:9997'}\n"
            f"trust: {{trusted_keys: [{keys}]}}\n{more}"
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_key_comes_and_goes_without_a_restart(scene: Scene) -> None:
    """Another service's key counts from then on, the first one's no more; so does a deadline."""
    before = scene.followed.keys
    scene.write("two", more="deadline: 20s\nlog: {level: warning}\n")
    with structlog.testing.capture_logs() as logged:
        await scene.followed.reload()
    assert scene.followed.keys is not before
    assert [key.name for key in scene.followed.in_force.trust.trusted_keys] == ["two"]
    assert scene.taken[-1].deadline.seconds == 20.0
    assert logged[-1]["keys"] == ("log.level", "deadline", "trust.trusted_keys")
    assert scene.followed.notes() == []
    assert logging.getLogger().level == logging.WARNING


async def test_a_fault_changes_nothing_and_is_noted_until_it_is_mended(scene: Scene) -> None:
    """The last good config stays in force; so it does where the file is gone."""
    before = scene.followed.in_force
    scene.write("one", more="deadline: soon\n")
    with structlog.testing.capture_logs() as logged:
        await scene.followed.reload()
    assert scene.followed.in_force is before
    assert logged[0]["event"] == "config.refused"
    assert "line 4" in scene.followed.notes()[0]
    assert scene.metrics.value("stopframe_config_last_reload_successful") == 0
    scene.path.unlink()
    await scene.followed.reload()
    assert scene.followed.in_force is before
    scene.write("one")
    await scene.followed.reload()
    assert scene.followed.notes() == []
    assert scene.metrics.value("stopframe_config_last_reload_successful") == 1


async def test_what_only_a_start_takes_up_waits_and_is_noted(scene: Scene) -> None:
    """The old values stay in force."""
    scene.write("one", more="node: other\nmqtt: {prefix: elsewhere}\n")
    await scene.followed.reload()
    assert (scene.followed.in_force.node, scene.followed.in_force.mqtt.prefix) == ("cutter", "stopframe")
    assert "node, mqtt.prefix" in scene.followed.notes()[0]


async def test_a_second_channel_that_others_reach_is_noted(scene: Scene) -> None:
    """Alerts would cross the network for everybody to read."""
    (scene.folder / "webhook").write_text("a-secret-of-the-test\n")
    (scene.folder / "webhook").chmod(0o600)
    for host, count in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        scene.write("one", more=f"webhook: {{listen: '{host}:8938', secret: {{file: webhook}}}}\n")
        notes = FollowedConfig(scene.path, load_other(CutterConfig, scene.path), Metrics()).notes()
        assert sum("speaks no TLS" in note for note in notes) == count


async def test_an_open_secret_is_noted(scene: Scene) -> None:
    """Whoever reads the deployment secret can tell whose stream an alert means."""
    (scene.folder / "service/secrets/deployment").chmod(0o644)
    with structlog.testing.capture_logs() as logged:
        exposed = FollowedConfig(scene.path, load_other(CutterConfig, scene.path), Metrics())
    assert "chmod 600" in exposed.notes()[0]
    assert [one["key"] for one in logged if one["event"] == "secret.exposed"] in (["secret"], [])


def test_what_is_taken_up_at_once_is_there() -> None:
    """Every pattern is one of a key that a cutter has."""
    assert set(leaf_patterns(CutterConfig)) >= LIVE

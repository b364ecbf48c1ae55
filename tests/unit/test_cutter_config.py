"""The cutter's config: the shipped file is valid and whole, and what a cutter cannot do is refused by name."""

from pathlib import Path

import pytest
import yaml

from detector.config.faults import ConfigError
from detector.config.loading import load_other
from detector.cutter.assembly import mqtt_settings
from detector.cutter.config import CutterConfig, CutterMqttSection

SHIPPED = Path(__file__).parents[2] / "configs" / "cutter.yaml"


def _config(folder: Path, text: str) -> Path:
    secret = folder / "deployment"
    secret.write_text("ab" * 32 + "\n")
    secret.chmod(0o600)
    path = folder / "cutter.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_is_valid_and_names_every_key(tmp_path: Path) -> None:
    """Copied beside the service's secret it loads; what it does not hold is its own folder alone."""
    text = SHIPPED.read_text()
    config = load_other(CutterConfig, _config(tmp_path, text))
    held = yaml.safe_load(text)

    assert set(held) == set(CutterConfig.model_fields) - {"state_dir"}
    assert set(held["mqtt"]) == set(CutterMqttSection.model_fields)
    assert config.deployment == b"\xab" * 32
    assert config.mqtt == CutterMqttSection()
    assert mqtt_settings(config).session_seconds == 86_400
    assert "abab" not in repr(config)


@pytest.mark.parametrize(
    ("shipped", "written", "key", "remedy"),
    [
        ("kind: mediamtx\n  api: http://127.0.0.1:9997", "kind: embedded", "ingest.kind", "name the server"),
        ("kind: mediamtx\n  api: http://127.0.0.1:9997", "kind: none", "ingest.kind", "name the server"),
        ("may: [alert, command]", "may: [ack]", "trust", "keys show"),
        ("embedded_broker: false", "embedded_broker: true", "mqtt.embedded_broker", "under url"),
        ("secret: {file: deployment}", "#secret:", "secret", "is missing"),
        ("deadline: 10s", "deadlin: 10s", "deadlin", "did you mean deadline"),
    ],
)
def test_what_a_cutter_cannot_do_is_refused(tmp_path: Path, shipped: str, written: str, key: str, remedy: str) -> None:
    """Each fault has its line, its key and what would be right."""
    text = SHIPPED.read_text()
    assert shipped in text
    with pytest.raises(ConfigError) as caught:
        load_other(CutterConfig, _config(tmp_path, text.replace(shipped, written)))
    fault = caught.value.faults[0]
    assert (fault.key, remedy in fault.message) == (key, True)


def test_a_secret_of_something_else_is_refused_without_being_told(tmp_path: Path) -> None:
    """A file that is not the services' secret would find nobody."""
    path = _config(tmp_path, SHIPPED.read_text())
    (tmp_path / "deployment").write_text("another-secret-value\n")
    with pytest.raises(ConfigError, match="64 hex digits") as caught:
        load_other(CutterConfig, path)
    assert "another-secret-value" not in str(caught.value)

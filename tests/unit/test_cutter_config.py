"""A cutter's config file under `stopframe check`."""

from pathlib import Path

import pytest

from detector.cli.cutter import cutter, health_of_cutter
from detector.cli.keys import show
from detector.cli.operate import cut
from detector.cli.options import read_config
from detector.cli.output import CommandFailed
from detector.cli.run import check
from detector.cutter.config import is_cutters

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_shipped_files_are_told_apart_and_sound() -> None:
    """Both pass, secrets unread; a service's file is no cutter's."""
    assert is_cutters(CONFIGS / "cutter.yaml")
    assert not is_cutters(CONFIGS / "stopframe.yaml")
    assert not is_cutters(CONFIGS / "absent.yaml")
    check([CONFIGS / "cutter.yaml", CONFIGS / "stopframe.yaml"])


def test_faults_of_a_cutters_file_have_file_line_and_remedy(tmp_path: Path) -> None:
    """By the keys that a cutter knows, not those of a service."""
    file = tmp_path / "cutter.yaml"
    text = (CONFIGS / "cutter.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("deadline: 10s", "deadline: soon").replace("  kind: mediamtx", "  kind: embedded"))
    line = text.splitlines().index("deadline: 10s") + 1
    with pytest.raises(CommandFailed) as failure:
        check([file])
    said = str(failure.value)
    assert f"{file}:{line}: deadline:" in said
    assert "no such key" not in said.replace("ingest.api: no such key", "")


def test_a_services_file_is_told_by_one_sentence(tmp_path: Path) -> None:
    """Not by every key that a cutter has not; and a file that cannot be read is just that."""
    with pytest.raises(CommandFailed, match=r"^\S+ is a service's config file, and a cutter needs its own"):
        cutter(CONFIGS / "stopframe.yaml")
    with pytest.raises(CommandFailed) as failure:
        cutter(tmp_path / "absent.yaml")
    assert "\n" not in str(failure.value)


def test_other_commands_know_a_cutters_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its key is shown before its first start; who has no control socket says where to ask."""
    file = tmp_path / "cutter.yaml"
    text = (CONFIGS / "cutter.yaml").read_text(encoding="utf-8").replace("#state_dir: /var/lib/", "state_dir: ")
    file.write_text(text.replace("127.0.0.1:8937", "127.0.0.1:1"))
    show(file)
    assert "ed25519:" in capsys.readouterr().out
    assert (tmp_path / "stopframe-cutter/secrets/signing").exists()
    with pytest.raises(CommandFailed, match="stopframe health -c"):
        cut("stream", file)
    with pytest.raises(CommandFailed, match=r"no cutter answers at http://127\.0\.0\.1:1/health/ready"):
        health_of_cutter(file)
    with pytest.raises(CommandFailed, match=r"is a cutter's config file, which 'stopframe cutter -c "):
        read_config(file)
    file.write_text(file.read_text() + "keep: a while\n")
    with pytest.raises(CommandFailed, match=r"no cutter answers at http://127\.0\.0\.1:1/"):
        health_of_cutter(file)  # a running one goes on with its last good config


def test_a_second_channel_without_a_fit_secret_is_refused(tmp_path: Path) -> None:
    """A short one could be guessed; it is the services' own."""
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "deployment").write_text("0" * 64)
    file = tmp_path / "cutter.yaml"
    text = (CONFIGS / "cutter.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("  secret: null", "  secret: {file: short}"))
    with pytest.raises(CommandFailed, match=r"webhook.secret: has less than 16 characters"):
        cutter(file)

"""A cutter's config file under `stopframe check`."""

from pathlib import Path

import pytest

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

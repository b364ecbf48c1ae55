"""`stopframe demo`: the whole way on one machine, by its exit code and its last line."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.e2e


def test_the_demo_cuts_both_publishers_and_says_so(stopframe: CommandLine) -> None:
    """Both cuts are confirmed, one by a class and one by a hash; the last line carries the figures; exit 0."""
    run = stopframe("demo", "--json", seconds=240)

    assert run.code == 0, run.out + run.err
    last = json.loads(run.out.splitlines()[-1])
    assert last["cut_confirmed"] is True
    by_class, by_hash = last["cuts"]
    assert by_class["matched"].startswith("standin-cards/smptebars")
    assert by_hash["matched"].startswith("DEMO/card, pdq distance ")
    for cut in last["cuts"]:
        assert cut["cut_confirmed"] is True
        assert 0 < cut["time_to_alert_s"] < 30
        assert 0 < cut["time_to_cut_s"] < cut["time_to_confirmed_s"] < 60
        assert len(cut["alert_id"]) == 36
    slower = max(last["cuts"], key=lambda cut: cut["time_to_cut_s"])
    assert (last["alert_id"], last["time_to_cut_s"]) == (slower["alert_id"], slower["time_to_cut_s"])
    assert last["time_to_alert_s"] == max(cut["time_to_alert_s"] for cut in last["cuts"])
    assert last["alert_id"] in run.out.partition('{"alert_id"')[0]


def test_ctrl_c_leaves_nothing_of_the_demo(stopframe: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT in the middle ends it with exit 130: no process, no folder and no traceback stays."""
    monkeypatch.setenv("TMPDIR", str(stopframe.folder))
    process = stopframe.start("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if "publisher 1 is live" in line:
            assert list(stopframe.folder.glob("stopframe-demo-*"))
            break
    children = _offspring(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(children) >= 4  # two forkservers, a reader or worker, the publisher
    deadline_at = time.monotonic() + 20
    while any(_is_alive(child) for child in children) and time.monotonic() < deadline_at:
        time.sleep(0.05)
    assert not [child for child in children if _is_alive(child)]
    assert not list(stopframe.folder.glob("stopframe-demo-*"))


def _offspring(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(one for child in children for one in _offspring(child))]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

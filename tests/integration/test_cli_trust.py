"""Keys, commands and verification at the command line, and the consumer of the docs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from detector.cli.main import app
from detector.cli.output import CommandFailed
from detector.instants import rfc3339
from detector.trust import signing
from detector.trust.messages import read_command
from detector.trust.signing import Signer, TrustedKey, TrustedKeys, public_key_text

ROOT = Path(__file__).resolve().parents[2]
STREAM = "A" * 26


def _run(*words: str, given: bytes | None = None) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    done = CliRunner().invoke(app, list(words), input=given)
    if isinstance(done.exception, CommandFailed):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, (SystemExit, typer.Exit))
    return done.exit_code, done.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "stopframe.yaml"
    path.write_text("state_dir: state\n")
    return path


def test_keys_are_shown_made_and_replaced(tmp_path: Path, config: Path) -> None:
    """What is printed is what a config takes; the private key is never shown."""
    code, shown = _run("keys", "show", "-c", str(config))
    first = re.findall(r"ed25519:\S+", shown)
    assert (code, len(first)) == (0, 1)
    _, prepared = _run("keys", "rotate", "-c", str(config))
    _, activated = _run("keys", "rotate", "--activate", "--keep", "7d", "-c", str(config), "--json")
    rows = [json.loads(line) for line in activated.splitlines()]
    assert [row["state"] for row in rows] == ["signs", "retired"]
    assert rows[0]["public_key"] in prepared
    assert rows[1]["public_key"] == first[0]
    for keep in ("soon", "3651d", "3650000d", "-1d"):
        assert _run("keys", "rotate", "--activate", "--keep", keep, "-c", str(config))[0] == 2
    key = tmp_path / "anna.key"
    code, public = _run("keys", "new", str(key))
    assert _run("keys", "public", str(key)) == (0, public)
    assert key.read_text().strip() not in public
    assert _run("keys", "new", str(key))[0] == 2
    trusted = f"{{name: a, public_key: '{public.strip()}', may: [command]}}"
    config.write_text(f"state_dir: state\ntrust:\n  trusted_keys:\n    - {trusted}\n")
    assert _run("check", str(config))[0] == 0


def test_a_command_is_made_and_believed_and_a_wrong_one_is_not_made(tmp_path: Path) -> None:
    """Each of the four is one line that its node takes; what no node would take is said before anything is signed."""
    key = tmp_path / "anna.key"
    public = _run("keys", "new", str(key))[1].strip()
    keys = TrustedKeys([TrustedKey.of(public, ["command"])])
    by = ("--key", str(key), "--node", "n1")
    last = 0
    for words in (
        ("cut", STREAM),
        ("hint", STREAM, "--score", "0.5"),
        ("sampling", STREAM),
        ("undo", f"{0:08x}-0000-7000-8000-{0:012x}"),
    ):
        code, out = _run("command", *words, *by)
        assert (code, out.count("\n")) == (0, 1)
        made = json.loads(out)
        now_ms = made["seq"]
        assert read_command(out.strip().encode(), keys, node="n1", name=words[0], now_ms=now_ms).seq >= last
        last = now_ms
    for wrong, remedy in (
        (("cut", "A"), "STREAM is no id of 26 characters"),
        (("hint", STREAM, "--score", "2"), "--score: write 0 to 1"),
        (("hint", STREAM, "--source", "A B"), "--source is no word"),
        (("hint", STREAM, "--for", "2h"), "--for: write"),
        (("sampling", STREAM, "--detect-within", "1h"), "--detect-within: write"),
        (("cut", STREAM, "--life", "6m"), "--life: "),
        (("undo", STREAM), "INCIDENT is no whole id"),
    ):
        code, said = _run("command", *wrong, *by)
        assert (code, said.startswith(remedy)) == (2, True), said
    for node in ("+", "a/b", "", "n1\udcff"):
        assert _run("command", "cut", STREAM, "--key", str(key), "--node", node)[0] == 2
    assert "keys new" in _run("command", "cut", STREAM, "--key", str(tmp_path / "none"), "--node", "n1")[1]


def test_verify_says_which_line_fails_and_why(tmp_path: Path) -> None:
    """Exit 0, 1 or 2; expired, unknown, altered, replayed and unreadable lines are told apart."""
    signer = Signer.of_seed(b"v" * 32)
    alert = {"schema": "stopframe/alert/1", "expires_at": rfc3339(4_000_000_000_000)}
    good = [json.dumps(signer.sign(alert | {"seq": seq})).encode() for seq in (1, 2, 2)]
    bad = [
        good[0].replace(b'"seq": 1', b'"seq": 9'),
        json.dumps(Signer.of_seed(b"x" * 32).sign(alert)).encode(),
        json.dumps(signer.sign(alert | {"expires_at": rfc3339(0)})).encode(),
        b"y" * 100_000,
        b'{"schema": "else"}',
    ]
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b"\n".join([*good, b"", *bad]))
    key = ("--key", public_key_text(signer.public_key))
    code, out = _run("verify", str(path), *key)
    assert code == 1
    reasons = ["altered", "unknown_key", "expired", "too_large", "wrong_schema"]
    assert re.findall(r"line (\d+): (\w+):", out) == [(str(5 + n), reason) for n, reason in enumerate(reasons)]
    assert "line 3: replayed" in _run("verify", str(path), *key, "--in-order")[1]
    assert "expired" not in _run("verify", str(path), *key, "--audit")[1]
    assert _run("verify", "-", *key, given=b"\n".join(good))[0] == 0
    alarm = json.dumps({"schema": "stopframe/alarm/1", "problems": ["x" * 5000]}).encode()
    assert _run("verify", "-", *key, given=b"\n".join([alarm, *good])) == (0, "")
    twice = b'{"schema": "stopframe/alarm/1", "schema": "stopframe/alert/1"}'
    assert "line 1: malformed" in _run("verify", "-", *key, given=twice)[1]
    assert _run("verify", str(tmp_path / "none"), *key)[0] == 2
    assert _run("verify", str(path), "--key", "x")[0] == 2
    empty = tmp_path / "stopframe.yaml"
    empty.write_text("state_dir: state\n")
    assert "no key" in _run("verify", str(path), "-c", str(empty))[1]
    assert _run("keys", "show", "-c", str(empty))[0] == 0
    assert "unknown_key" in _run("verify", str(path), "-c", str(empty))[1]


def test_verify_beside_a_service_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not look into the service's folder is told so, and goes by the config's keys."""

    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    signer = Signer.of_seed(b"v" * 32)
    path, config = tmp_path / "acks.jsonl", tmp_path / "stopframe.yaml"
    path.write_text(json.dumps(signer.sign({"schema": "stopframe/ack/1"})))
    config.write_text("state_dir: state\n")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Path, "exists", denied)
        assert "no key is trusted" in _run("verify", str(path), "-c", str(config))[1]
        public = public_key_text(signer.public_key)
        config.write_text(f"trust:\n  trusted_keys:\n    - {{name: a, public_key: '{public}', may: [ack]}}\n")
        assert _run("verify", str(path), "-c", str(config))[0] == 0


def test_the_consumer_of_the_docs_acts_once_on_what_is_genuine(tmp_path: Path) -> None:
    """With nothing of ours but the one file beside it; a forgery, a repeat and another stream's topic do nothing."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "verifying.md").read_text("utf-8"), re.DOTALL)
    signer = Signer.of_seed(b"d" * 32)
    (tmp_path / "consumer.py").write_text(re.sub(r"ed25519:[\w-]{43}", public_key_text(signer.public_key), code))
    shutil.copy(signing.__file__, tmp_path)
    body = {"schema": "stopframe/alert/1", "stream": STREAM, "alert_id": "1", "action": "cut", "mode": "live"}
    alert = json.dumps(signer.sign(body | {"expires_at": rfc3339(4_000_000_000_000)}))
    topic = f"stopframe/stream/{STREAM}/alert"
    lines = [f"{topic.replace('A', 'B')} {alert}", f"{topic} {alert.replace('cut', 'cat')}", f"{topic} {alert}"]
    done = subprocess.run(
        [sys.executable, "consumer.py"], cwd=tmp_path, input="\n".join([*lines, lines[-1]]), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"cut live {STREAM}\n"
    assert done.stderr.startswith("refused: altered")
    assert done.stderr.count("\n") == 1

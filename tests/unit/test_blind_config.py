"""The `blind` section: what is done about streams that cannot be seen."""

from pathlib import Path

import pytest

from detector.blindness import NOT_TO_CUT, BlindRule, Reaction, default_rules
from detector.config.config import Config
from detector.config.faults import ConfigError
from detector.config.loading import check_files, load_config
from detector.coverage import Cause
from detector.settings import session_settings
from streams.job import SourceKind


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "stopframe.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_code() -> None:
    """What a file without the section means is what the rules are without a file."""
    assert Config().blind.rules() == default_rules()
    assert session_settings(Config(), "live/x", SourceKind.HTTP_TS, "http://h/").blind == default_rules()


def test_one_value_leaves_the_others_at_their_defaults(tmp_path: Path) -> None:
    """A rule may be given in part: a cut of a codec keeps its second."""
    config = load_config(written(tmp_path, "blind: {codec: {action: cut}, no_video: {action: ignore, after: 2m}}\n"))
    rules = config.blind.rules()
    assert rules[Cause.CODEC] == BlindRule(Reaction.CUT, 1.0)
    assert rules[Cause.NO_VIDEO] == BlindRule(Reaction.IGNORE, 120.0)
    assert rules[Cause.STALL] == BlindRule(Reaction.ALERT, 3.0)


@pytest.mark.parametrize("cause", list(NOT_TO_CUT))
def test_nobody_is_cut_for_what_is_not_their_doing(cause: Cause, tmp_path: Path) -> None:
    """The fault names the key, the reason and the remedy."""
    (fault,) = check_files([written(tmp_path, f"\nblind:\n  {cause.value}:\n    action: cut\n")])
    assert (fault.line, fault.key) == (4, f"blind.{cause.value}.action")
    assert fault.message == f"is cut, but {NOT_TO_CUT[cause]}; write alert or ignore"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alerts: {blind_after: 5s}\n", "write blind.stall.after"),
        ("blind: {codec: {action: hold}}\n", "ignore, alert"),
        ("blind: {codek: {action: alert}}\n", "did you mean codec?"),
        ("blind: {stall: {after: 2h}}\n", "1h"),
        ("reader: {crash_limit: 1}\n", "at least 2"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(text: str, says: str, tmp_path: Path) -> None:
    """What an option was replaced by, and what may stand in its place."""
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load_config(written(tmp_path, text))


def test_how_a_source_is_tried_again_comes_from_the_config(tmp_path: Path) -> None:
    """Every key of reconnecting reaches the session."""
    text = (
        "reader: {stall_after: 1s, longest_pause: 7s, crash_limit: 3, crash_window: 20s, quarantine: 2m,"
        " longest_quarantine: 1h}\n"
    )
    settings = session_settings(load_config(written(tmp_path, text)), "live/x", SourceKind.HTTP_TS, "http://h/")
    assert settings.stall_after_seconds == 1.0
    reconnect = settings.reconnect
    assert (reconnect.longest_seconds, reconnect.crash_limit, reconnect.crash_window_seconds) == (7.0, 3, 20.0)
    assert (reconnect.quarantine_seconds, reconnect.longest_quarantine_seconds) == (120.0, 3600.0)

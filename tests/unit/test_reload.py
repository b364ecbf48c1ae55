"""The difference of two configs: every option is classified, and a reload ends where a fresh start would."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.analysis.setup import pool_settings
from detector.config.config import Config
from detector.config.loading import config_digest, load_config
from detector.reload import LIVE, NEEDS_RESTART, difference, leaf_patterns
from detector.settings import (
    breaker_settings,
    enforcer_settings,
    response_settings,
    session_settings,
    watched_sources,
)
from streams.job import SourceKind

_PATHS = ("live/new-1", "live/old", "source/lobby")

_seconds = st.sampled_from(["1s", "2s", "3500ms", "10s"])
_sampling = st.fixed_dictionaries(
    {}, optional={"detect_within": _seconds, "interval": _seconds, "mode": st.sampled_from(["auto", "full"])}
)
_step = st.sampled_from(["off", "shadow", "review", "cut"])
_configs = st.fixed_dictionaries(
    {},
    optional={
        # what only a start takes up
        "node": st.sampled_from(["one", "two"]),
        "state_dir": st.sampled_from(["/a", "/b"]),
        "sandbox": st.sampled_from(["require", "off"]),
        "ingest": st.sampled_from([{"kind": "none"}, {"listen": "127.0.0.1:7000"}, {"max_publishers": 7}]),
        "models": st.sampled_from([["standin-cards"], ["standin-cards", "./other"]]),
        "http": st.sampled_from([{"listen": "127.0.0.1:9001"}, {"listen": "127.0.0.1:0"}]),
        # what running parts take up, some of it beside what they do not
        "log": st.fixed_dictionaries({}, optional={"level": st.sampled_from(["debug", "error"])}),
        "sources": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["lobby", "yard"]),
                    "url": st.sampled_from(["http://h/a.ts", "http://i/b.flv"]),
                }
            ),
            unique_by=lambda source: source["name"],
        ),
        "reader": st.fixed_dictionaries({}, optional={"max_pixels": st.integers(20_000, 40_000)}),
        "sampling": _sampling,
        "streams": st.lists(
            st.fixed_dictionaries({"match": st.sampled_from(["live/new-*", "live/*"]), "sampling": _sampling}),
            unique_by=lambda stream: stream["match"],
        ),
        "analysis": st.fixed_dictionaries(
            {}, optional={"workers": st.integers(1, 3), "deadline": _seconds, "queue": st.integers(1, 9)}
        ),
        "classes": st.dictionaries(
            st.sampled_from(["standin-cards/smptebars", "standin-cards/testsrc2"]),
            st.fixed_dictionaries({"step": _step}, optional={"review": st.floats(0, 0.8)}),
        ),
        "banks": st.dictionaries(
            st.sampled_from(["A", "B"]), st.fixed_dictionaries({}, optional={"max_distance": st.integers(0, 31)})
        ),
        "votes": st.fixed_dictionaries({}, optional={"k": st.integers(1, 5)}),
        "enforcement": st.fixed_dictionaries(
            {},
            optional={
                "live": st.booleans(),
                "deadline": _seconds,
                "breaker": st.fixed_dictionaries({}, optional={"cuts": st.integers(1, 9)}),
            },
        ),
        "alerts": st.fixed_dictionaries(
            {},
            optional={
                "retain_ended": _seconds,
                "mqtt": st.sampled_from([{"prefix": "p"}, {"url": "mqtt://127.0.0.1:7"}]),
            },
        ),
    },
).map(Config.model_validate)


def _live_settings(config: Config, start: Config) -> list[Any]:
    """All that running parts go by under a config; what only a start takes up is as in `start`."""
    kept = {"sandbox": start.sandbox, "state_dir": start.state_dir}
    config = config.model_copy(update=kept)
    sessions = [session_settings(config, path, SourceKind.HTTP_TS, "http://h/x") for path in _PATHS]
    pool = pool_settings(config, (), workers=1)
    told = [config.log, config.alerts.coverage_every, config.alerts.retain_ended, config.keep, config.http.token]
    response = response_settings(config)
    return [
        *sessions,
        pool,
        breaker_settings(config),
        enforcer_settings(config),
        (response.expires_after_ms, response.is_live),
        list(watched_sources(config)),
        *told,
    ]


def _restart_values(config: Config) -> list[Any]:
    values = []
    for key in NEEDS_RESTART:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        values.append(value)
    return values


def test_every_option_is_classified() -> None:
    """Whoever adds an option must say whether running parts take it up: list it in detector/reload.py."""
    found = set(leaf_patterns())
    assert found == LIVE | set(NEEDS_RESTART)
    assert not LIVE & set(NEEDS_RESTART)


@settings(max_examples=200)
@given(old=_configs, new=_configs)
def test_a_reload_ends_where_a_fresh_start_would(old: Config, new: Config) -> None:
    """What running parts go by is what a start with the new file gives; what needs a restart keeps its old value."""
    if old.models != new.models:  # a class that went stays with the models that run: below
        new = new.model_copy(update={"classes": {**old.classes, **new.classes}})
    changes = difference(old, new)
    assert _live_settings(changes.in_force, old) == _live_settings(new, old)
    assert _restart_values(changes.in_force) == _restart_values(old)
    again = difference(changes.in_force, new)
    assert (again.applied, again.waiting) == ((), changes.waiting)
    assert again.in_force == changes.in_force


@settings(max_examples=100)
@given(old=_configs, new=_configs)
def test_a_difference_is_told_exactly(old: Config, new: Config) -> None:
    """Of equal configs nothing is told; else every key that is told differs, and all is told."""
    assert difference(old, old.model_copy(deep=True)) == difference(old, old)
    assert difference(old, old).applied == difference(old, old).waiting == ()
    changes = difference(old, new)
    is_moved = sorted(source.name for source in old.sources) == sorted(source.name for source in new.sources)
    if old != new and not (is_moved and old.model_copy(update={"sources": new.sources}) == new):
        assert changes.applied or changes.waiting
    for key in changes.waiting:
        is_kept = key.startswith("classes.") and old.models != new.models
        assert is_kept or any(key == each or key.startswith(f"{each}.") for each in NEEDS_RESTART), key


@given(old=_configs, new=_configs)
def test_the_digest_in_alerts_follows_what_is_in_force(old: Config, new: Config) -> None:
    """A config that changes only what needs a restart leaves the digest as it is."""
    changes = difference(old, new)
    assert (config_digest(changes.in_force) == config_digest(old)) == (changes.in_force == old)


def test_the_digest_says_nothing_of_a_key() -> None:
    """The path of a source may be a publisher's key: whoever has the digest can try none of them."""
    places = [{"sources": [{"name": "yard", "url": f"rtmp://h/live/{name}"}]} for name in ("a", "b")]
    assert len({config_digest(Config.model_validate(each)) for each in places}) == 1


@pytest.mark.parametrize(
    ("old", "new", "applied", "waiting"),
    [
        ({}, {"classes": {"standin-cards/smptebars": {}}}, ("classes.standin-cards/smptebars",), ()),
        ({"banks": {"A": {}}}, {"banks": {"A": {"step": "cut"}}}, ("banks.A.step",), ()),
        ({"sources": [{"name": "a", "url": "http://h/a"}]}, {}, ("sources.a",), ()),
        ({}, {"streams": [{"match": "live/*"}]}, ("streams",), ()),
        ({}, {"analysis": {"workers": 3, "queue": 5}}, ("analysis.queue",), ("analysis.workers",)),
        ({}, {"alerts": {"mqtt": {"prefix": "p"}}, "log": {"level": "debug"}}, ("log.level",), ("alerts.mqtt.prefix",)),
        ({}, {"ingest": {"kind": "none"}}, (), ("ingest",)),
        (
            {"classes": {"standin-cards/smptebars": {"step": "cut"}}},
            {"models": ["./other"], "classes": {"other/x": {}}},
            ("classes.other/x",),
            ("models", "classes.standin-cards/smptebars"),
        ),
    ],
)  # fmt: skip
def test_changes_are_named_as_an_operator_writes_them(
    old: dict[str, Any], new: dict[str, Any], applied: tuple[str, ...], waiting: tuple[str, ...]
) -> None:
    """A key for a value, a name for what came or went, the list for what stands in order."""
    changes = difference(Config.model_validate(old), Config.model_validate(new))
    assert (changes.applied, changes.waiting) == (applied, waiting)


def test_the_documents_name_what_needs_a_restart() -> None:
    """The table in docs/operating.md is the one that the service goes by, key by key and reason by reason."""
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    table = text.split("| key | why it waits |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| `{key}` | {why} |" for key, why in NEEDS_RESTART.items()]


def test_a_broker_password_that_was_rotated_waits_for_no_restart(tmp_path: Path) -> None:
    """Each connection reads the file anew, so nothing is told to wait; another file is another matter."""
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("first")

    def read(name: str) -> Config:
        path = tmp_path / "stopframe.yaml"
        path.write_text(f"alerts: {{mqtt: {{username: u, password: {{file: {name}}}}}}}\n")
        return load_config(path)

    old = read("a")
    (tmp_path / "a").write_text("second")
    assert difference(old, read("a")).waiting == ()
    assert difference(old, read("b")).waiting == ("alerts.mqtt.password",)

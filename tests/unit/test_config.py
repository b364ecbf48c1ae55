"""The config: strict at every level, all faults at once, never a traceback, never a secret."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detector.config.config import CloserLook, Config, default_node, default_state_dir
from detector.config.faults import ConfigError, Fault
from detector.config.loading import check_files, config_digest, load_config, read_state_dir
from detector.config.models import ModelSection
from detector.config.references import Secret
from detector.config.sections import AnalysisSection, Section
from detector.cutter.config import CutterConfig
from detector.events import Step
from streams.job import SandboxMode, SourceKind
from streams.sampling import SamplingMode, SamplingSettings

Write = Callable[[str | bytes], Path]
MAY = "trust.trusted_keys[0].may"
TRUSTED = (
    "trust: {trusted_keys: [{name: a, public_key: 'ed25519:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik', may: %s}]}"
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "stopframe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _faults(path: Path) -> list[tuple[int, str, str]]:
    return [(fault.line, fault.key, fault.message) for fault in check_files([path])]


def _only(path: Path) -> Fault:
    faults = check_files([path])
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def _sections(base: type[Section] = Section) -> list[type[Section]]:
    """The types that stand in a config: those that no other one refines."""
    return [section for each in base.__subclasses__() for section in _sections(each)] or [base]


@pytest.mark.parametrize("section", _sections(), ids=lambda section: section.__name__)
def test_every_section_is_frozen_and_refuses_unknown_keys(section: type[Section]) -> None:
    """No section takes a typo silently or changes after loading."""
    assert section.model_config["frozen"] is True
    assert section.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError) as caught:
        section.model_validate({"max_intervl": 1})
    assert "extra_forbidden" in {error["type"] for error in caught.value.errors()}


def test_all_section_types_hang_in_the_config() -> None:
    """The walk above sees every group of keys, a cutter's too: the schemas' objects are exactly the section types."""
    names = {"Config", "CutterConfig"}
    for config in (Config, CutterConfig):
        names |= set(config.model_json_schema()["$defs"])
    assert {section.__name__ for section in _sections()} <= names
    assert len(_sections()) >= 18


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "---\n", "log:\nsampling:\nstreams:\nclasses:\n"])
def test_empty_files_and_sections_are_at_their_defaults(write: Write, content: str) -> None:
    """An empty file is a config, and a section with every line commented out is none."""
    assert load_config(write(content)) == load_config(None)


def test_one_line_is_a_config(write: Write, tmp_path: Path) -> None:
    """Relative paths count from the file."""
    assert load_config(write("state_dir: here/state\n")).state_dir == tmp_path / "here" / "state"


def test_defaults_cut_nothing_and_listen_on_this_machine() -> None:
    """What nobody asked for is harmless."""
    config = load_config(None)
    assert config.enforcement.live is False
    assert config.ingest.listens_on is not None
    assert {config.http.listen.host, config.ingest.listens_on.host, config.alerts.mqtt.url.host} == {"127.0.0.1"}
    assert config.bank("ANY").step is Step.REVIEW
    assert not config.classes


def test_state_dir_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute XDG_STATE_HOME is used, a relative one ignored."""
    monkeypatch.setenv("HOME", "/home/op")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_state_dir() == Path("/var/state/stopframe")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert default_state_dir() == Path("/home/op/.local/state/stopframe")


def test_node_is_reduced_to_what_a_topic_may_hold() -> None:
    """The host's name passes the same check as a written one."""
    assert Config(node=default_node()).node == default_node()


def test_every_fault_is_reported_at_once_with_its_line(write: Write) -> None:
    """A typo, a bad value, an unknown word and a conflict between sound keys come together."""
    found = _faults(
        write(
            "smapling: {}\n"
            "sampling:\n"
            "  detect_wihin: 3s\n"
            "  interval: 5 s\n"
            "  mode: atuo\n"
            "streams:\n"
            "  - sampling: {mode: 7}\n"
            "votes: {k: 7, of: 5}\n"
            "reader: {max_pixels: 12}\n"
            "http: {listen: 127.0.0.1:8935}\n"
            "sources: [{name: a b, url: http://h/x}]\n"
        )
    )
    assert [(line, key) for line, key, _ in found] == [
        (1, "smapling"),
        (3, "sampling.detect_wihin"),
        (4, "sampling.interval"),
        (5, "sampling.mode"),
        (7, "streams[0].match"),
        (7, "streams[0].sampling.mode"),
        (8, "votes.k"),
        (9, "reader.max_pixels"),
        (10, "http.listen"),
        (11, "sources[0].name"),
    ]
    words = {key: message for _, key, message in found}
    assert "did you mean sampling?" in words["smapling"]
    assert (
        "blind_bursts, bursts, closer_hold, closer_interval, detect_within, floor, hint_interval, interval, max_cpu, "
        "mode or spikes" in words["sampling.detect_wihin"]
    )
    assert words["sampling.interval"].startswith('"5 s" is no duration')
    assert "did you mean auto?" in words["sampling.mode"]
    assert words["reader.max_pixels"] == "12 does not fit; write at least 16384"


def test_a_fault_reads_file_line_key_and_remedy(write: Write) -> None:
    """Scripts split on the first colons."""
    path = write("\nsandbox: on\n")
    assert str(_only(path)) == f'{path}:2: sandbox: "on" does not fit; write require, prefer or off'


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ("detect_within: 3s", "detect_within", "write sampling.detect_within"),
        ("sandbox: false", "sandbox", "write require, prefer or off"),
        ("enforcement: {live: yes}", "enforcement.live", "write true or false"),
        ("enforcement: {live: 1}", "enforcement.live", "write true or false"),
        ("votes: {k: '3'}", "votes.k", "write a whole number"),
        ("votes: {k: 2.5}", "votes.k", "write a whole number"),
        ("votes: {k: true}", "votes.k", "write a whole number"),
        ("votes: {k: }", "votes.k", "has no value; write a whole number, or leave the key out"),
        ("node: 5", "node", "in quotes where it looks like a number"),
        ("node: a/b", "node", "letters, digits, _ and -"),
        ("log: loud", "log", "write keys and values below it"),
        ("sources: {a: b}", "sources", "write a list: each entry below it begins with a dash, as in '- name: ...'"),
        ("models: x", "models", "as in '- name: ...'"),
        ("keep: 0d", "keep", "0d is out of range; write between 1d and 3650d"),
        ("analysis: {workers: 0}", "analysis.workers", "write auto (one per core) or 1 to 256"),
        ("sampling: {detect_within: 1ms}", "sampling.detect_within", "write between 200ms and 10m"),
        ("models: [standin-cards, standin-cards]", "models[1]", "stands in models[0] already"),
        ("streams: [{match: a}, {match: a}]", "streams[1].match", "stands in streams[0] already"),
        ("classes: {standin-card/x: {}}", "classes.standin-card/x", "did you mean standin-cards"),
        ("classes: {smptebars: {}}", "classes.smptebars", "the model's name / the label"),
        ("classes: {standin-cards/x: {step: no}}", "classes.standin-cards/x.step", "off, shadow, review or cut"),
        ("classes: {standin-cards/x: {cut: 0.5}}", "classes.standin-cards/x.cut", "0.5 is below review (0.7)"),
        ("classes: {standin-cards/x: {review: .nan}}", "classes.standin-cards/x.review", "write a number"),
        ("banks: {'[key]': {}}", "banks.[key]", "capitals, digits and _"),
        ("banks: {my-bank: {}}", "banks.my-bank", "capitals, digits and _"),
        ("banks: {A: {max_distance: 73}}", "banks.A.max_distance", "auto (by the list's length) or 0 to 72"),
        ("banks: {A: {max_distance: near}}", "banks.A.max_distance", "is no distance"),
        ("banks: {A: {kind: negative, step: cut}}", "banks.A.step", "only takes matches back"),
        ("banks: {A: {ratio: 120%}}", "banks.A.ratio", "more than the whole"),
        ("banks: {A: {disable_until: tomorrow}}", "banks.A.disable_until", "write a day such as 2027-01-31"),
        ("matching: {false_matches_per_day: 0}", "matching.false_matches_per_day", "at least 0.001"),
        ("matching: {streams: 0}", "matching.streams", "at least 1"),
        ("reader: {ring_limit: 1GiB, memory_limit: 1GiB}", "reader.ring_limit", "more than half of memory_limit"),
        ("alerts: {mqtt: {url: mqtt://broker.example}}", "alerts.mqtt.url", "embedded_broker: false"),
        ("alerts: {mqtt: {url: mqtts://127.0.0.1}}", "alerts.mqtt.url", "asks for TLS"),
        ("alerts: {mqtt: {url: mqtt://h:0, embedded_broker: false}}", "alerts.mqtt.url", "write the broker's port"),
        ("alerts: {mqtt: {ca_file: ca.crt}}", "alerts.mqtt.ca_file", "is for TLS alone"),
        (
            "alerts: {mqtt: {url: mqtts://h, embedded_broker: false, key_file: own.key}}",
            "alerts.mqtt.key_file",
            "write certificate_file as well",
        ),
        (TRUSTED % "[lists]", f"{MAY}[0]", "did you mean list?"),
        (TRUSTED % "[]", MAY, "an empty list does not fit; write a list of at least one value"),
        ("alerts: {mqtt: {verify: false}}", "alerts.mqtt.verify", "no such key"),
        ("alerts: {mqtt: {prefix: a/#}}", "alerts.mqtt.prefix", "no + # $"),
        ("alerts: {mqtt: {password: '${P}'}}", "alerts.mqtt.password", "write username"),
        ("ingest: {listen: '127.0.0.1:1883'}", "alerts.mqtt.url", "the address of ingest.listen too"),
        ("ingest: {kind: embeded, listen: 5, nope: 1}", "ingest.kind", "did you mean embedded?"),
        ("ingest: {kind: [a], listen: x}\nhttp: {listen: 127.0.0.1:8935}", "ingest.kind", "write ant-media"),
        ("ingest: {kind: none, listen: 127.0.0.1:1}", "ingest.listen", "no such key of this kind; write another kind"),
        ("ingest: {max_publisher: 3}", "ingest.max_publisher", "did you mean max_publishers?"),
        ("ingest: {max_publishers: 0}", "ingest.max_publishers", "at least 1"),
        ("ingest: embedded", "ingest", "write keys and values below it"),
        ('state_dir: "a\\0b"', "state_dir", "needs the path"),
        ("a: &x 1", "(file)", "anchors"),
        ("a: *x", "(file)", "anchors"),
        ("a: !!python/object/apply:os.system [ls]", "(file)", "tags"),
        ("a: 1\n---\nb: 2", "(file)", "a second document"),
        ("- a", "(file)", "the file holds a list"),
        ("a:\n\tb: 1", "(file)", "a tab stands here"),
        ("a: [1, 2", "(file)", "this is no YAML"),
        ("a: \x00", "(file)", "a character stands here"),
        ('a: "\\UFFFFFFFF"', "(file)", "out of range"),
        ('a: "\\uD800"', "(file)", "surrogate"),
        ("[a]: 1", "(file)", "where a key belongs"),
        ("[" * 3000, "(file)", "too deep"),
        (b"a: \xff\xfe", "(file)", "not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "(file)", "larger than 1 MiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_fault_says_what_would_be_right(write: Write, content: str | bytes, key: str, words: str) -> None:
    """One mistake gives one fault, at its key, with its remedy."""
    fault = _only(write(content))
    assert fault.key == key
    assert words in fault.message


def test_a_repeated_key_names_both_lines(write: Write) -> None:
    """The second of two equal keys is at fault, whatever their values."""
    fault = _only(write("votes: {k: 1}\nhttp: {}\nvotes: {k: 2}\n"))
    assert (fault.line, fault.key) == (3, "votes")
    assert "line 1" in fault.message


def test_a_file_full_of_faults_is_told_in_time(write: Write) -> None:
    """Thousands of faults end in the first 200 and a word that there are more, not in minutes of work."""
    faults = check_files([write("".join(f"k{number}: 1\n" for number in range(9000)))])
    assert len(faults) == 201
    assert "correct these first" in faults[-1].message
    assert (faults[0].line, faults[-1].key) == (1, "(file)")


def test_the_words_off_and_on_stay_words(write: Write) -> None:
    """`off` needs no quotes, though YAML 1.1 takes it for a boolean, and 1:30 is no number of seconds."""
    assert load_config(write("sandbox: off\nbanks: {A: {step: off}}\n")).sandbox is SandboxMode.OFF
    assert "is no duration" in _only(write("sampling: {interval: 1:30}")).message


@pytest.mark.parametrize("path", ["absent.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, path: str) -> None:
    """Missing files, folders and impossible names get one sentence."""
    (fault,) = check_files([f"{tmp_path}/{path}"])
    assert "name a readable config file" in fault.message
    with pytest.raises(ConfigError, match="name a readable config file"):
        load_config(f"{tmp_path}/{path}")


def test_free_ports_collide_with_nothing(write: Write) -> None:
    """Port 0 may stand at every server of ours at once."""
    text = (
        "ingest: {listen: '127.0.0.1:0'}\nhttp: {listen: '127.0.0.1:0'}\nalerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\n"
    )
    assert load_config(write(text)).alerts.mqtt.url.port == 0


def test_tls_files_count_from_the_config_file(write: Write) -> None:
    """Certificates are named as the state folder is, and are not looked at before they are needed."""
    text = "alerts: {mqtt: {url: mqtts://h, embedded_broker: false, ca_file: tls/ca.crt, certificate_file: /own.pem}}\n"
    path = write(text)
    mqtt = load_config(path).alerts.mqtt
    assert (mqtt.ca_file, mqtt.certificate_file, mqtt.key_file) == (
        path.parent / "tls/ca.crt",
        Path("/own.pem"),
        None,
    )


_PASSWORD = "alerts: {mqtt: {username: u, password: %s}}\n"


@pytest.mark.parametrize(
    "value", ["hunter2", "'${A}hunter2'", "{file: a, hunter2: b}", "[hunter2]", "'mqtt://hunter2'"]
)
def test_a_password_in_the_file_is_refused_and_not_shown(write: Write, value: str) -> None:
    """A secret never stands in the file; the fault says how to name it instead."""
    fault = _only(write(_PASSWORD % value))
    assert "{file: PATH}" in fault.message
    assert "hunter2" not in str(fault)


@pytest.mark.parametrize(
    "content",
    [
        "alerts: {mqtt: {url: 'mqtt://u:hunter2@h'}}",
        "alerts: {mqtt: 'mqtt://u:hunter2@h'}",
        "alerts: {mqtt: {pasword: hunter2}}",
        "sources: [{name: a, url: 'rtmp://h/live/hunter2#x'}]",
        "sources: [{name: a, url: 'ftp://h/hunter2'}]",
        "sources: ['rtmp://h/live/hunter2']",
        "node: rtmp://h/live/hunter2",
    ],
)
def test_faults_show_no_credentials_wherever_they_stand(write: Write, content: str) -> None:
    """Keys and passwords are withheld even under a key where they do not belong."""
    path = write(content)
    assert _faults(path)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"


def test_a_secret_comes_from_the_environment_or_a_file(write: Write, tmp_path: Path) -> None:
    """Both ways give the same secret, and neither shows it."""
    (tmp_path / "pw").write_text("hunter2\n")
    for value in ("'${PW}'", "{file: pw}"):
        config = load_config(write(_PASSWORD % value), environment={"PW": "hunter2"})
        assert config.alerts.mqtt.password is not None
        assert config.alerts.mqtt.password.reveal() == "hunter2"
        assert "hunter2" not in f"{config!r} {config} {config.model_dump_json()}"


def test_check_asks_neither_environment_nor_secret_files(write: Write) -> None:
    """`check` reads the file alone; the loader then names what is missing, by line."""
    path = write("sources: [{name: a, url: '${URL}'}]\n" + _PASSWORD % "{file: absent}")
    assert check_files([path]) == []
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    assert [(fault.line, fault.key) for fault in caught.value.faults] == [
        (1, "sources[0].url"),
        (2, "alerts.mqtt.password"),
    ]
    assert "URL is not set" in caught.value.faults[0].message
    with pytest.raises(LookupError):
        Secret("${X}").reveal()


def test_a_source_from_the_environment_is_checked_when_loaded(write: Write) -> None:
    """A URL that a variable holds is held to the same rules, and the variable's text is not shown."""
    path = write("sources: [{name: a, url: '${URL}'}]")
    source = load_config(path, environment={"URL": "rtmp://h/live/KEY"}).sources[0]
    assert (source.url.kind, source.url.reveal()) == (SourceKind.RTMP, "rtmp://h/live/KEY")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={"URL": "gopher://h/KEY"})
    assert "KEY" not in str(caught.value)


def test_only_secrets_are_taken_from_the_environment(write: Write) -> None:
    """`${NAME}` anywhere else is text, and here not a valid one."""
    with pytest.raises(ConfigError):
        load_config(write("node: '${HOME}'"), environment={"HOME": "x"})


def test_streams_override_value_by_value_and_the_first_match_wins(write: Write) -> None:
    """A line changes what it names and nothing else; case counts; an interval never outlasts the promise."""
    config = load_config(
        write(
            "sampling: {interval: 800ms, closer_interval: 100ms}\n"
            "streams:\n"
            "  - match: live/new-*\n"
            "    sampling: {detect_within: 500ms, bursts: 33%}\n"
            "  - match: live/*\n"
            "    sampling: {mode: full, closer_hold: 9s, spikes: false}\n"
        )
    )
    assert config.sampling_for("live/new-1") == SamplingSettings(0.5, 0.5, SamplingMode.AUTO, 0.33, spikes=True)
    assert config.sampling_for("live/New-1") == SamplingSettings(3.0, 0.8, SamplingMode.FULL, 0.05, spikes=False)
    assert config.sampling_for("other") == SamplingSettings(3.0, 0.8, SamplingMode.AUTO, 0.05, spikes=True)
    assert config.closer_look_for("live/x") == CloserLook(interval_seconds=0.1, hold_seconds=9.0)


def test_models_are_zoo_names_or_paths_from_the_file(write: Write, tmp_path: Path) -> None:
    """A zoo name stays; a path is made absolute, and then any model may be named under classes."""
    config = load_config(write("models: [standin-cards, ./mine, m.yaml]\nclasses: {other/x: {}}"))
    references = [model.reference for model in config.models]
    assert references == ["standin-cards", str(tmp_path / "mine"), str(tmp_path / "m.yaml")]


def test_a_model_may_have_a_section(write: Write, tmp_path: Path) -> None:
    """What runs it and when it is asked stands beside its name or path; a plain word stands for a section alone."""
    text = (
        "models:\n  - standin-cards\n  - {path: ./mine, provider: cpu, after: {standin-cards/smptebars: 0.2}, "
        "reuse_for: 2s, tiles: true, jitter: 5%}\n"
    )
    plain, mine = load_config(write(text)).models
    assert plain == ModelSection(name="standin-cards")
    assert (mine.reference, mine.provider, mine.after) == (
        str(tmp_path / "mine"),
        "cpu",
        {"standin-cards/smptebars": 0.2},
    )
    assert (mine.reuse_for.seconds, mine.tiles, mine.jitter.ratio) == (2.0, True, 0.05)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("[{provider: cpu}]", "needs name (of the zoo) or path"),
        ("[{name: a, path: ./b}]", "needs name (of the zoo) or path"),
        ("[{name: ./a}]", "write it under path"),
        ("[{path: a}]", "write it under name"),
        ("[{name: a, reuse_for: 1m}]", "10s"),
        ("[{name: a, jitter: 30%}]", "20%"),
        ("[{name: a, after: {b/x: 0.5}}]", 'its model "b" is not under models'),
        ("[a, {name: a, tiles: true}]", "already"),
        ("[{name: a, provider: gpu}]", "provider"),
    ],
)
def test_a_models_section_that_makes_no_sense_is_refused(write: Write, models: str, words: str) -> None:
    """One sentence with the remedy."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(f"models: {models}"))
    assert words in str(caught.value.faults[0])


def test_workers_auto_is_one_per_core() -> None:
    """`auto` counts the cores that this process may use."""
    assert AnalysisSection().worker_count >= 1
    assert AnalysisSection(workers=3).worker_count == 3


def test_digest_follows_values_and_not_secrets(write: Write) -> None:
    """Two spellings of one config have one digest; another value another; a password's change none."""
    one = load_config(write("sampling: {detect_within: 3000ms}\nnode: a\nstate_dir: /s"))
    other = load_config(write("state_dir: /s\nnode: a"))
    assert config_digest(one) == config_digest(other)
    assert len(config_digest(one)) == 64
    assert config_digest(load_config(write("state_dir: /s\nnode: b"))) != config_digest(other)
    secret = write(_PASSWORD % "'${PW}'")
    digests = {config_digest(load_config(secret, environment={"PW": word})) for word in ("one", "two")}
    assert len(digests) == 1


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["3s", "off", "2%"])
)
_KEYS = st.sampled_from([*Config.model_fields, "interval", "match", "url", "mqtt", "step", "k"]) | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12
)


def _load_or_refuse(path: Path) -> None:
    faults = check_files([path])
    assert all(fault.line >= 1 and fault.key and fault.message for fault in faults)
    assert all(str(fault).isprintable() for fault in faults)
    if faults:
        with pytest.raises(ConfigError):
            load_config(path, environment={})
    elif "${" not in path.read_text():
        assert json.loads(load_config(path, environment={}).model_dump_json())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
@example({"[key]": None})
@example({"classes": {"[key]": {"[key]": 1}}})
def test_any_tree_of_values_loads_or_is_refused_by_faults(tmp_path: Path, values: dict[str, object]) -> None:
    """Whatever is nested in whatever, nothing but ConfigError comes out."""
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    _load_or_refuse(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-?[]{}#&*!|>'\"%@ \n\\xuU0f,~", max_size=80).map(str.encode))
def test_any_bytes_load_or_are_refused_by_faults(tmp_path: Path, content: bytes) -> None:
    """Whatever the file holds, nothing but ConfigError comes out."""
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    _load_or_refuse(path)


@pytest.mark.parametrize(
    ("content", "folder"),
    [
        ("state_dir: here\nalerts: {mqtt: {username: a, password: {file: /nowhere}}}\n", "here"),
        ("state_dir: here\nno_such_key: 1\n", "here"),
        ('log: {level: info\nstate_dir: "here"  # remark\n', "here"),
        ("log: {level: info\n", None),
        ("", None),
    ],
)
def test_a_faulty_file_still_says_where_its_service_is(write: Write, content: str, folder: str | None) -> None:
    """A running service goes on with its last good config, and health, cut and streams must find it meanwhile."""
    path = write(content)
    assert read_state_dir(path) == (path.parent / folder if folder else default_state_dir())


@pytest.mark.parametrize("content", ["state_dir: [a]\n", "state_dir: {\n", "state_dir: 1\nx: y\n"])
def test_a_file_whose_state_dir_is_the_fault_says_so(write: Write, content: str) -> None:
    """Nobody can guess then where the service is: the file's faults are told."""
    with pytest.raises(ConfigError):
        read_state_dir(write(content))


def test_a_missing_file_says_nothing_of_a_service(tmp_path: Path) -> None:
    """Its fault is told, and no other folder is looked into."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state_dir(tmp_path / "absent.yaml")

"""The false-match budget against configs and banks: refused with the arithmetic, held where a bank outgrows it."""

import re
import secrets
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.analysis.setup import BANKS_FOLDER, pool_settings
from detector.banks.budget import BudgetExceeded, BudgetWatch, bank_load, bank_sizes, excesses, refuse_excess
from detector.cli.scan import analysis_pool
from detector.config.config import Config
from models.bank_store import add_entries
from models.radii import radii_for

LONG = 1_000_000


def _config(**values: object) -> Config:
    return Config.model_validate({"models": (), **values})


@pytest.mark.parametrize("rows", [1, 500, 67_500, LONG, 10_000_000])
def test_the_defaults_bear_a_bank_of_any_length(rows: int) -> None:
    """Without a word in the config nothing is refused, and a bank goes by the limits of its length."""
    load = bank_load(_config(), "LIST", {"LIST": rows})
    assert (load.is_over, load.radii) == (False, radii_for(rows))
    assert list(excesses(_config(), {"LIST": rows})) == []


def test_a_wide_limit_for_a_long_list_is_refused_with_the_arithmetic() -> None:
    """The sentence says what is multiplied by what, what comes of it, and two ways out."""
    config = _config(banks={"LIST": {"step": "cut", "max_distance": 64}})

    ((name, sentence),) = excesses(config, {"LIST": LONG})

    assert name == "LIST"
    assert "1,000,000 rows x 40 views x 8,640,000 frames a day of 100 streams x 5e-09" in sentence
    assert "strangers within 64 bits, by the weighted share) is 1,728,000 false matches a day" in sentence
    assert "more than the 100 of matching.false_matches_per_day" in sentence
    assert "false_matches_per_day to" not in sentence, "no config takes a budget as large as that"
    assert len(re.findall(r"[.;] ", sentence)) <= 2


def test_both_remedies_work() -> None:
    """Doing what the sentence says gives a config that is taken."""
    banks = {"LIST": {"step": "cut", "max_distance": 48}}
    ((_, sentence),) = excesses(_config(banks=banks), {"LIST": LONG})
    bits = int(re.search(r"max_distance: (\d+)", sentence)[1])  # type: ignore[index]
    budget = float(re.search(r"false_matches_per_day to (\d+)", sentence)[1])  # type: ignore[index]

    narrower = _config(banks={"LIST": {"step": "cut", "max_distance": bits}})
    one_wider = _config(banks={"LIST": {"step": "cut", "max_distance": bits + 1}})
    richer = _config(banks=banks, matching={"false_matches_per_day": budget})

    assert not list(excesses(narrower, {"LIST": LONG}))
    assert list(excesses(one_wider, {"LIST": LONG}))
    assert not list(excesses(richer, {"LIST": LONG}))


@pytest.mark.parametrize(
    ("values", "is_over"),
    [
        ({"matching": {"streams": 100_000}}, True),
        ({"sampling": {"interval": "50ms"}, "matching": {"streams": 2000}}, True),
        ({"streams": [{"match": "live/*", "sampling": {"interval": "50ms"}}], "matching": {"streams": 2000}}, True),
        ({"matching": {"streams": 100_000}, "banks": {"LIST": {"step": "shadow"}}}, False),
        ({"matching": {"streams": 100_000}, "banks": {"LIST": {"kind": "negative"}}}, False),
        ({"matching": {"streams": 20_000}, "banks": {"LIST": {"ratio": "1%"}}}, False),
        ({"matching": {"streams": 100_000}, "banks": {"LIST": {"max_distance": 9}}}, False),
    ],
)
def test_rate_and_streams_count_and_what_cannot_act_does_not(values: dict[str, object], is_over: bool) -> None:  # noqa: FBT001
    """More frames of more streams cost more; a shadow, a negative bank and a small roll-out cost nothing or little."""
    assert bank_load(_config(**values), "LIST", {"LIST": LONG}).is_over is is_over


@given(
    rows=st.integers(1, 30_000_000), bits=st.integers(0, 72), streams=st.integers(1, 10_000), other=st.integers(0, LONG)
)
def test_what_is_held_is_within_the_budget(rows: int, bits: int, streams: int, other: int) -> None:
    """The limit that a watch gives for a bank is one that a config could have named."""
    values = {"matching": {"streams": streams}, "banks": {"LIST": {"step": "cut", "max_distance": bits}}}
    sizes = {"LIST": rows, "OTHER": other}
    held = BudgetWatch().look(_config(**values), sizes)
    if "LIST" in held and held["LIST"] > 0:
        values["banks"] = {"LIST": {"step": "cut", "max_distance": held["LIST"]}}
        assert not bank_load(_config(**values), "LIST", sizes).is_over


def test_a_bank_on_disk_is_counted_and_an_unreadable_one_passed_over(tmp_path: Path) -> None:
    """What the pointer says counts; a bank that nobody can read matches nothing."""
    folder = tmp_path / BANKS_FOLDER
    add_entries(folder / "LIST", np.frombuffer(secrets.token_bytes(96), np.uint8).reshape(3, 32), ["a", "b", "c"])
    (folder / "BROKEN").mkdir()
    (folder / "BROKEN" / "bank.json").write_text("{")
    assert bank_sizes(tmp_path) == {"LIST": 3}
    assert bank_sizes(tmp_path / "nowhere") == {}


def test_a_refusal_names_every_bank(tmp_path: Path) -> None:
    """Who mends one bank does not learn of the next only then."""
    rows = np.frombuffer(secrets.token_bytes(96), np.uint8).reshape(3, 32)
    for name in ("LIST", "OTHER"):
        add_entries(tmp_path / BANKS_FOLDER / name, rows, ["a", "b", "c"])
    with pytest.raises(BudgetExceeded) as refused:
        refuse_excess(_config(state_dir=tmp_path, matching={"false_matches_per_day": 0.001}))
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["bank LIST", "bank OTHER"]


def test_a_start_is_refused_and_a_running_service_holds(tmp_path: Path) -> None:
    """The same excess is an error at a start; while the service runs it narrows the bank's limit and is told."""
    rows = np.frombuffer(secrets.token_bytes(96), np.uint8).reshape(3, 32)
    add_entries(tmp_path / BANKS_FOLDER / "LIST", rows, ["a", "b", "c"])
    tight = _config(
        state_dir=tmp_path,
        banks={"LIST": {"step": "cut", "max_distance": 64}},
        matching={"false_matches_per_day": 0.01},
    )
    with pytest.raises(BudgetExceeded, match="bank LIST: 3 rows x 40 views"):
        refuse_excess(tight)

    watch = BudgetWatch()
    held = watch.look(tight, bank_sizes(tmp_path))

    assert 0 < held["LIST"] < 64
    assert pool_settings(tight, (), held=held).setup.bank_limits == held
    (told,) = watch.notes()
    assert told.startswith(f"bank LIST is held to {held['LIST']} bits")
    assert watch.look(_config(), bank_sizes(tmp_path)) == {}
    assert watch.notes() == []


def test_a_negative_bank_makes_no_list_longer() -> None:
    """Reckoned as it is matched: what takes matches back widens nothing, and narrows nothing either."""
    sizes = {"LIST": 400, "SAFE": 10_000}
    assert bank_load(_config(banks={"SAFE": {"kind": "negative"}}), "LIST", sizes).radii == radii_for(400)
    assert bank_load(_config(), "LIST", sizes).radii == radii_for(800)


def test_a_scan_holds_what_the_service_holds(tmp_path: Path) -> None:
    """A file is matched under the limits that a stream would be."""
    rows = np.frombuffer(secrets.token_bytes(64), np.uint8).reshape(2, 32)
    add_entries(tmp_path / BANKS_FOLDER / "LIST", rows, ["one", "two"])
    matching = {"false_matches_per_day": 0.001, "streams": 1_000_000}
    tight = analysis_pool(_config(state_dir=str(tmp_path), matching=matching), 1, ())
    assert tight._settings.setup.bank_limits["LIST"] < 31
    assert analysis_pool(_config(state_dir=str(tmp_path)), 1, ())._settings.setup.bank_limits == {}

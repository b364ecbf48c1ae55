"""The shipped dashboard and alert rules: sound PromQL, over metrics and labels that the service really has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from detector.metrics import Metrics

CONFIGS = Path(__file__).parents[2] / "configs"
DASHBOARD: dict[str, Any] = json.loads((CONFIGS / "grafana/stopframe.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((CONFIGS / "prometheus/alerts.yaml").read_text(encoding="utf-8"))["groups"]

_ADDED_BY_PROMETHEUS = {"instance", "job"}


def _known() -> dict[str, set[str]]:
    """Every series by name, with the labels it may bear."""
    known: dict[str, set[str]] = {"up": set()}
    for family in Metrics()._registry.collect():
        labels = set(getattr(_metric(family.name), "_labelnames", ()))
        if family.type == "histogram":
            known |= {f"{family.name}_bucket": labels | {"le"}, f"{family.name}_sum": labels}
        known[family.name + ("_total" if family.type == "counter" else "")] = labels
    return known


def _metric(family: str) -> Any:
    series = Metrics()._series
    return next((one for one in vars(series).values() if getattr(one, "_name", None) == family), None)


KNOWN = _known()


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _expressions() -> list[str]:
    """What the panels and rules ask, with Grafana's variables put in."""
    asked = [target["expr"] for panel in _panels() for target in panel["targets"]]
    asked += [rule["expr"] for group in RULES for rule in group["rules"]]
    return [re.sub(r"\$__(rate_interval|range)", "5m", one).replace("$instance", ".*") for one in asked]


def _parts(expression: Any) -> Iterator[Any]:
    """The expression and all that it is made of."""
    yield expression
    for name in ("expr", "param", "lhs", "rhs", "vector_selector", "vs"):
        part = getattr(expression, name, None)
        if isinstance(part, promql_parser.Expr):
            yield from _parts(part)
    for part in getattr(expression, "args", None) or ():
        yield from _parts(part)


@pytest.mark.parametrize("text", sorted(set(_expressions())))
def test_each_expression_is_sound_and_asks_for_what_there_is(text: str) -> None:
    """It parses, and each series in it exists and has the labels by which it is chosen or grouped."""
    parts = list(_parts(promql_parser.parse(text)))
    series = [part for part in parts if isinstance(part, promql_parser.VectorSelector)]
    assert series, text
    labels: set[str] = set()
    for one in series:
        assert one.name in KNOWN, text
        chosen = {matcher.name for matcher in one.matchers.matchers}
        assert chosen <= KNOWN[one.name] | _ADDED_BY_PROMETHEUS, text
        labels |= KNOWN[one.name]
    for part in parts:
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            assert set(part.modifier.labels) <= labels | _ADDED_BY_PROMETHEUS, text


def test_every_metric_of_the_product_is_on_the_dashboard() -> None:
    """What is counted can be looked at: a new metric needs a panel."""
    shown = {
        part.name for text in _expressions() for part in _parts(promql_parser.parse(text)) if hasattr(part, "name")
    }
    ours = {name for name in KNOWN if name.startswith("stopframe_") and not name.endswith("_sum")}
    histograms = {name for name in ours if f"{name}_bucket" in ours}
    assert ours - histograms - shown == set()


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """The data source is a variable, panels have numbers and places of their own, every one says what it shows."""
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in _panels():
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_rule_says_how_bad_it_is_and_whom_it_means() -> None:
    """A severity, a sentence with the node's name, and no name twice."""
    rules = [rule for group in RULES for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert "$labels.instance" in rule["annotations"]["summary"]

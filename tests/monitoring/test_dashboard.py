"""The dashboard: Grafana can load it, and every panel uses exported metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from testbed.exposition import parsed, promtool
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.metrics import exposition, families

BOARD = json.loads((Path(__file__).resolve().parents[2] / "config/grafana/dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
FAMILIES = families(figures(seen(*tables(3))))
HOSTS = ("a:9786", "b:9786")
VARIABLES = {"$instance": "|".join(HOSTS), "$__rate_interval": "5m"}
"""Grafana's variables, and values for the tests."""
COLUMNS = 24
SCRAPE_LABELS = {"instance", "job"}


def expressions() -> Iterator[str]:
    """Yield every expression of the dashboard."""
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["expr"] for each in BOARD["annotations"]["list"])


def filled_in(expression: str) -> str:
    """Return an expression with its variables replaced."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def series() -> Iterator[dict[str, str]]:
    """Yield the series of two guards for ten minutes: counters and the limit grow, other figures are constant."""
    for metric in parsed(exposition(FAMILIES)):
        for name, labels, value in metric.samples:
            for host in HOSTS:
                all_labels = ", ".join(
                    f'{key}="{each}"' for key, each in {**labels, "instance": host, "job": "g"}.items()
                )
                step = 1 if metric.type == "counter" or name == "guard_limit_entries" else 0
                yield {"series": f"{name}{{{all_labels}}}", "values": f"{value:.0f}+{step}x10"}


def test_it_can_be_imported() -> None:
    """It has a title, a fixed uid and a schema version, and no id, which Grafana assigns."""
    assert {"title", "uid", "schemaVersion", "time", "refresh", "templating", "annotations"} <= BOARD.keys()
    assert "id" not in BOARD
    assert re.fullmatch(r"[\w-]{1,40}", BOARD["uid"])
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "instance"]
    assert BOARD["templating"]["list"][0]["type"] == "datasource"


def test_every_panel_is_complete() -> None:
    """Each panel has an id, a type, a title, a position and named targets with the selected data source."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "state-timeline", "table"}
        assert panel["title"]
        assert panel["description"].endswith(".")
        names = [target["refId"] for target in panel["targets"]]
        assert names
        assert len(set(names)) == len(names)
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_do_not_overlap() -> None:
    """All are within the 24 columns."""
    places = [panel["gridPos"] for panel in PANELS]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= COLUMNS and at["h"] > 0 for at in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_every_expression_is_valid(tmp_path: Path) -> None:
    """Promtool parses them with Grafana's variables replaced."""
    filled = [filled_in(expression) for expression in expressions()]
    assert not [expression for expression in filled if "$" in expression]
    rules = [{"record": f"filled:{number}", "expr": expression} for number, expression in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "filled", "rules": rules}]}))
    command = [promtool(), "check", "rules", "--lint=none", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_expression_returns_data_for_every_host(tmp_path: Path) -> None:
    """With two guards and several tables each, no panel is empty and all joins match."""
    found = [
        {
            "expr": f"count(count by (instance) ({filled_in(expression)}))",
            "eval_time": "10m",
            "exp_samples": [{"labels": "{}", "value": len(HOSTS)}],
        }
        for expression in expressions()
    ]
    test = {"interval": "1m", "input_series": list(series()), "promql_expr_test": found}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    command = [promtool(), "test", "rules", str(tmp_path / "tests.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_exactly_the_exported_metrics() -> None:
    """Renaming a metric breaks no panel, and every metric is shown."""
    exported = {family.name for family in FAMILIES}
    used = {name for expression in expressions() for name in re.findall(r"\bguard_\w+", expression)}
    assert used == exported
    assert "guard_build_info" in BOARD["templating"]["list"][1]["query"]["query"]


def test_legends_use_existing_labels() -> None:
    """A legend uses only labels of its metrics."""
    labels = {family.name: {*family.labels} | SCRAPE_LABELS for family in FAMILIES}
    for panel in PANELS:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            known = set.intersection(*(labels[name] for name in re.findall(r"\bguard_\w+", target["expr"])))
            assert shown <= known, target["expr"]

"""The dashboard: what Grafana needs to load it, and that every panel asks for something that is told."""

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
TOLD = families(figures(seen(*tables(3))))
HOSTS = ("a:9786", "b:9786")
VARIABLES = {"$instance": "|".join(HOSTS), "$__rate_interval": "5m"}
"""What Grafana puts in, and something to put in here."""
COLUMNS = 24
OF_THE_SCRAPE = {"instance", "job"}


def expressions() -> Iterator[str]:
    """Yield everything the dashboard asks Prometheus."""
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["expr"] for each in BOARD["annotations"]["list"])


def filled_in(expression: str) -> str:
    """Return what Prometheus gets of it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def series() -> Iterator[dict[str, str]]:
    """Yield all that two guards tell for ten minutes: counters and the limit grow, the rest stays as it is."""
    for metric in parsed(exposition(TOLD)):
        for name, labels, value in metric.samples:
            for host in HOSTS:
                all_labels = ", ".join(
                    f'{key}="{each}"' for key, each in {**labels, "instance": host, "job": "g"}.items()
                )
                step = 1 if metric.type == "counter" or name == "guard_limit_entries" else 0
                yield {"series": f"{name}{{{all_labels}}}", "values": f"{value:.0f}+{step}x10"}


def test_it_has_what_an_import_needs() -> None:
    """A title, an identity that stays, a version of its form; no id, which is each Grafana's own."""
    assert {"title", "uid", "schemaVersion", "time", "refresh", "templating", "annotations"} <= BOARD.keys()
    assert "id" not in BOARD
    assert re.fullmatch(r"[\w-]{1,40}", BOARD["uid"])
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "instance"]
    assert BOARD["templating"]["list"][0]["type"] == "datasource"


def test_every_panel_is_whole() -> None:
    """Its own id, a type, a title, a place, and targets that each have a name and the chosen data source."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "state-timeline", "table"}
        assert panel["title"]
        assert panel["description"].endswith(".")
        names = [target["refId"] for target in panel["targets"]]
        assert names
        assert len(set(names)) == len(names)
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_no_panel_lies_on_another() -> None:
    """Within the 24 columns."""
    places = [panel["gridPos"] for panel in PANELS]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= COLUMNS and at["h"] > 0 for at in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """As promtool reads them, with Grafana's variables put in."""
    asked = [filled_in(expression) for expression in expressions()]
    assert not [expression for expression in asked if "$" in expression]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    command = [promtool(), "check", "rules", "--lint=none", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_expression_finds_something_on_every_host(tmp_path: Path) -> None:
    """Two guards are scraped, each with several tables: no panel stays empty, and none joins what does not match."""
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


def test_every_metric_asked_for_is_told_and_every_one_told_is_shown() -> None:
    """No panel stays empty after a change of names, and nothing is told for nobody."""
    told = {family.name for family in TOLD}
    asked = {name for expression in expressions() for name in re.findall(r"\bguard_\w+", expression)}
    assert asked == told
    assert "guard_build_info" in BOARD["templating"]["list"][1]["query"]["query"]


def test_every_label_shown_is_told() -> None:
    """A legend names labels of its own metrics only."""
    labels = {family.name: {*family.labels} | OF_THE_SCRAPE for family in TOLD}
    for panel in PANELS:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            known = set.intersection(*(labels[name] for name in re.findall(r"\bguard_\w+", target["expr"])))
            assert shown <= known, target["expr"]

"""Alert rules: promtool fires each of them, and their metrics exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.exposition import promtool
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.metrics import families

ROOT = Path(__file__).resolve().parents[2]
RULES, TESTS = ROOT / "config/prometheus/rules.yaml", Path(__file__).with_name("rules_test.yaml")
NAMES = {
    "ConntrackGuardOverBudget", "ConntrackGuardAtCeiling", "ConntrackGuardConflict", "ConntrackGuardDropsContinue",
    "ConntrackGuardLongChains", "ConntrackGuardBlind", "ConntrackGuardStale", "ConntrackGuardActionRequired",
    "ConntrackGuardDegraded",
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    """Return all alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def run_tests(tests: Path) -> subprocess.CompletedProcess[str]:
    """Run `promtool test rules`."""
    return subprocess.run([promtool(), "test", "rules", tests], capture_output=True, text=True, check=False)


def test_every_alert_fires_only_in_its_cases() -> None:
    """The cases are in rules_test.yaml; each alert has positive and negative ones."""
    done = run_tests(TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    both = {(case["alertname"], bool(case["exp_alerts"])) for case in cases}
    assert {rule["alert"] for rule in rules()} == NAMES
    assert both == {(name, fires) for name in NAMES for fires in (True, False)}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_dead_alert_fails_its_tests(name: str, tmp_path: Path) -> None:
    """With a rule that can't fire, its tests fail."""
    dead = re.sub(
        rf"(- alert: {name}\n(?:.*\n)*?        expr: )(>-\n(?:          .*\n)+|.*\n)",
        r"\1vector(0) > 1\n",
        RULES.read_text(),
    )
    assert dead != RULES.read_text()
    (tmp_path / "rules.yaml").write_text(dead)
    (tmp_path / "tests.yaml").write_text(TESTS.read_text().replace("../../config/prometheus/", ""))
    assert f"alertname: {name}" in run_tests(tmp_path / "tests.yaml").stdout + run_tests(tmp_path / "tests.yaml").stderr


def test_alerts_use_existing_metrics() -> None:
    """Every metric in an expression is exported."""
    exported = {family.name for family in families(figures(seen(*tables(1))))}
    used = {name for rule in rules() for name in re.findall(r"\bguard_\w+", rule["expr"])}
    assert used
    assert used - exported == set()

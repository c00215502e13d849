"""The Helm chart as it renders, and its admission policies as an API server evaluates them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/conntrackd-guard"

Objects = dict[tuple[str, str], dict[str, Any]]
"""Kubernetes objects by kind and name."""
_EVALUATE = """
import json, sys
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional
names = ("object", "oldObject", "request", "variables")
env = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN), extensions=[ext_optional.ExtOptional()])
policy, data = json.load(sys.stdin)
def value(each): return env.compile(each["expression"]).eval(data=data).plain_value()
if all(value(each) is True for each in policy["matchConditions"]):
    for each in policy["variables"]:
        data["variables"][each["name"]] = value(each)
    print(json.dumps([each["message"] for each in policy["validations"] if value(each) is not True]))
else:
    print("null")
"""


def _needs(folder: str) -> None:
    """Skip the test where a tool was never installed."""
    if not (ROOT / ".cache" / folder).exists():
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop(f"needs .cache/{folder}: run scripts/chart")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm; skip the test where it was never installed."""
    _needs("helm")
    command = [str(ROOT / "scripts/helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*values: str, version: str = "1.37.0") -> Objects:
    """Return what the chart renders with these values."""
    options = [f"--set={value}" for value in values]
    done = helm("template", "conntrackd-guard", str(CHART), "--namespace=guards", f"--kube-version={version}", *options)
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pod(objects: Objects) -> dict[str, Any]:
    """Return the specification of the pods."""
    spec: dict[str, Any] = objects["DaemonSet", "conntrackd-guard"]["spec"]["template"]["spec"]
    return spec


def container(objects: Objects, name: str) -> dict[str, Any]:
    """Return a container of the pods."""
    (found,) = [each for each in pod(objects)["containers"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def denials(policy: dict[str, Any], request: dict[str, Any]) -> list[str] | None:
    """Return the messages of the rules that deny a request; None if the policy is not about it.

    `request` has `object`, `oldObject` and `request` as an API server gives them to CEL.
    """
    _needs("cel")
    done = subprocess.run(
        [ROOT / ".cache/cel/bin/python", "-c", _EVALUATE],
        input=json.dumps([policy["spec"], {**request, "variables": {}}]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[str] | None = json.loads(done.stdout)
    return found

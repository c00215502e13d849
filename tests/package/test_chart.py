"""The Helm chart: what it renders fits the program, its settings, its alerts and what a container needs of the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.chart import CHART, ROOT, Objects, container, helm, pod, rendered

from conntrackd_guard import __version__
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.host.conntrack.owner_client import HELPER_UID
from conntrackd_guard.host.container import DROP_IN, JOURNALS, MOUNTS, Mount
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import entries
from conntrackd_guard.settings.keys import KEYS
from conntrackd_guard.settings.settings import read_settings

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
OF_OTHER_VALUES = {"mode", "persist", "metrics_http"}
"""Settings that the values dryRun, persist and metrics stand for."""
NEED_A_UNIT = {"notify", "metrics_file"}
"""Settings of no use in a pod."""
SOCKET = {"name": "socket", "mountPath": "/run/conntrackd-guard"}
"""A volume of the pod, where the guard listens for the other container."""


def data(objects: Objects) -> dict[str, str]:
    """Return the files of the settings' folder."""
    files: dict[str, str] = objects["ConfigMap", "conntrackd-guard"]["data"]
    return files


def test_it_has_the_version_of_the_program() -> None:
    """Chart and image go together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_guard_understands_the_settings() -> None:
    """Numbers, sizes and addresses arrive as they were given, and the values that stand for a setting are set."""
    values = (
        "settings.max_limit=2000000",
        "settings.budget=15%",
        "settings.cooldown=5s",
        "dryRun=true",
        "persist=true",
    )
    files = data(rendered(*values, "metrics.address=[::]", "metrics.port=9999"))
    settings = read_settings(entries(files["guard.yaml"].encode(), "guard.yaml"))
    assert (settings.mode, settings.persist, str(settings.metrics_http)) == (Mode.DRY_RUN, True, "[::]:9999")
    assert (settings.policy.max_limit, settings.policy.cooldown_seconds) == (2_000_000, 5.0)
    plain = read_settings(entries(data(rendered())["guard.yaml"].encode(), "guard.yaml"))
    assert (plain.mode, plain.persist, str(plain.metrics_http)) == (Mode.ACT, False, "127.0.0.1:9786")


def test_the_schema_knows_all_values_and_settings() -> None:
    """Each value has its place in the schema, and each setting that can be given."""

    def names(values: dict[str, Any], schema: dict[str, Any], at: str) -> None:
        known = schema.get("properties")
        if known is None:
            return
        assert schema["additionalProperties"] is False, at
        assert set(values) <= set(known), at
        for key, value in values.items():
            if isinstance(value, dict) and "$ref" not in known[key]:
                names(value, known[key], f"{at}.{key}")

    names(VALUES, SCHEMA, "")
    assert set(SCHEMA["properties"]) - set(VALUES) == {"global"}  # helm adds it
    own = OF_OTHER_VALUES | NEED_A_UNIT
    assert set(SCHEMA["properties"]["settings"]["properties"]) == {key.name for key in KEYS} - own


@pytest.mark.parametrize(
    "value", ["settings.budgt=15%", "pauze=true", "settings.mode=act", "prometheusRule.alerts.Foo=true"]
)
def test_unknown_values_are_refused(value: str) -> None:
    """With the name that is wrong."""
    done = helm("template", "x", str(CHART), "--set", value)
    assert done.returncode != 0
    name = value.partition("=")[0].rpartition(".")[2]
    assert f"additional properties '{name}' not allowed" in done.stderr


def test_a_pause_restarts_nothing() -> None:
    """It is a file in the settings' folder; a setting restarts the pods."""
    plain, paused, changed = rendered(), rendered("pause=true"), rendered("settings.budget=15%")
    daemon_set = ("DaemonSet", "conntrackd-guard")
    assert data(paused) == {**data(plain), "pause": ""}
    assert paused[daemon_set] == plain[daemon_set]
    assert changed[daemon_set] != plain[daemon_set]
    assert {"name": "settings", "mountPath": "/etc/conntrackd-guard", "readOnly": True} in mounts(plain, "guard")


def mounts(objects: Objects, name: str) -> list[dict[str, Any]]:
    """Return the volume mounts of a container."""
    found: list[dict[str, Any]] = container(objects, name)["volumeMounts"]
    return found


def of_host(objects: Objects, name: str) -> list[tuple[str, bool, str]]:
    """Return path, whether it can be written, and propagation of each path of the host, as `host/container.py` has them."""
    volumes = {each["name"]: each.get("hostPath", {}).get("path") for each in pod(objects)["volumes"]}
    found = []
    for mount in mounts(objects, name):
        path = volumes[mount["name"]]
        if path is not None:
            assert mount["mountPath"] == f"/host{path}"
            found.append((path, not mount.get("readOnly", False), mount.get("mountPropagation", "")))
    return sorted(found)


@pytest.mark.parametrize(
    ("values", "more"), [((), JOURNALS), (("persist=true",), (*JOURNALS, DROP_IN)), (("journal=",), JOURNALS[1:])]
)
def test_the_guard_has_the_mounts_that_it_asks_for(values: tuple[str, ...], more: tuple[Mount, ...]) -> None:
    """Those whose absence `guard run --check` names, and no other; what is mounted inside /proc is hidden."""
    objects = rendered(*values)
    expected = sorted((mount.path, mount.writable, mount.propagation) for mount in (*MOUNTS, *more))
    assert of_host(objects, "guard") == expected
    hidden = {
        mount["mountPath"] for mount in mounts(objects, "guard") if mount["name"] == "empty" and mount["readOnly"]
    }
    assert hidden == {"/host/proc/sys/fs", "/host/proc/fs"}


def test_the_guard_has_no_right_but_its_user() -> None:
    """Root without a capability, on the node's network alone, without a token."""
    objects = rendered()
    spec, guard = pod(objects), container(objects, "guard")
    assert guard["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 4,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["hostNetwork"] is True
    assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


def test_an_update_never_runs_two_guards_on_a_node() -> None:
    """Pods are replaced a tenth of the nodes at a time, run on every node, and are the last to be evicted."""
    spec = rendered()["DaemonSet", "conntrackd-guard"]["spec"]
    assert spec["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"},
    }
    assert pod(rendered())["tolerations"] == [{"operator": "Exists"}]
    assert pod(rendered())["priorityClassName"] == "system-node-critical"
    assert container(rendered(), "guard")["resources"] == {
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"memory": "128Mi"},
    }


def test_the_owners_container_can_write_nothing() -> None:
    """It has the capability, without root, and neither the limit nor the history; its user and group are nobody else's."""
    objects = rendered()
    owners = container(objects, "owners")
    assert of_host(objects, "owners") == [("/proc", False, "")]
    assert all(mount["readOnly"] for mount in mounts(objects, "owners"))
    (path,) = {str(Paths(Path("/host"), mode, own=Path("/")).owner_socket) for mode in Mode}
    assert owners["command"][-1] == path == f"{SOCKET['mountPath']}/namespaces.sock"
    assert SOCKET in mounts(objects, "guard")
    assert {**SOCKET, "readOnly": True} in mounts(objects, "owners")
    context = owners["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    assert context["runAsUser"] == context["runAsGroup"] == HELPER_UID
    assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
    assert context["appArmorProfile"] == {"type": "Unconfined"}


def test_before_1_30_apparmor_is_an_annotation() -> None:
    """The field would be refused."""
    objects = rendered(version="1.29.0")
    template = objects["DaemonSet", "conntrackd-guard"]["spec"]["template"]
    assert template["metadata"]["annotations"]["container.apparmor.security.beta.kubernetes.io/owners"] == "unconfined"
    assert "appArmorProfile" not in container(objects, "owners")["securityContext"]


def test_a_privileged_guard_needs_no_owners_container() -> None:
    """It has every right itself."""
    objects = rendered("privileged=true")
    assert [each["name"] for each in pod(objects)["containers"]] == ["guard"]
    assert container(objects, "guard")["securityContext"]["privileged"] is True
    assert "allowPrivilegeEscalation" not in container(objects, "guard")["securityContext"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - the test's subject
def test_probes_reach_the_endpoint(address: str) -> None:
    """By HTTP on the loopback address, at the port of the settings."""
    objects = rendered(f"metrics.address={address}", "metrics.port=9999")
    guard = container(objects, "guard")
    assert guard["ports"] == [{"name": "metrics", "containerPort": 9999, "hostPort": 9999}]
    for probe in ("livenessProbe", "readinessProbe"):
        assert guard[probe]["httpGet"] == {"host": "127.0.0.1", "path": "/healthz", "port": "metrics"}


def test_alerts_are_those_of_the_rules_file_each_with_a_switch() -> None:
    """All by default, with the same text, and one less for each that is off."""
    rules = yaml.safe_load((ROOT / "config/prometheus/rules.yaml").read_text("utf-8"))
    names = [rule["alert"] for rule in rules["groups"][0]["rules"]]
    assert list(VALUES["prometheusRule"]["alerts"].items()) == [(name, True) for name in names]
    assert list(SCHEMA["properties"]["prometheusRule"]["properties"]["alerts"]["properties"]) == names
    key = ("PrometheusRule", "conntrackd-guard")
    assert key not in rendered()
    assert rendered("prometheusRule.enabled=true")[key]["spec"] == rules
    less = rendered("prometheusRule.enabled=true", f"prometheusRule.alerts.{names[2]}=false")[key]["spec"]
    assert [rule["alert"] for rule in less["groups"][0]["rules"]] == [name for name in names if name != names[2]]


def test_the_dashboard_is_that_of_the_file() -> None:
    """In a ConfigMap that Grafana's sidecar finds."""
    board = rendered("dashboard.enabled=true")["ConfigMap", "conntrackd-guard-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    shipped = json.loads((ROOT / "config/grafana/dashboard.json").read_text("utf-8"))
    assert json.loads(board["data"]["conntrackd-guard.json"]) == shipped


def test_a_pod_monitor_needs_an_address_that_prometheus_reaches() -> None:
    """Nobody opens the port to the network by asking for a PodMonitor."""
    done = helm("template", "x", str(CHART), "--set", "podMonitor.enabled=true")
    assert done.returncode != 0
    assert "Set metrics.address to 0.0.0.0" in done.stderr
    labels = "podMonitor.labels.release=monitoring"
    monitor = rendered("podMonitor.enabled=true", "metrics.address=0.0.0.0", labels)["PodMonitor", "conntrackd-guard"]
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


def test_openshift_allows_what_the_pods_need() -> None:
    """For the pods' service account alone."""
    key = ("SecurityContextConstraints", "conntrackd-guard")
    scc = rendered("openshift.scc=true")[key]
    assert scc["users"] == ["system:serviceaccount:guards:conntrackd-guard"]
    assert (scc["allowPrivilegedContainer"], scc["allowedCapabilities"], scc["allowHostPID"]) == (
        False,
        ["SYS_PTRACE"],
        False,
    )
    assert rendered("openshift.scc=true", "privileged=true")[key]["allowPrivilegedContainer"] is True
    assert rendered("openshift.scc=true", "owners.enabled=false")[key]["allowPrivilegeEscalation"] is False


def test_gke_gets_a_quota_for_the_priority_class() -> None:
    """Without one it refuses pods of that class outside kube-system."""
    quota = rendered("gke.quota=true")["ResourceQuota", "conntrackd-guard"]["spec"]
    assert quota["scopeSelector"]["matchExpressions"][0]["values"] == [pod(rendered())["priorityClassName"]]


def test_the_notes_name_what_the_chart_can_not_do() -> None:
    """The namespace's label, kube-proxy's setting, and how to go back before the removal."""
    done = helm("install", "conntrackd-guard", str(CHART), "--namespace=guards", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for text in (
        "kubectl label namespace guards pod-security.kubernetes.io/enforce=privileged",
        "maxPerCore: 0",
        "leaves the raised limits",
        "guard revert --all",
    ):
        assert text in notes

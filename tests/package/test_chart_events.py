"""The container that reports Events: what it has, what its token may do, and what the admission policies take from that."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from testbed.chart import CHART, Objects, container, denials, helm, pod, rendered

from conntrackd_guard.core import cluster
from conntrackd_guard.core.health import Health
from conntrackd_guard.host.paths import Paths

USER = "system:serviceaccount:guards:conntrackd-guard"
NODE: dict[str, Any] = {
    "metadata": {"name": "node-1", "labels": {"zone": "a"}, "managedFields": []},
    "status": {
        "capacity": {"cpu": "2"},
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


@pytest.fixture(scope="module")
def objects() -> Objects:
    """The chart with Events."""
    return rendered("events.enabled=true")


def test_it_alone_has_a_token_and_no_path_of_the_node(objects: Objects) -> None:
    """It writes nothing; the guard writes the folder that it reads, which is in memory."""
    volumes = {each["name"]: each for each in pod(objects)["volumes"]}
    mounts = container(objects, "events")["volumeMounts"]
    paths = Paths()
    assert {mount["mountPath"]: mount["name"] for mount in mounts} == {
        str(paths.outbox): "outbox",
        str(paths.service_account): "token",
    }
    assert all(mount["readOnly"] for mount in mounts)
    assert not any("hostPath" in volumes[mount["name"]] for mount in mounts)
    assert volumes["outbox"]["emptyDir"]["medium"] == "Memory"
    with_token = [
        each["name"]
        for each in pod(objects)["containers"]
        if any("projected" in volumes[mount["name"]] for mount in each["volumeMounts"])
    ]
    assert with_token == ["events"]
    assert {"name": "outbox", "mountPath": str(paths.outbox)} in container(objects, "guard")["volumeMounts"]
    assert pod(objects)["automountServiceAccountToken"] is False


def test_it_has_no_right_and_a_user_of_its_own(objects: Objects) -> None:
    """So no other container of the pod reaches it, nor it them."""
    context = container(objects, "events")["securityContext"]
    users = [each["securityContext"]["runAsUser"] for each in pod(objects)["containers"]]
    assert len(set(users)) == len(users) == 3
    assert context["runAsUser"] == context["runAsGroup"] > 65_535
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is context["runAsNonRoot"] is True


def test_it_gets_what_the_command_needs(objects: Objects) -> None:
    """The image sets GUARD_ROOT, which would be refused here."""
    found = container(objects, "events")
    assert found["args"] == ["events"]
    fields = {one["name"]: one.get("value", one.get("valueFrom", {}).get("fieldRef")) for one in found["env"]}
    assert fields == {
        "GUARD_ROOT": "",
        "NODE_NAME": {"fieldPath": "spec.nodeName"},
        "POD_NAME": {"fieldPath": "metadata.name"},
    }


@pytest.mark.parametrize("values", [(), ("events.enabled=true", "dryRun=true")])
def test_without_it_there_is_no_token_and_no_right(values: tuple[str, ...]) -> None:
    """That is the default, and holds for a dry run."""
    objects = rendered(*values)
    assert not {kind for kind, _ in objects} & {"Role", "ClusterRole", "ValidatingAdmissionPolicy"}
    assert not any("projected" in volume for volume in pod(objects)["volumes"])
    assert [each["name"] for each in pod(objects)["containers"]] == ["guard", "owners"]


def test_its_rights_are_three_verbs(objects: Objects) -> None:
    """Events in `default`, and the status of Nodes."""
    role, cluster_role = (
        objects["Role", "conntrackd-guard-events"],
        objects["ClusterRole", "conntrackd-guard-condition"],
    )
    assert role["metadata"]["namespace"] == cluster.NAMESPACE
    assert role["rules"] == [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}]
    assert cluster_role["rules"] == [{"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]
    for key in (("RoleBinding", "conntrackd-guard-events"), ("ClusterRoleBinding", "conntrackd-guard-condition")):
        assert objects[key]["subjects"] == [
            {"kind": "ServiceAccount", "name": "conntrackd-guard", "namespace": "guards"}
        ]


def test_before_1_30_the_policies_must_be_given_up() -> None:
    """Knowingly: the token of an older version does not show its node."""
    arguments = ("template", "x", str(CHART), "--set=events.enabled=true", "--kube-version=1.29.0")
    done = helm(*arguments)
    assert done.returncode != 0
    assert "events.admissionPolicy needs Kubernetes 1.30" in done.stderr
    assert helm(*arguments, "--set=events.admissionPolicy=false").returncode == 0
    off = rendered("events.enabled=true", "events.admissionPolicy=false")
    assert not any(kind.startswith("ValidatingAdmissionPolicy") for kind, _ in off)


def test_both_policies_deny(objects: Objects) -> None:
    """A policy without a binding does nothing."""
    for name in ("conntrackd-guard-condition", "conntrackd-guard-events"):
        spec = objects["ValidatingAdmissionPolicyBinding", name]["spec"]
        assert spec == {"policyName": name, "validationActions": ["Deny"]}
        assert objects["ValidatingAdmissionPolicy", name]["spec"]["failurePolicy"] == "Fail"


def asked(user: str = USER, node: str | None = "node-1") -> dict[str, Any]:
    """Return who asks."""
    extra = {} if node is None else {"authentication.kubernetes.io/node-name": [node]}
    return {"userInfo": {"username": user, "extra": extra}}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the Node with a change."""
    node = copy.deepcopy(NODE)
    change(node)
    return node


def with_condition(node: dict[str, Any]) -> None:
    """Set the guard's condition."""
    node["status"]["conditions"].append(cluster.condition(Health.of([])))
    node["metadata"]["managedFields"] = [{"manager": "conntrackd-guard"}]


def test_the_guards_condition_of_its_node_may_be_set(objects: Objects) -> None:
    """Also on a Node that has no condition yet, and by others whatever they like."""
    policy = objects["ValidatingAdmissionPolicy", "conntrackd-guard-condition"]
    node = changed(with_condition)
    assert denials(policy, {"object": node, "oldObject": NODE, "request": asked()}) == []
    assert denials(policy, {"object": NODE, "oldObject": node, "request": asked()}) == []
    bare = {"metadata": {"name": "node-1"}, "status": {}}
    first = {"metadata": {"name": "node-1"}, "status": {"conditions": node["status"]["conditions"][1:]}}
    assert denials(policy, {"object": first, "oldObject": bare, "request": asked()}) == []
    kubelet = asked("system:node:node-1", None)
    assert denials(policy, {"object": bare, "oldObject": NODE, "request": kubelet}) is None


@pytest.mark.parametrize("node", ["node-2", "", None])
def test_no_condition_of_another_node(objects: Objects, node: str | None) -> None:
    """A token without a node is none of a pod."""
    policy = objects["ValidatingAdmissionPolicy", "conntrackd-guard-condition"]
    request = {"object": changed(with_condition), "oldObject": NODE, "request": asked(node=node)}
    assert denials(policy, request) == ["The token belongs to a pod of another node."]


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda node: node["status"]["conditions"][0].update(status="False"),
    lambda node: node["status"]["conditions"].clear(),
    lambda node: node["status"]["conditions"].append({"type": "MemoryPressure", "status": "True"}),
    lambda node: node["metadata"]["labels"].update(zone="b"),
    lambda node: node["metadata"].pop("labels"),
    lambda node: node["metadata"].update(annotations={"a": "b"}),
    lambda node: node["metadata"].update(finalizers=["a/b"]),
    lambda node: node["status"]["capacity"].update(cpu="200"),
    lambda node: node["status"]["addresses"].append({"type": "InternalIP", "address": "10.6.6.6"}),
    lambda node: node["status"].update(daemonEndpoints={"kubeletEndpoint": {"Port": 1}}),
    lambda node: node["status"].update(images=[]),
]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_else_of_the_node(objects: Objects, change: Callable[[dict[str, Any]], object]) -> None:
    """A stolen token takes no node out of service, and attracts no pod or request."""
    policy = objects["ValidatingAdmissionPolicy", "conntrackd-guard-condition"]
    assert denials(policy, {"object": changed(change), "oldObject": NODE, "request": asked()})


def test_every_field_of_a_status_is_compared(objects: Objects) -> None:
    """Those that Kubernetes 1.37 has, by the schemas that scripts/chart installs."""
    policy = json.dumps(objects["ValidatingAdmissionPolicy", "conntrackd-guard-condition"])
    folder = next((CHART.parents[2] / ".cache/kubernetes-validate/lib").glob("python3*"), None)
    if folder is None:
        pytest.skip("needs .cache/kubernetes-validate: run scripts/chart")
    schema = folder / "site-packages/kubernetes_validate/kubernetes-json-schema/v1.37.0-local/nodestatus-v1.json"
    for name in json.loads(schema.read_text("utf-8"))["properties"]:
        assert f".?{name}" in policy


def test_events_are_about_the_own_node(objects: Objects) -> None:
    """As the guard writes them, and no other."""
    policy = objects["ValidatingAdmissionPolicy", "conntrackd-guard-events"]
    decision = {"verdict": "hold", "reason": "over_budget", "sentence": "x", "at": "2026-11-23T11:07:27.123Z"}
    event = cluster.event(decision, "a-1", "node-1", "pod")
    assert denials(policy, {"object": event, "oldObject": None, "request": asked()}) == []
    others = (
        {**event, "regarding": {**event["regarding"], "name": "node-2"}},
        {**event, "regarding": {**event["regarding"], "kind": "Pod"}},
        {**event, "regarding": {}},
        {**event, "reportingController": "kubelet"},
    )
    for other in others:
        assert denials(policy, {"object": other, "oldObject": None, "request": asked()})
    assert denials(policy, {"object": event, "oldObject": None, "request": asked(node="node-2")})

"""The chart's pod, run by crun and by runc, raises the host's limit with the rights that it has, and gets nothing else.

scripts/test-cluster runs this: it needs an unpacked image and a rendered manifest.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import chart
from testbed.api_server import api_server, certificate
from testbed.faults import injected
from testbed.kube_pod import EVENTS, HOST, LIMIT_FOLDER, OWNERS, RUNTIMES, Image, Pod
from testbed.limit_guard import LimitGuard
from testbed.private_world import PYTHON, REPOSITORY, Guard, eventually
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import LIMIT, limit

from conntrackd_guard.host.conntrack.owner_client import HELPER_UID

pytestmark = pytest.mark.live
PROGRAM = "usr/lib/conntrackd-guard/python3-namespaces"
ATTEMPTS = REPOSITORY / "tests/system/host/attempts"
CODE, WRITE = "runs code outside the sandbox", "writes a file outside its own"
OF_THE_CONTAINER = {
    "dev": "created /dev/conntrackd-guard-attempt",
    "shared_memory": "created /dev/shm/conntrackd-guard-attempt",
}
"""What every container may write: file systems in memory that are its own."""


@pytest.fixture(scope="module", name="limit_guard")
def borrow_the_limit() -> Iterator[LimitGuard]:
    """Hold the machine's limit for all tests of this file."""
    with LimitGuard() as limit_guard:
        yield limit_guard


@pytest.fixture
def table(limit_guard: LimitGuard) -> Iterator[ScratchNamespace]:
    """Give a table to fill, with a small limit."""
    with ScratchNamespace() as table:
        limit_guard.own(table.number)
        limit_guard.set_limit(LIMIT)
        yield table
        limit_guard.check()


@pytest.fixture(params=RUNTIMES)
def pod(request: pytest.FixtureRequest, tmp_path: Path, table: ScratchNamespace) -> Iterator[Pod]:  # noqa: ARG001 - the limit
    """A pod as the chart has it."""
    documents = list(yaml.safe_load_all(Path(os.environ["GUARD_MANIFEST"]).read_text("utf-8")))
    image = Image.unpacked(Path(os.environ["GUARD_BUNDLE"]))
    pod = Pod.of_manifest(documents, folder=tmp_path, runtime=request.param, image=image)
    yield pod
    pod.end()


def ready(pod: Pod) -> Guard:
    """Start the guard's container and wait until it watches."""
    guard = pod.start()
    guard.await_event("guard.ready")
    return guard


def answered(pod: Pod) -> Guard:
    """Start both containers; the helper connects within seconds."""
    guard = ready(pod)
    pod.start(OWNERS)
    return guard


def test_the_pod_raises_the_limit_of_the_host(pod: Pod, table: ScratchNamespace) -> None:
    """Without a ring buffer, a journal or a capability; the helper shows that the table is root's."""
    table.fill(LIMIT)
    guard = answered(pod)
    table.overflow()
    eventually(lambda: limit() > LIMIT, "a raise", guard.log)
    assert table.overflow(20) == 20
    with urllib.request.urlopen("http://127.0.0.1:9786/healthz", timeout=5) as answer:
        assert answer.status == 200
    assert [event for event in guard.events() if event["level"] == "error"] == []
    assert guard.stop() == 0
    assert not [event for event in guard.events() if "can be written here" in event["message"]]
    (row,) = [row for row in pod.altered().decisions() if row["verdict"] == "raise"]
    assert (row["outcome"], row["from"]) == ("applied", LIMIT)


def test_a_users_table_is_not_raised_for(pod: Pod, limit_guard: LimitGuard) -> None:
    """The helper reads owners across user namespaces, which the guard's container can't."""
    with ScratchNamespace(user_owned=True) as users:
        limit_guard.own(users.number)
        users.fill(LIMIT)
        guard = answered(pod)
        users.overflow()
        eventually(
            lambda: [event for event in guard.events() if event.get("reason") == "untrusted_namespace"],
            "a hold",
            guard.log,
        )
        assert limit() == LIMIT
        assert guard.stop() == 0


def test_without_the_helper_the_hold_names_its_container(pod: Pod, table: ScratchNamespace) -> None:
    """The table is root's, but nothing shows it."""
    guard = ready(pod)
    table.fill(LIMIT)
    table.overflow()
    eventually(lambda: "in a pod its container `owners`" in guard.log.read_text(), "a hold", guard.log)
    assert limit() == LIMIT
    assert guard.stop() == 0


def test_privileged_adds_the_ring_buffer(pod: Pod) -> None:
    """Otherwise kernel messages come from the journal."""
    assert ring_buffer(pod) == "absent"
    privileged = pod.altered()
    privileged.container()["securityContext"] = {"privileged": True, "runAsUser": 0, "runAsGroup": 4}
    assert ring_buffer(privileged) == "following"


def ring_buffer(pod: Pod) -> str:
    """Run a guard and return the state of its ring buffer."""
    guard = pod.start()
    state = str(guard.await_event("guard.ready")["sources"]["ring_buffer"])
    assert guard.stop() == 0
    return state


def test_the_configmap_pauses(pod: Pod, table: ScratchNamespace) -> None:
    """A key that appears in the volume pauses the running guard, and one that goes ends the pause."""
    guard = answered(pod)
    pod.settings["pause"] = "true"
    pod.configure()
    table.fill(LIMIT)
    table.overflow()
    eventually(lambda: "paused" in guard.log.read_text(), "a hold", guard.log)
    assert limit() == LIMIT
    del pod.settings["pause"]
    pod.configure()
    table.overflow()
    eventually(lambda: limit() > LIMIT, "a raise", guard.log)
    assert guard.stop() == 0


def test_a_limit_is_persisted_if_asked_for_and_reverted_before_a_removal(pod: Pod, table: ScratchNamespace) -> None:
    """`persist` of the chart writes to /etc/sysctl.d of the host; the command of its notes takes limit and file back."""
    objects = chart.rendered("persist=true", "settings.trust_user_namespaces=true")
    settings = objects["ConfigMap", "conntrackd-guard"]["data"]
    persisting = pod.altered(spec=chart.pod(objects), settings=settings)
    drop_in = persisting.on_host("/etc/sysctl.d") / "99-zz-conntrackd-guard.conf"
    guard = ready(persisting)
    table.fill(LIMIT)
    table.overflow()
    eventually(drop_in.exists, "the drop-in", guard.log)
    assert f"net.netfilter.nf_conntrack_max = {limit()}\n" in drop_in.read_text()
    reverted = persisting.guard("revert", "--all")
    assert reverted.returncode == 0, reverted.stderr
    assert (limit(), drop_in.exists()) == (LIMIT, False)
    assert guard.stop() == 0


def test_a_second_guard_names_the_first_and_its_container(pod: Pod) -> None:
    """By the pid that the host knows it by."""
    first = ready(pod)
    second = pod.altered().guard("run")
    assert second.returncode == 3
    container = pod.container_id()[:12]
    assert f"process {pod.pid()} in container {container} holds {HOST}/run/conntrackd-guard/lock" in second.stderr
    status = json.loads(pod.guard("status", "--json").stdout)
    assert (status["running"], status["service"]["pid"]) == (True, pod.pid())
    assert first.stop() == 0


def test_a_pod_that_was_replaced_amid_a_raise_is_explained(pod: Pod, table: ScratchNamespace) -> None:
    """The intent is under /run of the host: the next pod finds the write done, and records it once."""
    guard = answered(pod)
    traced = Guard(_Process(pod.pid()), guard.log)  # type: ignore[arg-type]
    with injected(traced, "unlink,unlinkat", "signal=SIGKILL:when=1", (), pod.folder / "strace"):
        table.fill(LIMIT)
        eventually(lambda: guard.process.poll() is not None, "the kill", guard.log)
    after = limit()
    assert after > LIMIT
    intents = pod.on_host("/run/conntrackd-guard") / "intents"
    assert list(intents.iterdir())
    successor = ready(pod.altered())
    eventually(lambda: not list(intents.iterdir()), "the intent closed", successor.log)
    assert successor.stop() == 0
    (row,) = [row for row in pod.decisions() if row["verdict"] == "raise"]
    assert (row["outcome"], row["from"], row["to"]) == ("applied", LIMIT, after)


class _Process:
    def __init__(self, pid: int) -> None:
        self.pid = pid


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (LIMIT_FOLDER, "a hostPath volume of /proc/sys/net/netfilter with mountPath: /host/proc/sys/net/netfilter"),
        ("/proc", "/host/proc does not exist: mount the host's /proc there"),
        (
            "/run/conntrackd-guard",
            "a hostPath volume of /run/conntrackd-guard with mountPath: /host/run/conntrackd-guard",
        ),
        ("/var/lib/conntrackd-guard", "a hostPath volume of /var/lib/conntrackd-guard with mountPath: /host/var/lib/"),
        ("/var/log/journal", "a hostPath volume of /var/log/journal with mountPath: /host/var/log/journal"),
        ("/run/netns", "a hostPath volume of /run/netns with mountPath: /host/run/netns"),
        ("/etc/machine-id", "a hostPath volume of /etc/machine-id with mountPath: /host/etc/machine-id"),
    ],
)
def test_a_missing_mount_is_named_with_its_field(pod: Pod, path: str, sentence: str) -> None:
    """By the check before a start; what only costs history, names or messages is no failure."""
    also = ("/run/log/journal",) if path == "/var/log/journal" else ()
    needed = {LIMIT_FOLDER, "/proc", "/run/conntrackd-guard"}
    checked(pod.without(path, *also), sentence, fails=path in needed)


def test_what_the_kernel_refuses_is_named_with_its_field(pod: Pod) -> None:
    """A read-only mount and other namespaces."""
    read_only = pod.altered()
    read_only.mount(LIMIT_FOLDER)["readOnly"] = True
    checked(read_only, "/host/proc/sys/net/netfilter, readOnly: false")
    for field, value, sentence in (
        ("hostNetwork", False, "The pod needs hostNetwork: true."),
        ("hostUsers", False, "The pod needs hostUsers: true"),
    ):
        other = pod.altered()
        other.spec[field] = value
        checked(other, sentence)


def checked(pod: Pod, sentence: str, *, fails: bool = True) -> None:
    """Run the check before a start."""
    answer = pod.guard("run", "--check", "--log-format", "text")
    assert sentence in answer.stderr
    assert (answer.returncode != 0) is fails


def test_another_user_is_refused(pod: Pod) -> None:
    """Kubernetes has no ambient capabilities."""
    pod.container()["securityContext"]["runAsUser"] = 65534
    answer = pod.guard("run")
    assert answer.returncode == 77
    assert "needs root" in answer.stderr


def test_the_image_is_labelled_and_its_capability_is_in_the_layer() -> None:
    """One file has a capability, for its group alone, and everything has the same date."""
    layout = Path(os.environ["GUARD_LAYOUT"])
    manifest = blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0])
    config = blob(layout, manifest["config"])["config"]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("0:4", ["/usr/bin/conntrackd-guard"], ["run"])
    assert {f"org.opencontainers.image.{name}" for name in ("title", "version", "created", "licenses")} <= set(
        config["Labels"]
    )
    with tarfile.open(layout / "blobs" / manifest["layers"][-1]["digest"].replace(":", "/")) as layer:
        members = layer.getmembers()
    (held,) = [one for one in members if "SCHILY.xattr.security.capability" in one.pax_headers]
    assert (held.name, held.mode & 0o7777, held.uid, held.gid) == (PROGRAM, 0o050, 0, HELPER_UID)
    assert len({one.mtime for one in members}) == 1


def blob(layout: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a document of the image."""
    found: dict[str, Any] = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    return found


def test_only_the_helpers_interpreter_has_the_capability(pod: Pod) -> None:
    """The guard's container can't execute it, and the helper's has no right without it."""
    program = pod.container(OWNERS)["command"][0]
    refused = pod.run(program, "-c", "")
    assert refused.returncode != 0
    assert "ermission denied" in refused.stderr
    code = "print(open('/proc/self/status').read().partition('CapEff:')[2].split()[0])"
    assert pod.run(program, "-I", "-S", "-c", code, name=OWNERS).stdout == "0000000000080000\n"
    assert pod.run(PYTHON, "-I", "-S", "-c", code, name=OWNERS).stdout == "0000000000000000\n"


WRITES = """
import errno, os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_WRONLY))
        print(path, "can be written")
    except OSError as error:
        print(path, errno.errorcode[error.errno])
"""


def test_other_sysctls_and_memory_are_read_only(pod: Pod) -> None:
    """The kernel's refusal is that of a read-only mount, in both trees; only the limit's folder is writable."""
    mine = os.getpid()
    refused = [
        *(f"{root}{path}" for root in ("", HOST) for path in (
            "/proc/sys/kernel/printk", "/proc/sys/kernel/core_pattern", "/proc/sys/net/core/somaxconn", "/proc/sys/vm/swappiness",
        )),
        f"{HOST}/proc/{mine}/mem", f"{HOST}/proc/{mine}/oom_score_adj",
        f"{LIMIT_FOLDER}/nf_conntrack_max",
    ]  # fmt: skip
    written = f"{HOST}{LIMIT_FOLDER}/nf_conntrack_max"
    answer = pod.run(PYTHON, "-c", WRITES, *refused, written)
    assert answer.stdout.splitlines() == [*(f"{path} EROFS" for path in refused), f"{written} can be written"]


@pytest.fixture
def targets() -> Iterator[str]:
    """Start what the attempts aim at; give the fields of Targets."""
    no_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("\0conntrackd-guard-attempts")
        listener.listen(64)
        pids = {}
        for name, start in {"root": [], "prey": [], "bare": no_rights}.items():
            process = stack.enter_context(subprocess.Popen([*start, "sleep", "infinity"]))
            stack.callback(process.kill)
            pids[name] = process.pid
        yield json.dumps({**pids, "abstract": "conntrackd-guard-attempts", "host": HOST})


def possible(answer: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the attempts that run code or write, and were not refused."""
    assert answer.returncode == 0, answer.stderr
    rows = [row for row in json.loads(answer.stdout) if row["result"] == "possible" and row["effect"] in {CODE, WRITE}]
    return {row["id"]: row["detail"] for row in rows}


def test_the_guards_container_leads_nowhere(pod: Pod, targets: str) -> None:
    """Also through the host's /proc. With CAP_SYS_PTRACE it would be the host's root, so another container has that."""
    volumes = (("/attempts", ATTEMPTS),)
    assert possible(pod.run(PYTHON, "/attempts", targets, volumes=volumes)) == OF_THE_CONTAINER
    pod.container()["securityContext"]["capabilities"]["add"] = ["SYS_PTRACE"]
    found = possible(pod.run(PYTHON, "/attempts", targets, volumes=volumes))
    assert "cron_by_bare" in found


def test_the_container_for_events_leads_nowhere(pod: Pod, targets: str) -> None:
    """It has no path of the host."""
    assert not [one for one in pod.container(EVENTS)["volumeMounts"] if one["mountPath"].startswith(HOST)]
    found = possible(pod.run(PYTHON, "/attempts", targets, name=EVENTS, volumes=(("/attempts", ATTEMPTS),)))
    assert found == {"shared_memory": OF_THE_CONTAINER["shared_memory"]}
    assert pod.run(PYTHON, "-c", "import conntrackd_guard.host.cluster_api", name=EVENTS).returncode == 0


def test_a_raise_is_an_event_of_the_node(pod: Pod, table: ScratchNamespace) -> None:
    """The container for Events, which is not root and has a token alone, reads it from the folder that both mount."""
    token = pod.folder / "empty" / pod.name / "token"
    token.mkdir(parents=True)
    (token / "token").write_text("a.token")
    pem = certificate(pod.folder)
    (token / "ca.crt").write_bytes(pem.with_name("cert.pem").read_bytes())
    with api_server(pem) as api:
        given = {"NODE_NAME": "node-1", "POD_NAME": "pod-1"}  # by the kubelet
        given |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        pod.container(EVENTS)["env"] += [{"name": name, "value": value} for name, value in given.items()]
        table.fill(LIMIT)
        guard = answered(pod)
        reporter = pod.start(EVENTS)
        table.overflow()
        eventually(lambda: api.events() and api.conditions(), "an Event and a condition", reporter.log)
        assert guard.stop() == 0
    assert api.events()[0]["reason"] == "ConntrackLimitRaised"
    assert api.events()[0]["regarding"]["name"] == "node-1"
    assert api.conditions()[0]["type"] == "ConntrackConstrained"
    assert {one.authorization for one in api.requests} == {"Bearer a.token"}


def test_the_helpers_container_leads_nowhere(pod: Pod, targets: str) -> None:
    """As the process that it runs, which confines itself."""
    interpreter, *options, helper, _ = pod.container(OWNERS)["command"]
    volumes = (("/attempts", ATTEMPTS),)
    given = json.dumps({**json.loads(targets), "helper": helper})
    answer = pod.run(interpreter, *options, "/attempts", given, name=OWNERS, volumes=volumes)
    assert possible(answer) == {}

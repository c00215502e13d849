"""The guard in a container of crun and of runc, with the rights of a pod's acting container, raises the host's limit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.faults import injected
from testbed.limit_guard import LimitGuard
from testbed.oci_pod import LIMIT_FOLDER, RUNTIMES, Pod
from testbed.private_world import Guard, eventually
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import LIMIT, limit

pytestmark = pytest.mark.live


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
def pod(request: pytest.FixtureRequest, tmp_path: Path, table: ScratchNamespace) -> Pod:  # noqa: ARG001 - the limit
    """A pod as the chart has it."""
    if shutil.which(request.param) is None:
        pytest.skip(f"needs the package {request.param}")
    pod = Pod(folder=tmp_path, runtime=request.param)
    # Without ptrace rights nothing shows the owner of a namespace; a helper in another container would.
    pod.configure({"persist": False, "trust_user_namespaces": True})
    return pod


def ready(pod: Pod) -> Guard:
    """Start a guard in the pod and wait until it watches."""
    guard = pod.start()
    guard.await_event("guard.ready")
    return guard


def test_it_raises_the_limit_of_the_host(pod: Pod, table: ScratchNamespace) -> None:
    """Without a ring buffer, a journal or a capability; a new pod has the history of the one before."""
    table.fill(LIMIT)
    guard = ready(pod)
    table.overflow()
    eventually(lambda: limit() > LIMIT, "a raise", guard.log)
    assert table.overflow(20) == 20
    assert [event for event in guard.events() if event["level"] == "error"] == []
    assert guard.stop() == 0
    assert not [event for event in guard.events() if "can be written here" in event["message"]]
    (row,) = [row for row in replace(pod, name="0" * 64).decisions() if row["verdict"] == "raise"]
    assert (row["outcome"], row["from"]) == ("applied", LIMIT)


def test_a_second_guard_names_the_first_and_its_container(pod: Pod) -> None:
    """By the pid that the host knows it by."""
    first = ready(pod)
    second = replace(pod, name="1" * 64).guard("run")
    assert second.returncode == 3
    assert f"process {pod.pid()} in container {pod.name[:12]} holds /host/run/conntrackd-guard/lock" in second.stderr
    status = json.loads(pod.guard("status", "--json").stdout)
    assert (status["running"], status["service"]["pid"], status["health"]["level"]) == (True, pod.pid(), "degraded")
    assert first.stop() == 0


def test_a_pod_that_was_replaced_amid_a_raise_is_explained(pod: Pod, table: ScratchNamespace) -> None:
    """The intent is under /run of the host: the next pod finds the write done, and records it once."""
    guard = ready(pod)
    traced = Guard(_Process(pod.pid()), guard.log)  # type: ignore[arg-type]
    with injected(traced, "unlink,unlinkat", "signal=SIGKILL:when=1", (), pod.folder / "strace"):
        table.fill(LIMIT)
        eventually(lambda: guard.process.poll() is not None, "the kill", guard.log)
    assert limit() > LIMIT
    after = limit()
    assert list((pod.folder / "run/intents").iterdir())
    successor = ready(replace(pod, name="2" * 64))
    eventually(lambda: not list((pod.folder / "run/intents").iterdir()), "the intent closed", successor.log)
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
    ],
)
def test_a_missing_mount_is_named_with_its_field(pod: Pod, path: str, sentence: str) -> None:
    """By the check before a start; what only costs history or messages is no failure."""
    below = {LIMIT_FOLDER} if path == "/proc" else set()
    checked(replace(pod, without=frozenset({path, *below})), sentence, fails=not path.startswith("/var"))


def test_what_the_kernel_refuses_is_named_with_its_field(pod: Pod) -> None:
    """A read-only mount and other namespaces."""
    checked(replace(pod, read_only=frozenset({LIMIT_FOLDER})), "/host/proc/sys/net/netfilter, readOnly: false")
    checked(replace(pod, host_network=False), "The pod needs hostNetwork: true.")
    checked(replace(pod, host_users=False), "The pod needs hostUsers: true")


def checked(pod: Pod, sentence: str, *, fails: bool = True) -> None:
    """Run the check before a start."""
    answer = pod.guard("run", "--check", "--log-format", "text")
    assert sentence in answer.stderr
    assert (answer.returncode != 0) is fails


def test_another_user_is_refused(pod: Pod) -> None:
    """Kubernetes has no ambient capabilities."""
    answer = replace(pod, uid=65534).guard("run")
    assert answer.returncode == 77
    assert "needs root" in answer.stderr


def test_nothing_but_the_limit_can_be_written(pod: Pod) -> None:
    """No other sysctl, no memory of a process; /proc/PID/root of the host's processes can't be entered."""
    script = """
for path in /host/proc/sys/kernel/printk /host/proc/sys/net/core/somaxconn /host/proc/1/mem /host/proc/1/oom_score_adj \
    /proc/sys/kernel/printk /host/proc/sys/fs/binfmt_misc/register /host/proc/sys/fs/binfmt_misc/status
do (echo 1 >$path) 2>/dev/null && echo "wrote $path"; done
ls /host/proc/1/root/ /host/proc/1/cwd/ 2>/dev/null
(echo x >/host/proc/sysrq-trigger) 2>/dev/null && echo sysrq
touch /x 2>/dev/null && echo root
ls /dev/kmsg /dev/sda /dev/mem 2>/dev/null
true
"""
    answer = pod.run("sh", "-c", script)
    assert (answer.returncode, answer.stdout) == (0, "")

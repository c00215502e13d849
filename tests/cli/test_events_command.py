"""`guard events` as a process of its own: what it needs, what it takes, and with a guard beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testbed.api_server import ApiServer, api_server, certificate, trust
from testbed.guarded import LIMIT, Host
from testbed.running_daemon import RunningDaemon

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.paths import Paths

REPOSITORY = Path(__file__).resolve().parents[2]
_RUN = """\
import sys
from pathlib import Path
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths
sys.exit(main(["events"], Paths(Path(sys.argv[1]))))
"""
_DEADLINE_SECONDS = 20.0


def started(root: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command with the paths of a container below `root`."""
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, root],
        env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip


@contextmanager
def reporting(root: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a pod of node-1 whose API server listens on a port of 127.0.0.1."""
    process = started(
        root,
        NODE_NAME="node-1",
        POD_NAME="pod-1",
        GUARD_ROOT="",
        KUBERNETES_SERVICE_HOST="127.0.0.1",
        KUBERNETES_SERVICE_PORT=str(port),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(found: Callable[[], object]) -> None:
    """Wait until `found` is true."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not found():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """An API server that the pod trusts, and the pod's folders."""
    pem = certificate(tmp_path)
    trust(Paths(tmp_path), pem)
    Paths(tmp_path).outbox.mkdir(parents=True)
    with api_server(pem) as api:
        yield api


@pytest.mark.skipif(os.geteuid() != 0, reason="the guard needs root")
def test_a_guard_and_its_reporter(host: Host, api: ApiServer) -> None:
    """A hold that needs an operator is an Event, and the condition is true while it lasts; the end is reported too."""
    paths = Paths(host.root)
    paths.settings_file.parent.mkdir(parents=True, exist_ok=True)
    paths.settings_file.write_text(f"max_limit: {LIMIT}\n")
    with RunningDaemon(host) as daemon, reporting(host.root, api.port) as reporter:
        daemon.ready()
        until(lambda: [one["status"] for one in api.conditions()] == ["False"])
        host.table(LIMIT, drop=3)
        until(api.events)
        until(lambda: api.conditions()[-1]["status"] == "True")
        assert daemon.stop() == Exit.DONE
        reporter.send_signal(signal.SIGTERM)
        assert reporter.wait(_DEADLINE_SECONDS) == Exit.DONE
    (event,) = api.events()
    assert (event["reason"], event["type"], event["regarding"]["name"]) == ("ConntrackAtCeiling", "Warning", "node-1")
    assert str(f"{LIMIT:,}") in event["note"]
    assert api.conditions()[-1]["reason"] == "GuardStopped"
    assert "AtCeiling" in [one["reason"] for one in api.conditions()]


def test_it_is_small(tmp_path: Path, api: ApiServer) -> None:
    """Less than the guard itself may take, with TLS in use, and it ends at SIGTERM."""
    (Paths(tmp_path).outbox / "status.json").write_text('{"boottime_seconds": 1.0}')
    with reporting(tmp_path, api.port) as process:
        until(api.conditions)
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii")
        (kilobytes,) = re.findall(r"^Rss: +(\d+) kB", rollup, re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_DEADLINE_SECONDS) == Exit.DONE
    assert int(kilobytes) < 30 * 1024


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "NODE_NAME is '', not the name of a Node: set it from fieldRef spec.nodeName in the pod."),
        ({"NODE_NAME": "../../x"}, "NODE_NAME is '../../x', not the name of a Node"),
        ({"NODE_NAME": "a\x1b[2J"}, r"NODE_NAME is 'a\x1b[2J', not the name of a Node"),
        ({"NODE_NAME": "n1"}, "Run this in a pod: KUBERNETES_SERVICE_HOST"),
        (
            {"NODE_NAME": "n1", "KUBERNETES_SERVICE_HOST": "10.0.0.1/x", "KUBERNETES_SERVICE_PORT": "443"},
            "Run this in a pod",
        ),
        (
            {"NODE_NAME": "n1", "KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "99999"},
            "Run this in a pod",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, environment: dict[str, str], text: str) -> None:
    """In one line, with the next step."""
    Paths(tmp_path).outbox.mkdir(parents=True)
    process = started(tmp_path, **environment)
    _, err = process.communicate(timeout=_DEADLINE_SECONDS)
    assert process.returncode == Exit.FAILED
    assert err.startswith(f"guard: {text}")
    assert err.count("\n") == 1


def test_without_the_folder(tmp_path: Path) -> None:
    """The volume is named."""
    process = started(tmp_path, NODE_NAME="n1")
    _, err = process.communicate(timeout=_DEADLINE_SECONDS)
    assert process.returncode == Exit.FAILED
    assert (
        err
        == f"guard: {Paths(tmp_path).outbox} does not exist: mount the emptyDir there that the guard's container has.\n"
    )

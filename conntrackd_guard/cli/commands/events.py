"""`guard events`: report decisions and health to the API server of the cluster that this pod belongs to."""

import argparse
import os
import signal
import sys

for _name in ("ssl", "_hashlib", "ipaddress"):  # `daemon.import_stubs` blocks them for the daemon; TLS takes them
    if getattr(sys.modules.get(_name), "__spec__", None) is None:
        sys.modules.pop(_name, None)

from conntrackd_guard.actions.events import Reporter  # noqa: E402
from conntrackd_guard.cli.exits import Exit  # noqa: E402
from conntrackd_guard.core.cluster import is_node_name  # noqa: E402
from conntrackd_guard.core.errors import GuardError  # noqa: E402
from conntrackd_guard.host.clock import Clock  # noqa: E402
from conntrackd_guard.host.cluster_api import ClusterApi  # noqa: E402
from conntrackd_guard.host.log import Log  # noqa: E402
from conntrackd_guard.host.outbox import Outbox  # noqa: E402
from conntrackd_guard.host.paths import Paths  # noqa: E402


def events(_args: argparse.Namespace, paths: Paths) -> Exit:
    """Report until SIGTERM or SIGINT."""
    node, outbox = os.environ.get("NODE_NAME", ""), Outbox(paths)
    if not is_node_name(node):
        raise GuardError(
            f"NODE_NAME is {node[:80]!r}, not the name of a Node: set it from fieldRef spec.nodeName in the pod."
        )
    if not outbox.exists:
        raise GuardError(f"{outbox.folder} does not exist: mount the emptyDir there that the guard's container has.")
    stopped = list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stopped.append(got))
    api, log = ClusterApi.of_pod(paths, os.environ), Log("auto", sys.stderr)
    log.emit("guard.info", "info", f"Reporting decisions and health of node {node} as Events and a condition.")
    reporter = Reporter(outbox, api, log, Clock(), node=node, instance=os.environ.get("POD_NAME") or node)
    reporter.work(lambda: bool(stopped))
    return Exit.DONE

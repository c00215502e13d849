"""`guard persist`: write the drop-in that a daemon requests which may not write it."""

import argparse

from conntrackd_guard.cli.answer import note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn


def persist(_args: argparse.Namespace, paths: Paths) -> Exit:
    """Carry out the request, if there is one."""
    if not SysctlDropIn(paths).serve():
        note("The daemon requests nothing.")
    return Exit.DONE

"""`guard notify`: run the operator's command for each queued decision."""

import argparse
import sys

from conntrackd_guard.actions.notify import Messenger
from conntrackd_guard.cli.answer import note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings


def notify(_args: argparse.Namespace, paths: Paths) -> Exit:
    """Work until the queue is empty."""

    def command() -> tuple[str, ...] | None:
        return load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix).notify

    spool = NotifySpool(paths.notices)
    if not spool.files():
        note("No decision is queued.")
    Messenger(spool, command, Log("auto", sys.stderr), Clock()).work()
    return Exit.DONE

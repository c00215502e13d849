"""`guard notify`: tell the operator's command of decisions that need a person."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.paths import Paths


def add_parser(commands: Any) -> None:
    """Add `guard notify`."""
    parser = commands.add_parser(
        "notify",
        help="run the command of the `notify` setting for each decision that waits",
        description="Runs the command of the `notify` setting for each decision that waits, until none does.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: sudo guard notify    what conntrackd-guard-notify.service does, without its sandbox.",
    )
    parser.set_defaults(run=_notify)


def _notify(args: argparse.Namespace, paths: Paths) -> Exit:
    del args
    from conntrackd_guard.actions.notify import Messenger  # noqa: PLC0415
    from conntrackd_guard.host.clock import Clock  # noqa: PLC0415 - settings and log: not needed for a help text
    from conntrackd_guard.host.log import Log  # noqa: PLC0415
    from conntrackd_guard.host.notify_spool import NotifySpool  # noqa: PLC0415
    from conntrackd_guard.settings.files import load_settings  # noqa: PLC0415

    def command() -> tuple[str, ...] | None:
        return load_settings(paths.settings_file, paths.settings_folder).notify

    notices = NotifySpool(paths)
    if not notices.files():
        sys.stderr.write("guard: No decision waits.\n")
    Messenger(notices, command, Log("auto", sys.stderr), Clock()).work()
    return Exit.DONE

"""`guard run`: the daemon, in the foreground."""

import argparse
import os
import sys
from dataclasses import replace

from conntrackd_guard.cli.answer import note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import NotPermitted
from conntrackd_guard.daemon.service import CLOSE_SECONDS, Daemon, check
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import Settings


def run(args: argparse.Namespace, paths: Paths) -> Exit:
    """Run until SIGTERM or SIGINT, or with `--check` only log the result of the start-up checks."""

    def read_settings() -> Settings:
        settings = load_settings(
            paths.settings_file, paths.settings_folder, in_container=paths.has_prefix, only=args.config
        )
        if not args.dry_run or settings.mode is Mode.DRY_RUN:
            return settings
        return replace(settings, mode=Mode.DRY_RUN, metrics_http=None)  # the acting guard beside it has the port

    settings = read_settings()
    if os.geteuid() != 0 and settings.mode is Mode.ACT:
        raise NotPermitted("Raising the limit needs root. Run `sudo guard run`, or try `sudo guard run --dry-run`.")
    here = paths.for_mode(settings.mode)
    log = Log(args.log_format, sys.stderr, level=args.log_level)
    if args.check:
        return Exit.DONE if check(here, settings, log) else Exit.FAILED
    if Daemon(here, settings, read_settings, log).run():
        return Exit.DONE
    note(f"The recorder did not finish in {CLOSE_SECONDS:g} s. Pending writes will be reconciled at the next start.")
    return Exit.FAILED

"""`guard status`: limit, use, memory, next step and the state of the daemon."""

import argparse

from conntrackd_guard.actions.status import document, gather
from conntrackd_guard.cli.answer import Answer
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.history import documents
from conntrackd_guard.host.paths import Paths


def status(args: argparse.Namespace, paths: Paths) -> Answer:
    """Return the status, or with `--watch` what its live view reads from."""
    if args.watch:
        return Answer(value=paths, view="status_live.watch")
    found = gather(paths)
    return Answer(
        value=found,
        view="status_text.print_status",
        json=lambda: [documents.document(document(found))],
        code=Exit.NO if found.health.level.is_bad else Exit.DONE,
    )

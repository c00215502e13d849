"""`guard doctor`: check this host for problems."""

import argparse
from typing import Any

from conntrackd_guard import __version__
from conntrackd_guard.cli.answer import Answer
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.doctor.checks import Examination, examine
from conntrackd_guard.history import documents
from conntrackd_guard.host.paths import Paths


def doctor(_args: argparse.Namespace, paths: Paths) -> Answer:
    """Return every check; the exit code is 3 if one failed."""
    found = examine(paths)
    code = Exit.NO if found.wrong else Exit.DONE
    return Answer(
        value=found, view="doctor_text.print_examination", json=lambda: [documents.document(document(found))], code=code
    )


def document(found: Examination) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "at": rfc3339(found.at_seconds),
        "guard_version": __version__,
        "mode": found.mode.value,
        "wrong": found.wrong,
        "checks": [encode(check) for check in found.checks],
    }

"""Try to leave a sandbox: print one JSON document with the result of every attempt.

Runs inside the sandbox as its service would, with the standard library only. Knows nothing of systemd, so a container can
run it too. The only argument is a JSON object with the fields of Targets. Nothing is changed that an attempt can leave
alone: files are created and removed, values are written as they are.
"""

from __future__ import annotations

import json
import runpy
import sys

import files  # noqa: F401 - each adds its attempts
import kernel  # noqa: F401
import processes  # noqa: F401
import services  # noqa: F401
from frame import ATTEMPTS, PREFIXES, Targets


def main() -> None:
    """Try everything. With targets that come later, wait for a byte on stdin first."""
    targets = Targets(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    if targets.host:
        PREFIXES.insert(0, targets.host)
    if targets.late:
        sys.stdin.buffer.read(1)
    if targets.helper:
        runpy.run_path(targets.helper)["confine"]()
    print(json.dumps([attempt.result(targets) for attempt in ATTEMPTS]))  # noqa: T201 - the result


if __name__ == "__main__":
    main()

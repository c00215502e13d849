"""The guard command: arguments, wiring, exit codes."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - what comes after this can't be parsed by an old one
    sys.exit(
        "guard: Python 3.11 or later is needed, and {} is {}.{}. "
        "Debian 12, Ubuntu 24.04 and later have one; elsewhere run it as `python3.11 -m conntrackd_guard`.".format(
            sys.executable, *sys.version_info[:2]
        )
    )

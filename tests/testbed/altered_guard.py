"""Run the guard with other constants, or as a kernel before 6.17 would feed it.

Usage: altered_guard.py [without-numbers] [NAME=VALUE ...] -- ARGUMENTS OF guard
NAME is a constant of `core.tuning`, or DEAF: then no kernel message is recognised, and only counters show a need.
`without-numbers` takes the namespace number out of every kernel message.
"""

from __future__ import annotations

import json
import re
import sys

from conntrackd_guard.core import kernel_messages, tuning
from conntrackd_guard.core.kernel_messages import KernelMessage

_recognise = kernel_messages.recognise


def without_numbers(message: str) -> KernelMessage | None:
    """Recognise the message that an older kernel would have logged instead."""
    return _recognise(re.sub(r" in netns \d+", "", message))


def nothing(message: str) -> KernelMessage | None:  # noqa: ARG001 - the same signature
    """Recognise no message."""
    return None


def alter(words: list[str]) -> None:
    """Alter what the words name. Comes before the other modules are imported, which take names from these."""
    deaf = False
    for word in words:
        name, _, value = word.partition("=")
        if word == "without-numbers":
            kernel_messages.recognise = without_numbers
        elif name == "DEAF":
            deaf = json.loads(value)
        else:
            assert hasattr(tuning, name), name
            setattr(tuning, name, json.loads(value))
    if deaf:
        kernel_messages.recognise = nothing


if __name__ == "__main__":
    end = sys.argv.index("--")
    alter(sys.argv[1:end])
    sys.argv[1:] = sys.argv[end + 1 :]
    from conntrackd_guard.cli.main import entry

    entry()

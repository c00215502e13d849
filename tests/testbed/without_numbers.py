"""The guard as a kernel before 6.17 would feed it: the namespace number is taken out of every line."""

from __future__ import annotations

import re

from conntrackd_guard.core import kernel_messages
from conntrackd_guard.core.model import KernelMessage

_recognise = kernel_messages.recognise


def recognise(message: str) -> KernelMessage | None:
    """Recognise what an older kernel would have logged in the place of `message`."""
    return _recognise(re.sub(r" in netns \d+", "", message))


# Before the sources are imported: they take the name from its module.
kernel_messages.recognise = recognise

from conntrackd_guard.cli.main import entry  # noqa: E402

if __name__ == "__main__":
    entry()

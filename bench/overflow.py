"""The packet that a full table drops, and how long the limit takes to grow after it."""

from __future__ import annotations

import subprocess

from testbed.scratch_namespace import ScratchNamespace

from bench.ground import Ground, progress

LATEST_SECONDS = 5.0
_NOT_DROPPED, _NOT_RAISED = 1, 3  # exit codes of overflow.c


def overflow(ground: Ground, namespace: ScratchNamespace) -> float | None:
    """Cause one dropped packet; return the milliseconds until the limit has grown, None if it doesn't."""
    try:
        answer = ground.enter(namespace, str(ground.tool("overflow")), str(LATEST_SECONDS))
    except subprocess.CalledProcessError as error:
        if error.returncode == _NOT_DROPPED:
            progress("reaction: the limit was raised before the packet (another message?); the trial is not counted")
        elif error.returncode != _NOT_RAISED:
            raise
        return None
    return float(answer.split()[0]) / 1000

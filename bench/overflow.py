"""The packet that a full table drops, and how long the limit takes to grow after it."""

from __future__ import annotations

import math
import subprocess

from testbed.scratch_namespace import ScratchNamespace

from bench.ground import Ground, progress

LATEST_SECONDS = 5.0
_NOT_DROPPED, _NOT_RAISED = 1, 3  # exit codes of overflow.c
_PERIOD_US = 20_000
"""Whole ticks of any kernel: 1, 2, 4 or 10 ms."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def overflow(ground: Ground, namespace: ScratchNamespace) -> float | None:
    """Cause one dropped packet; return the milliseconds until the limit has grown, None if it doesn't.

    Readers wait for the tick: the packets of any 20 trials are spread evenly over it, so that contenders compare.
    """
    phase_us = next(ground.packets) * _GOLDEN % 1 * _PERIOD_US
    command = [ground.tool("overflow"), str(namespace.pid), str(LATEST_SECONDS), f"{phase_us:.0f}"]
    try:
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    except subprocess.CalledProcessError as error:
        if error.returncode == _NOT_DROPPED:
            progress("reaction: the limit was raised before the packet (another message?); the trial is not counted")
        elif error.returncode != _NOT_RAISED:
            raise
        return None
    return float(answer.split()[0]) / 1000

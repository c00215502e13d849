"""Two clocks: one for intervals, one for people."""

from __future__ import annotations

import time


class Clock:
    """`boottime` continues during suspend and never jumps; `wall` is for people only. Both in seconds."""

    def boottime(self) -> float:
        """Return seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Return seconds since 1970, by this host's clock."""
        return time.time()

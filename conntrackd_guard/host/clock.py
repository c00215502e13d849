"""The two clocks: one for pace, one for people."""

from __future__ import annotations

import time


class Clock:
    """`boottime` goes on through suspend and never jumps; `wall` is for people only. Both in seconds."""

    def boottime(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Seconds since 1970, as this host believes."""
        return time.time()

"""Two clocks: one for intervals, one for people."""

import time
from collections.abc import Callable
from functools import partial


class Clock:
    """`boottime` continues during suspend and never jumps; `wall` is for people only. Both in seconds."""

    def __init__(self) -> None:
        self.boottime: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        """Seconds since boot."""
        self.wall: Callable[[], float] = time.time
        """Seconds since 1970, as this host believes."""

"""The stage of a live test: the machine's limit on loan, a namespace to overfill, and a private world with the guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limit_keeper import LimitKeeper
from private_world import Guard, PrivateWorld, eventually
from scratch_namespace import ScratchNamespace

LIMIT = 2048
"""Where each test starts: small, so that filling a table takes milliseconds."""
_QUIET_SECONDS = 0.8
_REPOSITORY_INSIDE = "/run/private-world/repository"


class Stage:
    """What a live test plays with."""

    def __init__(self, keeper: LimitKeeper, table: ScratchNamespace, world: PrivateWorld, *, numbered: bool) -> None:
        self.keeper = keeper
        self.table = table
        self.world = world
        self.numbered = numbered

    def start(self, settings: Mapping[str, object], *arguments: str, ring_buffer: bool = True) -> Guard:
        """Start the guard with these settings, and wait until it watches."""
        self.world.configure(settings)
        program = "-m conntrackd_guard" if self.numbered else f"{_REPOSITORY_INSIDE}/tests/live/without_numbers.py"
        return self.world.start_guard(*arguments, program=program, ring_buffer=ring_buffer)

    def raised(self, above: int = LIMIT) -> int:
        """Wait until the limit in force is above that, and return it."""
        return int(eventually(lambda: limit() if limit() > above else 0, f"a limit above {above}"))

    def decision(self, matches: Callable[[dict[str, Any]], bool], what: str, *where: str) -> dict[str, Any]:
        """Wait until history holds such a decision, and return the first."""
        seen: list[dict[str, Any]] = []

        def find() -> dict[str, Any] | None:
            seen[:] = self.world.decisions(*where)
            return next((row for row in seen if matches(row)), None)

        try:
            found: dict[str, Any] = eventually(find, what)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; history holds {[(r['trigger'], r['verdict'], r['reason']) for r in seen]}"
            ) from None
        return found

    def held(self, reason: str) -> dict[str, Any]:
        """Wait until history holds a hold for that reason, and return it."""
        return self.decision(lambda row: row["verdict"] == "hold" and row["reason"] == reason, f"a hold for {reason}")

    def raises(self) -> list[dict[str, Any]]:
        """Return the raises in history, once there is one."""
        self.decision(lambda row: row["verdict"] == "raise", "a raise")
        return [row for row in self.world.decisions() if row["verdict"] == "raise"]

    def lines_told(self) -> int:
        """Return how many kernel lines history accounts for, once it has caught up.

        Lines that were in the ring buffer before the start are among them: compare two readings. The recorder works beside
        the loop, and journald tells its followers up to half a second late.
        """
        told, since = -1, time.monotonic()
        while time.monotonic() - since < _QUIET_SECONDS:
            rows = [row for row in self.world.decisions() if row["trigger"] == "kernel_line" and row["message"]]
            before, told = told, sum(row["repeats"] for row in rows)
            if told != before:
                since = time.monotonic()
        return told


def limit() -> int:
    """Return the limit in force."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text("ascii"))

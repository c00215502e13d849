"""The stage of a live test: the machine's limit, a namespace to overfill, and a private world for the guard."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testbed.limit_guard import LimitGuard
from testbed.private_world import Guard, PrivateWorld, eventually
from testbed.scratch_namespace import ScratchNamespace

LIMIT = 2048
"""The limit at the start of each test: small, so that filling a table takes milliseconds."""
_FIRST_FACILITY_OF_OTHERS = 8
_SIZE_BUFFER = 10  # SYSLOG_ACTION_SIZE_BUFFER, syslog(2)
_JUNK_BYTES = 900
"""Size of one message; the kernel accepts about 1,000."""
_ALTERED_GUARD = "/run/private-world/repository/tests/testbed/altered_guard.py"


class Stage:
    """Everything that a live test acts on."""

    def __init__(
        self, limit_guard: LimitGuard, table: ScratchNamespace, world: PrivateWorld, *, numbered: bool
    ) -> None:
        self.limit_guard = limit_guard
        self.table = table
        self.world = world
        self.numbered = numbered
        self.kernel = RingBuffer()

    def start(self, settings: Mapping[str, object], *arguments: str, ring_buffer: bool = True) -> Guard:
        """Start the guard with these settings, and wait until it watches."""
        return self.world.start_guard(*arguments, program=self.configure(settings), ring_buffer=ring_buffer)

    def configure(self, settings: Mapping[str, object]) -> str:
        """Write these settings and return the program to start. Names in capitals are those of `altered_guard`."""
        self.world.configure({name: value for name, value in settings.items() if not name.isupper()})
        altered = [f"{name}={json.dumps(value)}" for name, value in settings.items() if name.isupper()]
        altered += [] if self.numbered else ["without-numbers"]
        return " ".join((_ALTERED_GUARD, *altered, "--")) if altered else "-m conntrackd_guard"

    def raised(self, above: int = LIMIT) -> int:
        """Wait until the limit in force is higher and return it."""
        return int(eventually(lambda: limit() if limit() > above else 0, f"a limit above {above}"))

    def decision(self, matches: Callable[[dict[str, Any]], bool], what: str, *where: str) -> dict[str, Any]:
        """Wait until the history has a matching decision and return the first."""
        seen: list[dict[str, Any]] = []

        def find() -> dict[str, Any] | None:
            seen[:] = self.world.decisions(*where)
            return next((row for row in seen if matches(row)), None)

        try:
            found: dict[str, Any] = eventually(find, what)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; the history has {[(r['trigger'], r['verdict'], r['reason']) for r in seen]}"
            ) from None
        return found

    def held(self, reason: str) -> dict[str, Any]:
        """Wait until the history has a hold with that reason and return it."""
        return self.decision(lambda row: row["verdict"] == "hold" and row["reason"] == reason, f"a hold for {reason}")

    def raises(self) -> list[dict[str, Any]]:
        """Return the raises in the history, once there is one."""
        self.decision(lambda row: row["verdict"] == "raise", "a raise")
        return [row for row in self.world.decisions() if row["verdict"] == "raise"]

    def overrun(self, guard: Guard) -> None:
        """Overwrite the ring buffer before the guard reads it, so that its messages are in the journal only."""
        guard.signal(signal.SIGSTOP)
        self.kernel.overwrite()
        guard.signal(signal.SIGCONT)

    def messages_recorded(self, guard: Guard) -> int:
        """End the guard and return the number of `table full` messages that its history counts.

        Repeats are counted in memory and written from time to time; a guard that ends has written all of them.
        """
        assert guard.stop() == 0
        rows = [row for row in self.world.decisions() if "table full" in (row["message"] or "")]
        return sum(row["repeats"] for row in rows)


class RingBuffer:
    """Counts the kernel's own `table full` messages from now on."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._found = 0

    def messages(self) -> int:
        """Return the number so far, without forged ones."""
        with contextlib.suppress(BlockingIOError):
            while True:
                head, _, message = os.read(self._descriptor, 8192).partition(b";")
                own = int(head.split(b",")[0]) < _FIRST_FACILITY_OF_OTHERS
                self._found += own and message.startswith(b"nf_conntrack: nf_conntrack: table full")
        return self._found

    def overwrite(self) -> None:
        """Write as much as the buffer holds. Each opening may write ten messages in 5 s (`kernel.printk_devkmsg`)."""
        self.messages()
        held = ctypes.CDLL(None).klogctl(_SIZE_BUFFER, None, 0)
        for _ in range(held // (10 * _JUNK_BYTES) + 1):
            with open("/dev/kmsg", "wb", buffering=0) as file:
                for _ in range(10):
                    file.write(b"<7>" + b"x" * _JUNK_BYTES + b"\n")
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def limit() -> int:
    """Return the limit in force."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text("ascii"))

"""The demo: a table overfills, the kernel drops packets, the guard raises the limit, packets pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from testbed.bystanders import foreign_entries
from testbed.limit_guard import LimitGuard, RefusedError
from testbed.private_world import Guard, PrivateWorld, eventually
from testbed.scratch_namespace import ScratchNamespace

_SMALL = 4096
"""The lowered limit: full in a tenth of a second."""
_MOST_ENTRIES = 300_000
"""A higher present limit is not filled: that takes longer than people watch."""
_BYTES_PER_ENTRY = 640
_MEMORY_SHARE = 0.10
_PACKETS = 20
_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class DeclinedError(Exception):
    """The demo would not be safe here; the text is the reason."""


def main() -> int:
    """Run the demo; return 0 on success, 1 on failure, 3 if it would not be safe."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        _demo()
    except (DeclinedError, RefusedError) as error:
        sys.stderr.write(f"The demo doesn't run: {error}. Nothing was changed.\n")
        return 3
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Everything was restored.\n")
        return 130
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"The demo failed: {error}\nEverything was restored.\n")
        return 1
    return 0


def _demo() -> None:
    with LimitGuard(wait_seconds=60.0) as limit_guard:
        try:
            with ScratchNamespace() as table, PrivateWorld() as world:
                limit_guard.own(table.number)
                try:
                    _act(limit_guard, table, world)
                finally:
                    limit_guard.check()  # an early restore explains a later failure
        finally:
            limit_guard.close()
        _say(f"Restored: nf_conntrack_max is {_limit():,} again. The namespace and the guard's files are gone.")


def _act(limit_guard: LimitGuard, table: ScratchNamespace, world: PrivateWorld) -> None:
    full = _choose_limit(limit_guard)
    _say(f"Filling a scratch network namespace with {full:,} flows, as many as nf_conntrack_max allows.")
    table.fill(full - table.count())
    arrived = table.overflow(_PACKETS)
    _say(f"{_PACKETS} new connections inside: {arrived} got through. The kernel has dropped {table.dropped()} packets.")
    _say("The kernel's message:")
    subprocess.run("dmesg | grep 'table full' | tail -n 1", shell=True, check=False)  # noqa: S602  a fixed line
    _say("Starting the guard in the foreground with its defaults. Its log:")
    guard = world.start_guard(log_format="text")
    eventually(lambda: "atching" in guard.log.read_text(), "the start of the guard", guard.log)
    table.overflow()  # one more drop, if the guard has not raised yet
    eventually(lambda: _limit() > full, "a raise", guard.log)
    _await_history(world)
    _print_log(guard)
    arrived = table.overflow(_PACKETS)
    _say(f"The limit is {_limit():,}. {_PACKETS} new connections inside: {arrived} got through.")
    if arrived != _PACKETS:
        raise AssertionError(f"{_PACKETS - arrived} packets were dropped after the raise")
    _say("guard history:")
    sys.stdout.write(world.guard("history").stdout)
    sys.stdout.flush()
    guard.stop()


def _choose_limit(limit_guard: LimitGuard) -> int:
    """Return the limit to fill up to: a small one, or the present one if other namespaces hold entries."""
    foreign = foreign_entries()
    if foreign is None:
        limit_guard.set_message_cost(0)
        limit_guard.set_limit(_SMALL)
        _say(
            f"Nothing on this host is tracked, so nf_conntrack_max is lowered from {limit_guard.saved_limit:,} to {_SMALL:,}."
        )
        return _SMALL
    present = limit_guard.saved_limit
    if not 0 < present <= _MOST_ENTRIES:
        raise DeclinedError(
            f"{foreign}, so the limit is not lowered; and the present one, {present:,}, is more than the "
            f"{_MOST_ENTRIES:,} entries that a demo may fill"
        )
    if present * _BYTES_PER_ENTRY > _MEMORY_SHARE * _available_bytes():
        raise DeclinedError(
            f"{foreign}, so the limit is not lowered; and filling {present:,} entries takes too much memory"
        )
    _say(f"{foreign[0].upper()}{foreign[1:]}, so nf_conntrack_max stays at {present:,}.")
    return present


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _await_history(world: PrivateWorld) -> None:
    eventually(lambda: any(row["verdict"] == "raise" for row in world.decisions()), "the raise in history")


def _print_log(guard: Guard) -> None:
    for line in guard.log.read_text("utf-8", "replace").splitlines():
        sys.stdout.write(f"    {line}\n")
    sys.stdout.flush()


def _limit() -> int:
    return int(_LIMIT.read_text("ascii"))


def _say(text: str) -> None:
    sys.stdout.write(f"\n▸ {text}\n" if os.environ.get("LANG", "C") != "C" else f"\n> {text}\n")
    sys.stdout.flush()
    time.sleep(0.4)  # people read


if __name__ == "__main__":
    sys.exit(main())

"""The story that `scripts/demo` tells: a table overfills, packets drop, the guard raises, packets pass."""

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
"""The lowered limit of the story: full in a tenth of a second."""
_MOST_ENTRIES = 300_000
"""A present limit above this is not filled: it takes longer than people watch."""
_BYTES_PER_ENTRY = 640
_MEMORY_SHARE = 0.10
_PACKETS = 20
_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class DeclinedError(Exception):
    """The demo would not be safe here; the text says why."""


def main() -> int:
    """Tell the story; 0 when it ended well, 1 when it failed, 3 when it was declined."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        _tell()
    except (DeclinedError, RefusedError) as error:
        sys.stderr.write(f"The demo declines: {error}. This host is as it was.\n")
        return 3
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Everything was put back.\n")
        return 130
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"The demo failed: {error}\nEverything was put back.\n")
        return 1
    return 0


def _tell() -> None:
    with LimitGuard(wait_seconds=60.0) as keeper:
        try:
            with ScratchNamespace() as table, PrivateWorld() as world:
                keeper.own(table.number)
                try:
                    _act(keeper, table, world)
                finally:
                    keeper.check()  # a loan that ended early explains whatever failed after it
        finally:
            keeper.close()
        _say(f"Put back: nf_conntrack_max is {_limit():,} again. The namespace and the guard's files are gone.")


def _act(keeper: LimitGuard, table: ScratchNamespace, world: PrivateWorld) -> None:
    full = _choose_limit(keeper)
    _say(f"A scratch network namespace is filled with {full:,} flows: as many as nf_conntrack_max allows.")
    table.fill(full - table.count())
    arrived = table.overflow(_PACKETS)
    _say(f"{_PACKETS} new connections inside: {arrived} got through. The table has dropped {table.dropped()} packets.")
    _say("The kernel says so:")
    subprocess.run("dmesg | grep 'table full' | tail -n 1", shell=True, check=False)  # noqa: S602  a fixed line
    _say("Now the guard starts, in the foreground with its defaults. Its log:")
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


def _choose_limit(keeper: LimitGuard) -> int:
    """Return the limit that the story fills up to: a small one, or the present one where others hold entries."""
    foreign = foreign_entries()
    if foreign is None:
        keeper.set_message_cost(0)
        keeper.set_limit(_SMALL)
        _say(
            f"Nothing on this host is tracked, so nf_conntrack_max is lowered from {keeper.saved_limit:,} to {_SMALL:,}."
        )
        return _SMALL
    present = keeper.saved_limit
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

"""Read and change the limit, the tables, the settings and the history of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ground import GUARD, SITE, lines, run, shown, until
from scratch_namespace import load_flows

SYSCTL = Path("/proc/sys/net/netfilter")
DROP_IN = Path("/etc/sysctl.d/99-zz-conntrackd-guard.conf")
RULE = Path("/etc/udev/rules.d/60-conntrackd-guard.rules")
FIREWALL = "firewall.service"
_WAIT_SECONDS = 60
"""An emulated machine on a busy host takes a hundred times the milliseconds of real hardware."""
_EPISODE_SECONDS = 10
_LAST = 50
"""Entries that packets create; the machine's own traffic creates a few at the same time."""
_RULES = """
table ip firewall {
  chain output {
    type filter hook output priority 0
    ct state new counter
  }
}
"""
_FIREWALL_UNIT = f"""
[Unit]
Description=A firewall that tracks connections, loaded late as container engines load theirs
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/{FIREWALL}.nft
[Install]
WantedBy=multi-user.target
"""


def limit() -> int | None:
    """Return the current limit, None if the module is not loaded."""
    try:
        return int((SYSCTL / "nf_conntrack_max").read_text("ascii"))
    except FileNotFoundError:
        return None


def persisted() -> int:
    """Return the persisted limit from the drop-in."""
    (value,) = re.findall(r"^net\.netfilter\.nf_conntrack_max = (\d+)$", DROP_IN.read_text("utf-8"), re.MULTILINE)
    return int(value)


def boot_id() -> str:
    """Return the ID of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def awaited(value: int | None) -> int:
    """Wait until the limit is `value`, and return it."""
    until(lambda: limit() == value, _WAIT_SECONDS, f"the limit is {value}, not {limit()}")
    return value or 0


def raised(above: int) -> int:
    """Wait until the limit is above `above`, and return it."""
    return int(until(lambda: (limit() or 0) > above and limit(), _WAIT_SECONDS, f"the limit is above {above}"))


def decisions(*where: str) -> list[dict[str, Any]]:
    """Return this boot's decisions, oldest first; `where` is `--dry-run` for the audit's."""
    rows: list[dict[str, Any]] = json.loads(run("guard", "history", "--json", *where))["decisions"]
    return sorted((row for row in rows if row["boot_id"] == boot_id()), key=lambda row: int(row["id"]))


def decision(reason: str, *where: str, after: int = 0) -> dict[str, Any]:
    """Wait for a decision with this reason and an ID above `after`; return the first."""
    seen: list[dict[str, Any]] = []

    def find() -> dict[str, Any] | None:
        seen[:] = decisions(*where)
        return next((row for row in seen if row["reason"] == reason and row["id"] > after), None)

    try:
        found: dict[str, Any] = until(find, _WAIT_SECONDS, f"history has {reason}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it has {[(row['id'], row['reason']) for row in seen]}") from None
    return found


def newest() -> int:
    """Return the ID of the newest decision, 0 without one."""
    return max((int(row["id"]) for row in decisions()), default=0)


def calm() -> None:
    """Wait until no episode is open: for 10 s after a need, the guard raises for a table that is nearly full."""
    live = Path("/run/conntrackd-guard/status.json")
    until(lambda: not json.loads(live.read_text("utf-8"))["needs"], _WAIT_SECONDS, "there is no need")
    time.sleep(_EPISODE_SECONDS)


def configure(settings: str) -> None:
    """Write these settings, and wait until the guard has reloaded them."""
    before = len(lines(MESSAGE="Settings reloaded."))
    Path(SITE).write_text(settings, "ascii")
    run("systemctl", "reload", GUARD)
    until(lambda: len(lines(MESSAGE="Settings reloaded.")) > before, _WAIT_SECONDS, "the settings are reloaded")


@contextlib.contextmanager
def frozen_journald() -> Iterator[None]:
    """Freeze journald, so that no kernel message reaches the journal."""
    pid = int(shown("systemd-journald.service", "MainPID"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class InitialTable:
    """The initial namespace's own table."""

    def __init__(self) -> None:
        self._made = 0

    def track(self) -> None:
        """Load rules that track connections, now and at each boot."""
        Path("/etc/systemd/system", FIREWALL).write_text(_FIREWALL_UNIT, "ascii")
        Path(f"/etc/{FIREWALL}.nft").write_text(_RULES, "ascii")
        run("systemctl", "enable", "--now", FIREWALL)

    def count(self) -> int:
        """Return the entries that the table holds."""
        return int((SYSCTL / "nf_conntrack_count").read_text("ascii"))

    def fill(self, flows: int) -> None:
        """Add assured flows, which the kernel doesn't evict, until the table is full."""
        load_flows(flows, first=self._made)
        self._made += flows

    def overflow(self) -> None:
        """Fill the table up to the limit, at the end with packets, each a new flow, until one is dropped."""
        self.fill((limit() or 0) - self.count() - _LAST)  # netlink's last flow could be the rejected one
        if not self.send(40 * _LAST, lost=1):  # the kernel evicts some of these unanswered flows
            raise AssertionError(f"no packet was dropped with {self.count()} of {limit()} entries")

    def send(self, packets: int, lost: int | None = None) -> int:
        """Send packets, each a new flow, at most until so many were dropped; return how many were."""
        dropped = 0
        for _ in range(packets):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                try:
                    sender.sendto(b"x", ("127.0.0.1", 9))
                except PermissionError:  # EPERM: the kernel dropped it
                    dropped += 1
            if dropped == lost:
                break
        return dropped

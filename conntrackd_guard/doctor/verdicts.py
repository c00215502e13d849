"""Verdicts of `guard doctor` on the kernel, its tables, the journal, the clock and the disk. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from conntrackd_guard.core import budget
from conntrackd_guard.core.units import format_bytes, format_duration

OLDEST_WALL_SECONDS = datetime(2023, 6, 1, tzinfo=UTC).timestamp()
"""Release of Debian 12, the oldest supported host: a clock before that was never set."""
CLOCK_SLACK_SECONDS = 60.0
"""A clock under NTP may step back this far without reordering decisions."""
DISK_EMPTY_BYTES = 8 * budget.MIB
"""The history's write-ahead file alone may take 4 MiB."""
DISK_LOW_BYTES = 64 * budget.MIB
"""Room for some 10,000 decisions with their evidence."""
_LABELS = {
    "drop_in": "saved limit",
    "at_boot": "boot (systemd-sysctl)",
    "sysctl_system": "sysctl --system",
    "boot_trap": "late module load",
}
_JOURNALD = "See `systemctl status systemd-journald`, and ReadKMsg= and MaxLevelStore= in journald.conf."
_UNRECORDED = "Until then raises go on, but are not recorded."


class Verdict(StrEnum):
    """Result of a check, as JSON has it."""

    GOOD = "good"
    NOTE = "note"
    """No fault, but the operator should know."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """Not checked; the evidence has the reason."""

    @property
    def label(self) -> str:
        """The verdict for people."""
        return "FAIL" if self is Verdict.WRONG else self.value


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Its texts may contain text from files and processes: not safe to print."""

    verdict: Verdict
    evidence: str
    next_step: str = ""
    name: str = ""
    """Set by `checks.examine`."""

    @property
    def label(self) -> str:
        """The name for people."""
        return _LABELS.get(self.name) or self.name.replace("_", " ")


good = partial(Check, Verdict.GOOD)
note = partial(Check, Verdict.NOTE)
wrong = partial(Check, Verdict.WRONG)
unknown = partial(Check, Verdict.UNKNOWN)


def conntrack(limit: int | None, buckets: int | None) -> Check:
    """Check that connection tracking is loaded and limited."""
    if limit is None:
        step = "Nothing, unless a firewall rule needs connection tracking; then `modprobe nf_conntrack`."
        return note("connection tracking is not loaded; the guard waits for it", step)
    if limit == 0:
        step = "To set a limit: `sysctl -w net.netfilter.nf_conntrack_max=262144`."
        return note("the limit is 0 (unlimited), so it is never raised", step)
    size = "" if buckets is None else f", {buckets:,} buckets"
    return good(f"limit {limit:,} entries per namespace{size}")


def namespace(*, initial: bool | None, guard_beside: bool | None) -> Check:
    """Check that this is the initial network namespace, and the guard's. `guard_beside`: None if unknown."""
    if initial is None:
        return unknown("known once connection tracking is loaded")
    if not initial:
        step = "Run the guard and this command on the host itself."
        return wrong("not the initial network namespace: the limit is read-only here", step)
    if guard_beside is False:
        step = "Remove PrivateNetwork= and NetworkNamespacePath= from its unit: `systemctl cat conntrackd-guard`."
        return wrong("the initial network namespace, but the guard runs in another one", step)
    return good(f"the initial network namespace{'; the guard runs in it' if guard_beside else ''}")


def buckets(limit: int | None, number: int | None) -> Check:
    """Check that hash chains stay short when one table fills up."""
    if not limit or not number:
        return unknown("needs a limit and a number of buckets")
    chain = 2 * limit / number
    wanted = -(-2 * limit // (budget.CHAIN_ADVISE * budget.BUCKETS_ROUNDED_TO)) * budget.BUCKETS_ROUNDED_TO
    average = f"average chain with one full table: 2 × {limit:,} ÷ {number:,} buckets = {chain:.1f}"
    if chain <= budget.CHAIN_ADVISE:
        return good(f"{average} (at most {budget.CHAIN_ADVISE})")
    step = (
        f"`sysctl -w net.netfilter.nf_conntrack_buckets={wanted}` (stops traffic for about 0.5 µs per entry), or set "
        "`buckets: match`."
    )
    if chain <= budget.CHAIN_HOLD:
        return note(f"{average}: above {budget.CHAIN_ADVISE} new connections take longer", step)
    return wrong(f"{average}: above {budget.CHAIN_HOLD} the kernel drops packets without a message", step)


def journal(newest: int | None, *, exists: bool, permitted: bool, behind: int | None) -> Check:
    """Check that kernel messages reach the journal. Stamps are µs of this boot.

    `newest` is the last kernel message in it; `behind` a kernel warning in the ring buffer that it should have by now.
    """
    if newest is None and not permitted:
        step = "Run this as root, or as a member of adm or systemd-journal."
        return unknown("this user can't read the system journal", step)
    if not exists:
        evidence = "no journal on this host: messages logged while the guard is down are missed"
        return note(evidence, "Start systemd-journald, if this host should have it.")
    if newest is None:
        step = f"They were removed to free space, or don't reach it. {_JOURNALD}"
        evidence = "readable, but without kernel messages of this boot"
        if behind is None:
            return unknown(evidence, step)
        return note(f"{evidence}, although the kernel logged a warning at {_boot_time(behind)}", step)
    if behind is not None:
        evidence = (
            f"kernel messages don't reach it: the kernel logged a warning at {_boot_time(behind)}, the newest message "
            f"in the journal is of {_boot_time(newest)}"
        )
        return wrong(evidence, _JOURNALD)
    return good(f"readable; newest kernel message at {_boot_time(newest)}")


def clock(boot_id: str | None, wall_seconds: float, newest_seconds: float | None) -> Check:
    """Check that boot id and wall clock can order decisions."""
    if boot_id is None:
        evidence = "the boot id can't be read, so boots can't be distinguished"
        return wrong(evidence, "Make /proc/sys/kernel/random/boot_id readable.")
    now = datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    step = "Set the clock (`timedatectl`). Raises don't depend on it; `--since` and history_retention do."
    if wall_seconds < OLDEST_WALL_SECONDS:
        return wrong(f"never set: {now}", step)
    ahead = (newest_seconds or 0.0) - wall_seconds
    if ahead > CLOCK_SLACK_SECONDS:
        return wrong(f"set back: it is {now}, and the newest decision is {format_duration(ahead)} later", step)
    return good(f"{now}, boot {boot_id[:8]}")


def disk(folder: str, free_bytes: int, *, inodes_left: bool, writable: bool) -> Check:
    """Check that the history has room."""
    free = f"{format_bytes(free_bytes)} free for {folder}"
    if not writable:
        return wrong(f"the file system of {folder} is read-only", f"Mount it read-write. {_UNRECORDED}")
    if not inodes_left:
        return wrong(f"{free}, but no inode", f"Free some space. {_UNRECORDED}")
    if free_bytes < DISK_EMPTY_BYTES:
        return wrong(free, f"Free some space. {_UNRECORDED}")
    if free_bytes < DISK_LOW_BYTES:
        return note(free, "Free some space before it runs out.")
    return good(free)


def _boot_time(stamp_us: int) -> str:
    """Return a kernel stamp as `dmesg` prints it."""
    return f"[{stamp_us / 1e6:.6f}]"

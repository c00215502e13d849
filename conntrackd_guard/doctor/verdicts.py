"""What `guard doctor` concludes about the kernel, its tables and its lines. Pure: the figures come from `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from conntrackd_guard.core import budget
from conntrackd_guard.core.units import format_bytes, format_duration

OLDEST_WALL_SECONDS = datetime(2023, 6, 1, tzinfo=UTC).timestamp()
"""Before Debian 12 there was no host to run this on: a clock that says so was never set."""
CLOCK_SLACK_SECONDS = 60.0
"""A clock that is being disciplined may step back this far without harm to the order of decisions."""
DISK_EMPTY_BYTES = 8 * budget.MIB
"""The history's write-ahead file alone may take 4 MiB."""
DISK_LOW_BYTES = 64 * budget.MIB
"""Room for some 10,000 decisions with their evidence."""
_JOURNALD = "See `systemctl status systemd-journald`, and ReadKMsg= and MaxLevelStore= in journald.conf."


class Verdict(StrEnum):
    """What came of a check."""

    GOOD = "good"
    NOTE = "note"
    """Nothing is wrong, but whoever runs the host should know."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be checked; the evidence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. Texts may hold what files and processes say: not printable yet."""

    name: str
    verdict: Verdict
    evidence: str
    next_step: str = ""


def conntrack(limit: int | None, buckets: int | None) -> Check:
    """Is there connection tracking, and does it have a limit?"""
    if limit is None:
        return Check(
            name="conntrack",
            verdict=Verdict.NOTE,
            evidence="this kernel tracks no connections yet; the guard waits for it",
            next_step="Nothing, if no firewall rule here needs it; else `modprobe nf_conntrack`.",
        )
    if limit == 0:
        return Check(
            name="conntrack",
            verdict=Verdict.NOTE,
            evidence="the limit is 0, which means unlimited: nothing is ever raised",
            next_step="If that is not meant: `sysctl -w net.netfilter.nf_conntrack_max=262144`.",
        )
    size = "" if buckets is None else f", {buckets:,} buckets"
    return Check(name="conntrack", verdict=Verdict.GOOD, evidence=f"limit {limit:,} entries a namespace{size}")


def namespace(*, initial: bool | None, guard_beside: bool | None) -> Check:
    """Is this the initial network namespace? `guard_beside`: the running guard is in the same one; None: not known."""
    if initial is None:
        return Check(
            name="namespace", verdict=Verdict.UNKNOWN, evidence="it can be told once the kernel tracks connections"
        )
    if not initial:
        return Check(
            name="namespace",
            verdict=Verdict.WRONG,
            evidence="this is not the initial network namespace: the limit is read-only here",
            next_step="Run the guard, and this, on the host itself.",
        )
    if guard_beside is False:
        return Check(
            name="namespace",
            verdict=Verdict.WRONG,
            evidence="this is the initial network namespace, but the running guard is in another",
            next_step="Take PrivateNetwork= and NetworkNamespacePath= out of its unit: `systemctl cat conntrackd-guard`.",
        )
    beside = "; the guard runs in it" if guard_beside else ""
    return Check(name="namespace", verdict=Verdict.GOOD, evidence=f"the initial network namespace{beside}")


def buckets(limit: int | None, number: int | None) -> Check:
    """Is the hash table in proportion to the limit?"""
    if not limit or not number:
        return Check(
            name="buckets", verdict=Verdict.UNKNOWN, evidence="there is no limit or no number of buckets to read"
        )
    chain = 2 * limit / number
    wanted = -(-2 * limit // (budget.CHAIN_ADVISE * budget.BUCKETS_ROUNDED_TO)) * budget.BUCKETS_ROUNDED_TO
    sum_text = f"average chain with one full table: 2 × {limit:,} ÷ {number:,} buckets = {chain:.1f}"
    if chain <= budget.CHAIN_ADVISE:
        return Check(name="buckets", verdict=Verdict.GOOD, evidence=f"{sum_text} (at most {budget.CHAIN_ADVISE})")
    step = (
        f"`sysctl -w net.netfilter.nf_conntrack_buckets={wanted}` (traffic stands still about 0.5 µs for each entry "
        "alive), or `buckets: match` in the settings."
    )
    if chain <= budget.CHAIN_HOLD:
        evidence = f"{sum_text}: new flows cost more from {budget.CHAIN_ADVISE} on"
        return Check(name="buckets", verdict=Verdict.NOTE, evidence=evidence, next_step=step)
    evidence = f"{sum_text}: beyond {budget.CHAIN_HOLD} packets drop without a kernel line"
    return Check(name="buckets", verdict=Verdict.WRONG, evidence=evidence, next_step=step)


def journal(here: int | None, *, exists: bool, permitted: bool, behind: int | None) -> Check:
    """Can the journal be read, and do kernel lines reach it? Stamps are µs of this boot.

    `here`: the newest kernel line in it; `behind`: a kernel warning in the ring buffer that should be there by now.
    """
    if here is None and not permitted:
        return Check(
            name="journal",
            verdict=Verdict.UNKNOWN,
            evidence="this user may not read the system's journal",
            next_step="Run this as root, or as a member of adm or systemd-journal.",
        )
    if not exists:
        return Check(
            name="journal",
            verdict=Verdict.NOTE,
            evidence="this host has no journal: lines come from the ring buffer alone, and none from while the guard is down",
            next_step="Start systemd-journald, if this host is meant to have it.",
        )
    if here is None:
        warned = "" if behind is None else f", though the kernel warned {_boot_time(behind)}"
        return Check(
            name="journal",
            verdict=Verdict.UNKNOWN if behind is None else Verdict.NOTE,
            evidence=f"readable, but it holds no kernel line of this boot{warned}",
            next_step=f"Either they were removed to make room, or they don't reach it: {_JOURNALD}",
        )
    if behind is not None:
        return Check(
            name="journal",
            verdict=Verdict.WRONG,
            evidence=f"kernel lines don't reach it: the kernel warned {_boot_time(behind)}, its newest line came "
            f"{_boot_time(here)}",
            next_step=_JOURNALD,
        )
    return Check(
        name="journal", verdict=Verdict.GOOD, evidence=f"readable; its newest kernel line came {_boot_time(here)}"
    )


def clock(boot_id: str | None, wall_seconds: float, newest_seconds: float | None) -> Check:
    """Are the boot's identity and the wall clock fit to order decisions by?"""
    if boot_id is None:
        return Check(
            name="clock",
            verdict=Verdict.WRONG,
            evidence="this boot's identity can't be read: decisions of different boots can't be told apart",
            next_step="Make /proc/sys/kernel/random/boot_id readable.",
        )
    said = datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    step = "Set the clock (`timedatectl`). Raising does not depend on it; `--since` and history_retention do."
    if wall_seconds < OLDEST_WALL_SECONDS:
        return Check(name="clock", verdict=Verdict.WRONG, evidence=f"it was never set: {said}", next_step=step)
    ahead = 0.0 if newest_seconds is None else newest_seconds - wall_seconds
    if ahead > CLOCK_SLACK_SECONDS:
        evidence = f"{said}, but the newest decision is {format_duration(ahead)} later: the clock was set back"
        return Check(name="clock", verdict=Verdict.WRONG, evidence=evidence, next_step=step)
    return Check(name="clock", verdict=Verdict.GOOD, evidence=f"{said}, boot {boot_id[:8]}")


def disk(folder: str, free_bytes: int, *, inodes_left: bool, writable: bool) -> Check:
    """Is there room for the history where it lies?"""
    free = f"{format_bytes(free_bytes)} free for {folder}"
    step = "Free some space. Until then raises go on, but are not recorded."
    if not writable:
        return Check(
            name="disk",
            verdict=Verdict.WRONG,
            evidence=f"{folder} is on a file system that can't be written",
            next_step="Mount it read-write. Until then raises go on, but are not recorded.",
        )
    if not inodes_left or free_bytes < DISK_EMPTY_BYTES:
        why = "" if inodes_left else ", but no inode"
        return Check(name="disk", verdict=Verdict.WRONG, evidence=free + why, next_step=step)
    if free_bytes < DISK_LOW_BYTES:
        return Check(name="disk", verdict=Verdict.NOTE, evidence=free, next_step="Free some space before it is needed.")
    return Check(name="disk", verdict=Verdict.GOOD, evidence=free)


def _boot_time(stamp_us: int) -> str:
    """Return a kernel stamp as people know it from `dmesg`."""
    return f"at [{stamp_us / 1e6:.6f}]"

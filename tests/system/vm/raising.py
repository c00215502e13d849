"""First boot: install the package, fill tables, and check raises, persisted limit, journal and notification.

One function a check; it returns its evidence. Each check builds on the previous ones.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from ground import AUDIT, GUARD, equal, holds, lines, process, run, shown, until
from kernel import (
    bytes_an_entry,
    default_limit,
    message,
    planned_bytes,
    slab_objects,
    the_counters_are_those_that_the_guard_reads,
)
from machine import (
    DROP_IN,
    RULE,
    SYSCTL,
    InitialTable,
    awaited,
    boot_id,
    calm,
    configure,
    decision,
    decisions,
    frozen_journald,
    limit,
    newest,
    persisted,
    raised,
)
from scratch_namespace import ScratchNamespace

GOAL = 60_000
"""Entries of the initial table at the end: the limit for it exceeds the budget of 384 MiB of memory later."""
LONGEST_CHAIN = 24
"""The average beyond which the guard doesn't raise; each entry is in two chains."""
THRESHOLD = 0.8
"""The default: below it the table is at rest."""
MOST_FILLING_SECONDS = 300.0
"""Twenty times as long as on two idle cores."""
RESCAN_SECONDS = 60.0
"""The guard scans for network namespaces this often, unless something shows that one is missing."""
SMALL_STEP = 8_192
"""Entries; leaves memory for the raises that follow."""
NOTIFY = "conntrackd-guard-notify.service"
COMMAND = Path("/usr/local/bin/notify-somebody")
_COMMAND = """#!/usr/bin/python3
import json, sys
decision = json.load(sys.stdin)["decision"]
print("on call:", decision["reason"], decision["from"])
"""
initial = InitialTable()


def the_package_installs_and_its_service_waits_for_conntrack() -> str:
    """The service starts although the module is not loaded."""
    equal(limit(), None)
    (package,) = Path(__file__).parent.glob("*.deb")
    run("dpkg", "--install", str(package))
    until(
        lambda: "tracks no connections yet" in shown(GUARD, "StatusText"),
        60,
        "the status line shows that the guard waits",
    )
    equal((shown(GUARD, "ActiveState"), shown(GUARD, "UnitFileState")), ("active", "enabled"))
    return f"{package.name} on {os.uname().release}; status line “{shown(GUARD, 'StatusText')}”"


def the_guard_reads_the_limit_once_the_module_loads() -> str:
    """The status line shows the limit without a restart."""
    run("modprobe", "nf_conntrack")
    awaited(default_limit())
    until(lambda: f"{limit():,}" in shown(GUARD, "StatusText"), 60, "the status line shows the limit")
    return f"status line “{shown(GUARD, 'StatusText')}”"


def an_audit_runs_beside_it() -> str:
    """The unit for a dry run is disabled until an operator starts it."""
    equal((shown(AUDIT, "ActiveState"), shown(AUDIT, "UnitFileState")), ("inactive", "disabled"))
    run("systemctl", "start", AUDIT)
    equal((shown(AUDIT, "ActiveState"), shown(GUARD, "ActiveState")), ("active", "active"))
    return f"status line “{shown(AUDIT, 'StatusText')}”"


def an_entry_takes_no_more_memory_than_planned() -> str:
    """Measured with many entries, in memory that no entry was in before. The guard is stopped meanwhile."""
    run("systemctl", "stop", GUARD)
    default = limit()
    (SYSCTL / "nf_conntrack_max").write_text(f"{2 * GOAL}\n", "ascii")
    with ScratchNamespace() as table:
        taken, (slab, planned) = bytes_an_entry(table, GOAL), planned_bytes()
        most = slab_objects()
    (SYSCTL / "nf_conntrack_max").write_text(f"{default}\n", "ascii")
    if not slab <= taken <= planned:
        raise AssertionError(f"an entry takes {taken:.0f} bytes, expected {slab} to {planned:.0f}")
    until(lambda: slab_objects() < most / 2, 60, f"half of the {most:,} slab objects are given back")
    return f"{taken:.0f} bytes an entry, {planned:.0f} planned, slab {slab}"


def entries_that_are_gone_are_no_hidden_table() -> str:
    """The kernel keeps memory of entries that are gone. The guard starts then, and misses no namespace."""
    run("systemctl", "start", GUARD)
    until(lambda: json.loads(run("guard", "status", "--json"))["unread"] == [], 30, "the status has nothing unread")
    return f"{slab_objects():,} slab objects are left of {initial.count()} entries, with a limit of {limit():,}"


def a_full_child_table_is_raised_for_by_the_ring_buffer_alone() -> str:
    """Journald is frozen when the packet is dropped. Before 6.17 the message names no namespace; the guard finds it."""
    before = limit() or 0
    # Only a message can trigger the raise, and the step is small.
    configure(f"raise_early: false\nmax_limit: {before + SMALL_STEP}\n")
    with ScratchNamespace() as table:
        table.fill(before)
        with frozen_journald():
            equal(table.overflow(), 0)
            after = raised(before)
        row = decision("kernel_message confirmed")
        number = table.number
    equal(
        (row["message"], row["from"], row["to"], row["limit_after"], row["outcome"]),
        (message(number), before, after, after, "applied"),
    )
    holds(row["sentence"], f"netns {number}")
    return f"{before:,} → {after:,}; history: {row['sentence']}"


def one_drop_is_one_raise() -> str:
    """The message is one decision, although both sources have it."""
    (row,) = decisions()
    text = row["message"]
    until(lambda: text in run("journalctl", "--boot", "--quiet", "_TRANSPORT=kernel"), 60, f"the journal has “{text}”")
    (row,) = decisions()
    return f"history has one decision, the kernel message counted {row['repeats']} time(s)"


def the_journal_has_the_decision_in_fields() -> str:
    """The journal entry has fields to filter by."""
    (line,) = until(lambda: lines(GUARD_EVENT="guard.raise"), 60, "the decision is in the journal")
    (row,) = decisions()
    names = ("GUARD_VERDICT", "GUARD_OUTCOME", "GUARD_FROM", "GUARD_TO", "PRIORITY", "_SYSTEMD_UNIT")
    equal([line[name] for name in names], ["raise", "applied", str(row["from"]), str(row["to"]), "4", GUARD])
    holds(line["MESSAGE"], row["sentence"])
    return " ".join(f"{name}={line[name]}" for name in (*names, "MESSAGE_ID"))


def the_limit_is_persisted() -> str:
    """The drop-in has the current limit and its origin."""
    equal(persisted(), limit())
    machine_id = Path("/etc/machine-id").read_text("ascii").strip()
    holds(
        DROP_IN.read_text("utf-8"), f"boot_id={boot_id()}", f"machine_id={machine_id}", "memory_total_bytes=", "Why: "
    )
    return f"{DROP_IN}: nf_conntrack_max = {persisted()}, with boot, machine and memory"


def an_untrusted_table_gets_nothing_also_when_it_is_gone() -> str:
    """Any user can fill a table of a namespace of their own and leave: the message about it is answered by that."""
    calm()
    before, seen = limit() or 0, newest()
    configure("")
    with ScratchNamespace(user_owned=True) as table:
        table.fill(before)
        table.overflow(200)
        row = decision("untrusted_namespace", after=seen)
    calm()
    equal(limit(), before)
    return f"{before:,} for 10 s after it; history: {row['sentence']}"


def a_full_table_is_raised_for_beside_the_memory_of_one_that_is_gone() -> str:
    """The kernel suppresses its message after the ten of the other table; and together they take no more memory."""
    calm()
    before, seen = limit() or 0, newest()
    configure(f"max_limit: {before + SMALL_STEP}\n")
    with ScratchNamespace(user_owned=True) as table:
        table.fill(before)
        table.overflow(200)
    with ScratchNamespace() as table:
        table.fill(before)
        table.overflow(200)
        until(lambda: (limit() or 0) > before, RESCAN_SECONDS / 2, "the limit is raised before the next regular scan")
    (row,) = until(
        lambda: [row for row in decisions() if row["verdict"] == "raise" and row["id"] > seen],
        30,
        "the raise is in the history",
    )
    return f"{before:,} → {limit():,}; history: {row['sentence']}"


def a_full_initial_table_is_raised_for() -> str:
    """The guard raises for the initial namespace, too."""
    initial.track()
    calm()
    before, seen = limit() or 0, newest()
    configure(f"raise_early: false\nmax_limit: {before + SMALL_STEP}\n")
    initial.overflow()
    after = raised(before)
    row = decision("kernel_message confirmed", after=seen)
    holds(row["sentence"], "the table of the initial namespace was full")
    equal(row["message"], message(None))
    until(lambda: persisted() == after, 60, "the drop-in follows")
    return f"{before:,} → {after:,}; history: {row['sentence']}"


def a_filling_table_is_raised_for_before_it_is_full() -> str:
    """With the default settings, the guard raises early for a growing table; few buckets have to grow with it."""
    buckets = int((SYSCTL / "nf_conntrack_buckets").read_text("ascii"))
    configure("" if LONGEST_CHAIN * buckets / 2 > GOAL / THRESHOLD else "buckets: match\n")
    before, seen, deadline = limit() or 0, newest(), time.monotonic() + MOST_FILLING_SECONDS
    while initial.count() < GOAL:
        initial.fill(max(500, (limit() or 0) // 15))
        if time.monotonic() > deadline:
            raise AssertionError(f"the table holds {initial.count():,} entries, and the limit is {limit():,}")
    row = decision("filling_up confirmed", after=seen)
    until(lambda: initial.count() < THRESHOLD * (limit() or 0), 60, "the table is below the threshold")
    until(lambda: persisted() == limit(), 60, "the drop-in follows")
    return f"{before:,} → {limit():,} while {initial.count():,} entries came; history: {row['sentence']}"


def status_shows_it() -> str:
    """`guard status` and the status line show limit and sources, and no problem."""
    status = json.loads(run("guard", "status", "--json"))
    sources = status["service"]["sources"]
    equal(
        (status["running"], status["health"]["level"], status["limit"], status["unread"]),
        (True, "healthy", limit(), []),
    )
    equal((sources["ring_buffer"], sources["notes"]), ("following", []))
    holds(shown(GUARD, "StatusText"), f"watching: limit {limit():,}")
    return f"status line “{shown(GUARD, 'StatusText')}”; ring buffer {sources['ring_buffer']}, journal {sources['journal']}"


def the_audit_recorded_it() -> str:
    """The audit recorded the same message in its own history, and wrote no limit."""
    (row, *_) = [row for row in decisions("--dry-run") if row["verdict"] == "raise"]
    equal((row["outcome"], row["mode"]), ("rehearsed", "dry-run"))
    holds(row["sentence"], "Would raise")
    run("systemctl", "stop", AUDIT)
    return f"its history: {row['sentence']}"


def a_hold_for_an_operator_reaches_the_notify_command() -> str:
    """At the ceiling, with a full table, the command runs once for the decision."""
    COMMAND.write_text(_COMMAND, "ascii")
    COMMAND.chmod(0o755)
    configure(f"max_limit: {limit()}\nnotify: {COMMAND}\n")
    seen = newest()
    initial.overflow()
    row = decision("at_ceiling", after=seen)
    delivered = until(
        lambda: lines(NOTIFY, MESSAGE=f"Decision {row['id']} delivered."), 60, "the decision is delivered"
    )
    until(lambda: not os.listdir("/run/conntrackd-guard/notices"), 60, "the queue is empty")
    equal(len(delivered), 1)
    (output, *_) = [line["MESSAGE"] for line in lines(NOTIFY) if "on call:" in line["MESSAGE"]]
    equal(output, f"on call: at_ceiling {limit()}")
    configure("")
    return f"{NOTIFY}: {output}; {delivered[0]['MESSAGE']}"


def the_guard_logged_no_error() -> str:
    """The hardened unit was denied nothing, and no unit failed."""
    equal([line["MESSAGE"] for line in lines(GUARD_EVENT="guard.error")], [])
    equal(run("systemctl", "list-units", "--failed", "--no-legend").strip(), "")
    status = Path(f"/proc/{process()}/status").read_text("utf-8")
    (capabilities,) = re.findall(r"(?m)^CapEff:\t0*(\w+)$", status)
    return f"no error, no failed unit, with the capabilities {capabilities}"


def the_next_boot_has_neither_guard_nor_rule() -> str:
    """Only the drop-in is left to restore the limit."""
    run("systemctl", "disable", GUARD)
    RULE.rename(f"/root/{RULE.name}")
    return f"{RULE} moved away, {GUARD} disabled"


CHECKS = (
    the_package_installs_and_its_service_waits_for_conntrack,
    the_guard_reads_the_limit_once_the_module_loads,
    the_counters_are_those_that_the_guard_reads,
    an_entry_takes_no_more_memory_than_planned,
    entries_that_are_gone_are_no_hidden_table,
    an_audit_runs_beside_it,
    a_full_child_table_is_raised_for_by_the_ring_buffer_alone,
    one_drop_is_one_raise,
    the_journal_has_the_decision_in_fields,
    the_limit_is_persisted,
    an_untrusted_table_gets_nothing_also_when_it_is_gone,
    a_full_table_is_raised_for_beside_the_memory_of_one_that_is_gone,
    a_full_initial_table_is_raised_for,
    a_filling_table_is_raised_for_before_it_is_full,
    status_shows_it,
    the_audit_recorded_it,
    a_hold_for_an_operator_reaches_the_notify_command,
    the_guard_logged_no_error,
    the_next_boot_has_neither_guard_nor_rule,
)

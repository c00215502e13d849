"""Check a host with the package, from installation to purge, in the order of an operator's work.

One function a check; the first line of its docstring states the fact. CHECKS lists them in order.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from escapes import (
    links_in_the_guards_directories_lead_nowhere,
    namespaces_added_later_are_seen,
    no_unit_leaves_its_sandbox,
)
from ground import (
    AUDIT,
    GUARD,
    HELPER,
    SITE,
    a_namespace,
    another_runs,
    equal,
    explained,
    grow,
    holds,
    limit,
    lines,
    newest_entries,
    process,
    run,
    settings,
    shown,
    steady_limit,
    until,
)
from persisting import DROP_IN, PERSISTING, SERVICE

RULE = Path("/etc/udev/rules.d/60-conntrackd-guard.rules")
INERT = 1 << 11
"""CAP_NET_BROADCAST, linux/capability.h"""
WRITABLE = [
    "/proc/sys/net/netfilter", "/run/conntrackd-guard", "/tmp",  # noqa: S108 - both are its own
    "/var/lib/conntrackd-guard", "/var/tmp",  # noqa: S108
]  # fmt: skip
"""The mounts that the guard may write."""
HELPER_KIB = 14_000
"""Memory of the helper: Python's own 9 MiB, and its libraries."""
SYS_PTRACE = 1 << 19
"""linux/capability.h"""


def the_package_installs() -> None:
    """The previous package installs and starts its service."""
    run("dpkg", "--install", "/packages/previous.deb")
    until(lambda: shown(GUARD, "ActiveState") == "active", 10, "the service is active")
    equal(shown(GUARD, "UnitFileState"), "enabled")


def an_upgrade_needs_no_answer() -> None:
    """An upgrade needs no answer, takes the new settings file, keeps the operator's, and restarts the guard."""
    before = process()
    Path(SITE).write_text("growth_factor: 2\nthreshold: 35%\n", encoding="ascii")
    run("dpkg", "--install", "/packages/new.deb")
    equal(re.findall("previous version", Path("/etc/conntrackd-guard/guard.yaml").read_text(encoding="utf-8")), [])
    until(lambda: another_runs(before), 10, "another process runs")
    holds(run("guard", "config", "show"), f"{SITE}:1", f"{SITE}:2")


def the_service_runs() -> None:
    """The service is active, its status line shows the limit, and that a container can't write it; no audit is enabled."""
    until(lambda: shown(GUARD, "StatusText"), 5, "there is a status line")
    holds(shown(GUARD, "StatusText"), "ACTION NEEDED: can't write /proc/sys/net/", f"limit {limit():,}")
    equal((shown(GUARD, "ActiveState"), shown(GUARD, "UnitFileState")), ("active", "enabled"))
    equal((shown(AUDIT, "ActiveState"), shown(AUDIT, "UnitFileState")), ("inactive", "disabled"))
    holds(run("guard", "status", fails=True), "running", "mode act")


def the_command_has_two_names() -> None:
    """/usr/sbin/guard is a link to /usr/bin/conntrackd-guard, and /usr/bin/guard is left to other packages."""
    equal(os.path.realpath("/usr/sbin/guard"), "/usr/bin/conntrackd-guard")
    equal([path for path in ("/usr/bin/guard",) if Path(path).exists()], [])
    equal(run("conntrackd-guard", "--version"), run("guard", "--version"))


def the_units_are_sound() -> None:
    """Each directive is known to this systemd, and the exposure is below the threshold."""
    equal(run("systemd-analyze", "verify", GUARD, AUDIT, HELPER), "")
    for unit, most in ((GUARD, 15), (AUDIT, 15), (SERVICE, 10), (HELPER, 10)):
        run("systemd-analyze", "security", f"--threshold={most}", unit)


def the_guard_is_confined() -> None:
    """The guard has one inert capability, no new privileges and a system-call filter."""
    status = Path(f"/proc/{process()}/status").read_text(encoding="utf-8")
    fields = dict(re.findall(r"(?m)^(\w+):\t(.*)$", status))
    equal([int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")], [INERT] * 3)
    equal((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"))


def the_guard_writes_only_its_own_paths() -> None:
    """Every mount that the guard sees is read-only, except for its own directories and the limit's."""
    mounts = Path(f"/proc/{process()}/mountinfo").read_text(encoding="utf-8").splitlines()
    equal(
        sorted(path for *_, path, options in (line.split()[:6] for line in mounts) if "ro" not in options.split(",")),
        WRITABLE,
    )


def the_guard_outlives_its_sockets() -> None:
    """The guard still reports to the journal and the service manager after both were restarted."""
    before = process()
    run("systemctl", "restart", "systemd-journald")
    run("systemctl", "daemon-reexec")
    Path(SITE).write_text("growth_factor: 2.5\nthreshold: 35%\n", encoding="ascii")
    run("systemctl", "reload", GUARD)
    until(lambda: lines(MESSAGE="Settings reloaded."), 5, "the journal has the reload")
    run("guard", "pause", "--for", "1h", "--reason", "after the restarts")
    until(lambda: "paused" in shown(GUARD, "StatusText"), 5, "the status line shows the pause")
    run("guard", "resume")
    until(lambda: "paused" not in shown(GUARD, "StatusText"), 5, "the pause is over")
    equal((process(), shown(GUARD, "ActiveState")), (before, "active"))


def the_helper_has_one_right() -> None:
    """The helper is no root, has one capability and no more memory than it needs, and is connected to the guard."""
    until(lambda: owners_read_by() == "helper", 20, "the helper is connected")
    status = Path(f"/proc/{shown(HELPER, 'MainPID')}/status").read_text(encoding="utf-8")
    fields = dict(re.findall(r"(?m)^(\w+):\t(.*)$", status))
    equal([int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")], [SYS_PTRACE] * 3)
    equal((fields["NoNewPrivs"], fields["Seccomp"], "0" in fields["Uid"].split()), ("1", "2", False))
    if (memory := int(fields["VmRSS"].split()[0])) > HELPER_KIB:
        raise AssertionError(f"the helper takes {memory} KiB")


def owners_read_by() -> str:
    """Return who reads the owners of namespaces, by the guard's status."""
    found = json.loads(Path("/run/conntrackd-guard/status.json").read_text(encoding="utf-8"))
    return str(found["owners_read_by"])


def the_helper_places_namespaces() -> None:
    """The guard decides about a container's table by its owner, and knows root's by the number in kernel messages."""
    equal(decided_about_a_full_namespace(), "at_ceiling")
    equal(decided_about_a_full_namespace("--user"), "untrusted_namespace")


def without_the_helper_owners_are_unknown() -> None:
    """Without the helper, the guard holds for a container, warns once and names the cure, which ends it."""
    run("systemctl", "stop", HELPER)
    try:
        until(lambda: owners_read_by() == "nobody", 30, "the helper is missing")
        equal(decided_about_a_full_namespace(), "owner_unknown")
        warned = [line["MESSAGE"] for line in lines(PRIORITY="4")]
        (text,) = [text for text in warned if "systemctl start conntrackd-guard-namespaces" in text]
        holds(text, "Nothing reads who owns a network namespace")
        checks = json.loads(run("guard", "doctor", "--json", fails=True))["checks"]
        equal([check["verdict"] for check in checks if check["name"] == "owners"], ["note"])
        holds(run("guard", "status", fails=True), "nothing reads who owns a network namespace")
    finally:
        run("systemctl", "start", HELPER)
    until(lambda: owners_read_by() == "helper", 10, "the helper is connected again")
    equal(decided_about_a_full_namespace(), "at_ceiling")


def decided_about_a_full_namespace(*owner: str) -> str:
    """Fill a container's table beyond the threshold, where only its owner lets the guard hold before `max_limit` does.

    Return the reason. A hold for a table of root's has its number.
    """
    begin = datetime.now(UTC)
    with settings("threshold: 35%\nmax_limit: 1\n"), steady_limit() as limit, a_namespace(*owner) as (pid, number):
        grow(0, limit // 2, steps=20, enter=("nsenter", f"--net=/proc/{pid}/ns/net"))

        def found() -> list[str]:
            rows = json.loads(run("guard", "history", "--json"))["decisions"]
            recent = [row for row in rows if datetime.fromisoformat(row["last_at"]) >= begin]
            placed = [row for row in recent if row["reason"] != "at_ceiling" or row["namespace"] == number]
            # Other reasons, and repeats, come from messages about other namespaces of this machine.
            reasons = ("at_ceiling", "untrusted_namespace", "owner_unknown")
            return [row["reason"] for row in placed if row["reason"] in reasons]

        (reason,) = {*until(found, 30, f"a decision about netns {number}")}
    return str(reason)


def the_journal_has_fields() -> None:
    """Log messages have native journal fields."""
    (*_, ready) = lines(GUARD_EVENT="guard.ready")
    equal((ready["GUARD_MODE"], ready["SYSLOG_IDENTIFIER"], ready["PRIORITY"]), ("act", "guard", "6"))
    holds(json.dumps(ready), "GUARD_SOURCES", "GUARD_SETTINGS", "MESSAGE_ID")


def the_journal_explains() -> None:
    """`journalctl -x` explains every message of the guard, with values in place of field names."""
    holds(
        explained(GUARD, GUARD_EVENT="guard.ready"),
        "Subject: Guard ",
        " is running, mode act",
        "Documentation: man:guard(8)",
    )
    equal(re.findall(r"(?m)^░░ .*GUARD_\w+.*$", explained(GUARD, SYSLOG_IDENTIFIER="guard")), [])


def the_manual_is_there() -> None:
    """`man` shows the pages, and the completions are where the shells look."""
    for name in ("guard", "conntrackd-guard"):
        holds(run("man", "--pager=cat", name), "GUARD(8)", "EXIT STATUS")
    holds(run("man", "--pager=cat", "guard.yaml"), "GUARD.YAML(5)", "threshold: 80%")
    for name in ("bash-completion/completions/guard", "bash-completion/completions/conntrackd-guard"):
        holds(Path("/usr/share", name).read_text(encoding="utf-8"), "guard conntrackd-guard")
    holds(Path("/usr/share/zsh/vendor-completions/_guard").read_text(encoding="utf-8"), "#compdef guard")


def the_doctor_judges() -> None:
    """`guard doctor` finds only the problems of a container, and exits with 3."""
    checks = {check["name"]: check for check in json.loads(run("guard", "doctor", "--json", fails=True))["checks"]}
    equal({name for name, check in checks.items() if check["verdict"] == "wrong"}, {"health", "namespace", "writable"})
    holds(checks["boot_trap"]["evidence"], "applies the sysctl files when the module loads", str(RULE))
    holds(run("guard", "doctor", fails=True), "not the initial network namespace")


def a_pause_is_reported() -> None:
    """The status line and the journal show a pause with its reason."""
    run("guard", "pause", "--for", "1h", "--reason", "load test")
    until(lambda: "paused" in shown(GUARD, "StatusText"), 5, "the status line shows the pause")
    (override,) = until(lambda: lines(GUARD_EVENT="guard.override"), 5, "the journal shows the pause")
    holds(override["MESSAGE"], "load test")
    holds(explained(GUARD, GUARD_EVENT="guard.override"), "Subject: Operator override: pause", "`guard resume` ends")
    run("guard", "resume")
    until(lambda: "paused" not in shown(GUARD, "StatusText"), 5, "the pause is over")


def a_good_reload_is_applied() -> None:
    """A reload applies good settings without a restart."""
    before = process()
    Path(SITE).write_text("growth_factor: 3\nthreshold: 35%\n", encoding="ascii")
    run("systemctl", "reload", GUARD)
    until(lambda: lines(MESSAGE="Settings reloaded."), 5, "the guard logs the reload")
    equal((process(), shown(GUARD, "ActiveState")), (before, "active"))


def a_bad_reload_fails_and_changes_nothing() -> None:
    """A reload with bad settings fails with file and line, and the guard keeps the old ones."""
    before, good = process(), Path(SITE).read_text(encoding="ascii")
    try:
        Path(SITE).write_text("growth_factor: none\n", encoding="ascii")
        run("systemctl", "reload", GUARD, fails=True)
        holds(newest_entries(), f"{SITE}:1: growth_factor: found 'none'")
        os.kill(before, signal.SIGHUP)
        until(lambda: any("the old ones stay" in text and f"{SITE}:1" in text for text in errors()), 5, "it is logged")
        equal((process(), shown(GUARD, "ActiveState")), (before, "active"))
    finally:
        Path(SITE).write_text(good, encoding="ascii")


def errors() -> list[str]:
    """Return the errors that the guard logged."""
    return [line["MESSAGE"] for line in lines(GUARD_EVENT="guard.error")]


def a_start_with_bad_settings_is_not_repeated() -> None:
    """A start with bad settings fails once, with file and line, and systemd doesn't repeat it."""
    good = Path(SITE).read_text(encoding="ascii")
    try:
        Path(SITE).write_text("budjet: 5%\n", encoding="ascii")
        run("systemctl", "restart", GUARD, fails=True)
        time.sleep(6)  # a second more than RestartSec
        equal((shown(GUARD, "ActiveState"), shown(GUARD, "NRestarts")), ("failed", "0"))
        holds(newest_entries(), "did you mean budget?")
    finally:
        Path(SITE).write_text(good, encoding="ascii")
        run("systemctl", "start", GUARD)


def a_frozen_guard_is_restarted() -> None:
    """The watchdog restarts a frozen guard."""
    before = process()
    os.kill(before, signal.SIGSTOP)
    until(lambda: another_runs(before), 60, "the watchdog (30 s) ended it and another runs")
    until(lambda: shown(GUARD, "ActiveState") == "active", 10, "the service is active")
    holds(newest_entries(), "Watchdog timeout")


def an_audit_runs_beside_it() -> None:
    """The audit runs beside the guard, with its own state."""
    run("systemctl", "start", AUDIT)
    equal((shown(AUDIT, "ActiveState"), shown(GUARD, "ActiveState")), ("active", "active"))
    holds(run("guard", "status", "--dry-run"), "running", "mode dry-run")


def the_notify_command_is_run() -> None:
    """At the ceiling the `notify` command runs in its sandbox, with the decision on its standard input."""
    command = Path("/usr/local/sbin/notify-somebody")
    command.write_text("#!/bin/sh\nexec systemd-cat --identifier=notified\n", encoding="ascii")
    command.chmod(0o755)

    def received() -> list[str]:  # of any unit: journald can't attribute a process that has already exited
        return [line["MESSAGE"] for line in lines(None, SYSLOG_IDENTIFIER="notified")]

    with settings(f"threshold: 35%\nmax_limit: 1\nnotify: {command}\n"), steady_limit() as limit:
        grow(0, limit // 3)
        grow(limit // 3, limit * 40 // 100, steps=20)
        until(lambda: "}" in received()[-1:], 10, "the command was run")
    decision = json.loads("".join(received()))["decision"]
    equal((decision["verdict"], decision["reason"]), ("hold", "at_ceiling"))
    (held,) = lines(GUARD_REASON="at_ceiling")
    holds(explained(GUARD, GUARD_REASON="at_ceiling"), "Subject: Limit not raised: `max_limit` reached")
    equal(held["PRIORITY"], "4")


def a_filling_table_is_decided_on() -> None:
    """When a table fills up, the guard tries to raise and logs the kernel's answer, and the audit logs a dry run.

    A container can't write the limit, so the kernel rejects the write.
    """
    with steady_limit() as limit:
        # For 8 s: longer than a hold lasts until the next decision (5 s).
        grow(limit * 40 // 100, limit * 50 // 100, steps=80)
        rejected = until(lambda: lines(GUARD_OUTCOME="rejected"), 10, "a raise that the kernel rejected")[0]
        dry = until(lambda: lines(AUDIT, GUARD_OUTCOME="rehearsed"), 10, "a raise of the dry run")[0]
        holds(rejected["MESSAGE"], f"Could not raise {limit:,}")
        equal((rejected["GUARD_VERDICT"], rejected["GUARD_FROM"], rejected["PRIORITY"]), ("raise", str(limit), "3"))
        for line, unit in ((rejected, GUARD), (dry, AUDIT)):
            subject = f"Subject: Raise of nf_conntrack_max from {limit} to {line['GUARD_TO']}: {line['GUARD_OUTCOME']}"
            holds(explained(unit, GUARD_EVENT="guard.raise"), subject)
    equal((shown(AUDIT, "ActiveState"), shown(GUARD, "ActiveState")), ("active", "active"))


def members_of_adm_read_the_history() -> None:
    """Members of adm can read the history, others can't, and everyone can read the status."""
    nobody = pwd.getpwnam("nobody")
    as_nobody = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}")
    holds(run(*as_nobody, "--groups=adm", "guard", "history", "--verdict", "raise"), "Could not raise")
    run(*as_nobody, "--clear-groups", "guard", "history", fails=True)
    holds(run(*as_nobody, "--clear-groups", "guard", "status", fails=True), "running")


def removal_keeps_the_limit() -> None:
    """Removing the package stops both services, keeps the persisted limit and its rule, and reports that."""
    DROP_IN.write_text("net.netfilter.nf_conntrack_max = 300000\n", encoding="ascii")
    output = run("dpkg", "--remove", "conntrackd-guard")
    holds(output, f"kept {DROP_IN} and {RULE}", "300000 at each boot", "purge")
    equal([path for path in (DROP_IN, RULE, Path(SITE)) if not path.exists()], [])
    equal(
        [
            path
            for path in ("/usr/bin/conntrackd-guard", "/usr/sbin/guard", "/usr/share/man/man8/guard.8.gz")
            if Path(path).exists()
        ],
        [],
    )
    equal([shown(unit, "MainPID") for unit in (GUARD, AUDIT, HELPER)], ["0", "0", "0"])


def a_purge_keeps_the_files_of_the_operator() -> None:
    """Purging the package leaves only the operator's file, and reports when the limit changes."""
    output = run("dpkg", "--purge", "conntrackd-guard")
    holds(output, f"removed {DROP_IN}", "until the next boot")
    equal(run("find", "/", "-xdev", "-name", "*conntrackd[-_]guard*").split(), ["/etc/conntrackd-guard"])
    equal([str(path) for path in Path("/etc/conntrackd-guard").rglob("*") if path.is_file()], [SITE])
    equal([str(path) for path in Path("/run").glob("conntrackd*")], [])


CHECKS = (
    the_package_installs,
    an_upgrade_needs_no_answer,
    the_service_runs,
    the_command_has_two_names,
    the_units_are_sound,
    the_guard_is_confined,
    the_guard_writes_only_its_own_paths,
    namespaces_added_later_are_seen,
    links_in_the_guards_directories_lead_nowhere,
    no_unit_leaves_its_sandbox,
    the_journal_has_fields,
    the_journal_explains,
    the_manual_is_there,
    the_doctor_judges,
    a_pause_is_reported,
    a_good_reload_is_applied,
    a_bad_reload_fails_and_changes_nothing,
    a_start_with_bad_settings_is_not_repeated,
    the_guard_outlives_its_sockets,
    a_frozen_guard_is_restarted,
    *PERSISTING,
    an_audit_runs_beside_it,
    the_notify_command_is_run,
    a_filling_table_is_decided_on,
    the_helper_has_one_right,
    the_helper_places_namespaces,
    without_the_helper_owners_are_unknown,
    members_of_adm_read_the_history,
    removal_keeps_the_limit,
    a_purge_keeps_the_files_of_the_operator,
)

"""What must hold on a host with the package, in the order in which an operator lives through it.

One function a check; its first line says what holds. A new one is written here and named in CHECKS at its place.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import time
from pathlib import Path

from ground import (
    AUDIT,
    GUARD,
    SITE,
    another_runs,
    equal,
    explained,
    grow,
    holds,
    last_words,
    limit,
    lines,
    process,
    run,
    settings,
    shown,
    steady_limit,
    until,
)

DROP_IN = Path("/etc/sysctl.d/99-zz-conntrackd-guard.conf")
RULE = Path("/etc/udev/rules.d/60-conntrackd-guard.rules")
SYS_PTRACE = 1 << 19
"""linux/capability.h"""


def the_package_installs() -> None:
    """The previous package installs, and its service starts by itself."""
    run("dpkg", "--install", "/packages/previous.deb")
    until(lambda: shown(GUARD, "ActiveState") == "active", 10, "the service is active")
    equal(shown(GUARD, "UnitFileState"), "enabled")


def an_upgrade_asks_nothing() -> None:
    """An upgrade asks nothing, takes the new settings file, keeps the operator's, and restarts the guard."""
    before = process()
    Path(SITE).write_text("growth_factor: 2\nthreshold: 35%\n", encoding="ascii")
    run("dpkg", "--install", "/packages/new.deb")
    equal(re.findall("previous version", Path("/etc/conntrackd-guard/guard.yaml").read_text(encoding="utf-8")), [])
    until(lambda: another_runs(before), 10, "another process runs")
    holds(run("guard", "config", "show"), f"{SITE}:1", f"{SITE}:2")


def the_service_runs() -> None:
    """The service is active, its status line tells that it watches and the limit, and the audit waits to be asked for."""
    until(lambda: shown(GUARD, "StatusText"), 5, "there is a status line")
    equal(shown(GUARD, "StatusText"), f"watching: limit {limit():,}")
    equal((shown(GUARD, "ActiveState"), shown(GUARD, "UnitFileState")), ("active", "enabled"))
    equal((shown(AUDIT, "ActiveState"), shown(AUDIT, "UnitFileState")), ("inactive", "disabled"))
    holds(run("guard", "status"), "running", "mode act")


def the_command_has_two_names() -> None:
    """/usr/sbin/guard is a link to /usr/bin/conntrackd-guard, and /usr/bin/guard is left to other packages."""
    equal(os.path.realpath("/usr/sbin/guard"), "/usr/bin/conntrackd-guard")
    equal([path for path in ("/usr/bin/guard",) if Path(path).exists()], [])
    equal(run("conntrackd-guard", "--version"), run("guard", "--version"))


def the_units_are_sound() -> None:
    """This systemd knows every directive and finds little exposed."""
    equal(run("systemd-analyze", "verify", GUARD, AUDIT), "")
    for unit in (GUARD, AUDIT):
        run("systemd-analyze", "security", "--threshold=15", unit)


def the_guard_is_confined() -> None:
    """One capability, no new privileges, a system-call filter."""
    status = Path(f"/proc/{process()}/status").read_text(encoding="utf-8")
    fields = dict(re.findall(r"(?m)^(\w+):\t(.*)$", status))
    equal([int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")], [SYS_PTRACE] * 3)
    equal((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"))


def the_guard_writes_only_where_it_must() -> None:
    """Its view of the host is read-only but for its own folders, sysctl.d and the limit."""
    allowed = ["/etc/sysctl.d", "/run/conntrackd-guard", "/var/lib/conntrackd-guard"]
    refused = ["/etc", "/etc/conntrackd-guard", "/run", "/run/systemd", "/usr", "/usr/lib/sysctl.d", "/var/lib", "/"]
    script = 'for folder; do touch "$folder/tried" 2>/dev/null && rm "$folder/tried" && echo "$folder"; done; true'
    enter = ("nsenter", f"--target={process()}", "--mount")
    equal(run(*enter, "sh", "-c", script, "sh", *allowed, *refused).split(), allowed)
    script = 'for file; do { true >>"$file"; } 2>/dev/null && echo "$file"; done; true'
    kernel = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/core_pattern", "/proc/1/oom_score_adj", "/proc/1/mem"]
    equal(run(*enter, "sh", "-c", script, "sh", *kernel).split(), [])


def the_journal_has_fields() -> None:
    """A line carries fields to filter by."""
    (*_, ready) = lines(GUARD_EVENT="guard.ready")
    equal((ready["GUARD_MODE"], ready["SYSLOG_IDENTIFIER"], ready["PRIORITY"]), ("act", "guard", "6"))
    holds(json.dumps(ready), "GUARD_SOURCES", "GUARD_SETTINGS", "MESSAGE_ID")


def the_journal_explains() -> None:
    """`journalctl -x` explains every line of the guard, with figures in place of fields."""
    holds(
        explained(GUARD, GUARD_EVENT="guard.ready"),
        "Subject: The guard ",
        " is at work, mode act",
        "Documentation: man:guard(8)",
    )
    equal(re.findall(r"(?m)^░░ .*GUARD_\w+.*$", explained(GUARD, SYSLOG_IDENTIFIER="guard")), [])


def the_manual_is_there() -> None:
    """`man guard` and `man guard.yaml` show the pages, and the shells' completions lie where they look."""
    for name in ("guard", "conntrackd-guard"):
        holds(run("man", "--pager=cat", name), "GUARD(8)", "EXIT STATUS")
    holds(run("man", "--pager=cat", "guard.yaml"), "GUARD.YAML(5)", "threshold: 80%")
    for name in (
        "bash-completion/completions/guard",
        "zsh/vendor-completions/_guard",
        "fish/vendor_completions.d/guard.fish",
    ):
        holds(Path("/usr/share", name).read_text(encoding="utf-8"), "completion for guard(8)")


def the_doctor_judges() -> None:
    """`guard doctor` fails only the checks that a container can't pass, and exits with 3."""
    checks = {check["name"]: check for check in json.loads(run("guard", "doctor", "--json", fails=True))["checks"]}
    equal({name for name, check in checks.items() if check["verdict"] == "wrong"}, {"namespace", "writable"})
    holds(checks["boot_trap"]["evidence"], "applies the sysctl files when the module loads", str(RULE))
    holds(run("guard", "doctor", fails=True), "not the initial network namespace")


def an_order_is_told() -> None:
    """A pause shows in the status line and in the journal, explained there, with its reason."""
    run("guard", "pause", "--for", "1h", "--reason", "load test")
    until(lambda: "paused" in shown(GUARD, "StatusText"), 5, "the status line tells of the pause")
    (order,) = until(lambda: lines(GUARD_EVENT="guard.override"), 5, "the journal tells of the pause")
    holds(order["MESSAGE"], "load test")
    holds(explained(GUARD, GUARD_EVENT="guard.override"), "Subject: An operator's order: pause", "`guard resume` ends")
    run("guard", "resume")
    until(lambda: "paused" not in shown(GUARD, "StatusText"), 5, "the pause is over")


def a_good_reload_is_taken() -> None:
    """Good settings are taken without a restart."""
    before = process()
    Path(SITE).write_text("growth_factor: 3\nthreshold: 35%\n", encoding="ascii")
    run("systemctl", "reload", GUARD)
    until(lambda: lines(MESSAGE="The settings were reloaded."), 5, "the guard says that it reloaded")
    equal((process(), shown(GUARD, "ActiveState")), (before, "active"))


def a_bad_reload_fails_and_changes_nothing() -> None:
    """Bad settings fail the reload with file and line, and the guard goes on with the old ones."""
    before, good = process(), Path(SITE).read_text(encoding="ascii")
    try:
        Path(SITE).write_text("growth_factor: none\n", encoding="ascii")
        run("systemctl", "reload", GUARD, fails=True)
        holds(last_words(), f"{SITE}:1: growth_factor: found 'none'")
        os.kill(before, signal.SIGHUP)
        (error,) = until(lambda: lines(GUARD_EVENT="guard.error"), 5, "the guard says that it did not reload")
        holds(error["MESSAGE"], "the old ones stay", f"{SITE}:1")
        equal((process(), shown(GUARD, "ActiveState")), (before, "active"))
    finally:
        Path(SITE).write_text(good, encoding="ascii")


def a_bad_start_waits_for_a_person() -> None:
    """A start with bad settings fails once, with file and line, and is not tried again."""
    good = Path(SITE).read_text(encoding="ascii")
    try:
        Path(SITE).write_text("budjet: 5%\n", encoding="ascii")
        run("systemctl", "restart", GUARD, fails=True)
        time.sleep(6)  # a second more than RestartSec
        equal((shown(GUARD, "ActiveState"), shown(GUARD, "NRestarts")), ("failed", "0"))
        holds(last_words(), "did you mean budget?")
    finally:
        Path(SITE).write_text(good, encoding="ascii")
        run("systemctl", "start", GUARD)


def a_frozen_guard_is_restarted() -> None:
    """A guard that stands still is ended by the watchdog and started again."""
    before = process()
    os.kill(before, signal.SIGSTOP)
    until(lambda: another_runs(before), 60, "the watchdog (30 s) ended it and another runs")
    until(lambda: shown(GUARD, "ActiveState") == "active", 10, "the service is active")
    holds(last_words(), "Watchdog timeout")


def an_audit_runs_beside_it() -> None:
    """The audit runs beside the guard, with a state of its own."""
    run("systemctl", "start", AUDIT)
    equal((shown(AUDIT, "ActiveState"), shown(GUARD, "ActiveState")), ("active", "active"))
    holds(run("guard", "status", "--dry-run"), "running", "mode dry-run")


def the_notify_command_is_run() -> None:
    """At the ceiling the command of `notify` is run, from its own sandbox, with the decision on its standard input."""
    command = Path("/usr/local/sbin/tell")
    command.write_text("#!/bin/sh\nexec systemd-cat --identifier=told\n", encoding="ascii")
    command.chmod(0o755)

    def heard() -> list[str]:  # of any unit: a process that ends at once is gone before journald asks for its unit
        return [line["MESSAGE"] for line in lines(None, SYSLOG_IDENTIFIER="told")]

    with settings(f"threshold: 35%\nmax_limit: 1\nnotify: {command}\n"), steady_limit() as limit:
        grow(0, limit // 3)
        grow(limit // 3, limit * 40 // 100, steps=20)
        until(lambda: "}" in heard()[-1:], 10, "the command was run")
    decision = json.loads("".join(heard()))["decision"]
    equal((decision["verdict"], decision["reason"]), ("hold", "at_ceiling"))
    (held,) = lines(GUARD_REASON="at_ceiling")
    holds(explained(GUARD, GUARD_REASON="at_ceiling"), "Subject: The limit stays: at_ceiling", "raise `max_limit`")
    equal(held["PRIORITY"], "4")


def a_filling_table_is_decided_on() -> None:
    """A table that fills up: the guard tries to raise and says what the kernel answered; the audit rehearses.

    A container's namespace may not write the limit, so the refusal is the outcome to expect.
    """
    with steady_limit() as limit:
        grow(
            limit * 40 // 100, limit * 50 // 100, steps=80
        )  # longer than a hold may last until the next decision (5 s)
        rejected = until(lambda: lines(GUARD_OUTCOME="rejected"), 10, "a raise that the kernel refused")[0]
        rehearsed = until(lambda: lines(AUDIT, GUARD_OUTCOME="rehearsed"), 10, "a rehearsed raise")[0]
        holds(rejected["MESSAGE"], f"Could not raise {limit:,}")
        equal((rejected["GUARD_VERDICT"], rejected["GUARD_FROM"], rejected["PRIORITY"]), ("raise", str(limit), "3"))
        for line, unit in ((rejected, GUARD), (rehearsed, AUDIT)):
            subject = f"Subject: Raise of nf_conntrack_max from {limit} to {line['GUARD_TO']}: {line['GUARD_OUTCOME']}"
            holds(explained(unit, GUARD_EVENT="guard.raise"), subject)
    equal((shown(AUDIT, "ActiveState"), shown(GUARD, "ActiveState")), ("active", "active"))


def members_of_adm_read_the_history() -> None:
    """Members of adm read the history, others don't, and everyone may look at the status."""
    nobody = pwd.getpwnam("nobody")
    as_nobody = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}")
    holds(run(*as_nobody, "--groups=adm", "guard", "history", "--verdict", "raise"), "Could not raise")
    run(*as_nobody, "--clear-groups", "guard", "history", fails=True)
    holds(run(*as_nobody, "--clear-groups", "guard", "status"), "running")


def removal_keeps_the_limit() -> None:
    """Removing the package stops both services, keeps the limit for the next boot with its rule, and says so."""
    DROP_IN.write_text("net.netfilter.nf_conntrack_max = 300000\n", encoding="ascii")
    said = run("dpkg", "--remove", "conntrackd-guard")
    holds(said, f"kept {DROP_IN} and {RULE}", "300000 at each boot", "purge")
    equal([path for path in (DROP_IN, RULE, Path(SITE)) if not path.exists()], [])
    equal(
        [
            path
            for path in ("/usr/bin/conntrackd-guard", "/usr/sbin/guard", "/usr/share/man/man8/guard.8.gz")
            if Path(path).exists()
        ],
        [],
    )
    equal([shown(unit, "MainPID") for unit in (GUARD, AUDIT)], ["0", "0"])


def a_purge_leaves_what_the_operator_wrote() -> None:
    """Purging the package leaves nothing but the operator's file, and says when the limit falls."""
    said = run("dpkg", "--purge", "conntrackd-guard")
    holds(said, f"removed {DROP_IN}", "at the next boot")
    equal(run("find", "/", "-xdev", "-name", "*conntrackd[-_]guard*").split(), ["/etc/conntrackd-guard"])
    equal([str(path) for path in Path("/etc/conntrackd-guard").rglob("*") if path.is_file()], [SITE])
    equal([str(path) for path in Path("/run").glob("conntrackd*")], [])


CHECKS = (
    the_package_installs,
    an_upgrade_asks_nothing,
    the_service_runs,
    the_command_has_two_names,
    the_units_are_sound,
    the_guard_is_confined,
    the_guard_writes_only_where_it_must,
    the_journal_has_fields,
    the_journal_explains,
    the_manual_is_there,
    the_doctor_judges,
    an_order_is_told,
    a_good_reload_is_taken,
    a_bad_reload_fails_and_changes_nothing,
    a_bad_start_waits_for_a_person,
    a_frozen_guard_is_restarted,
    an_audit_runs_beside_it,
    the_notify_command_is_run,
    a_filling_table_is_decided_on,
    members_of_adm_read_the_history,
    removal_keeps_the_limit,
    a_purge_leaves_what_the_operator_wrote,
)

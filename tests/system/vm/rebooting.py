"""The boots after the first: is the kept limit in force, without the guard, and who is told when it is not?

The module loads late in each, by a firewall's rules. One function a check; it returns its evidence.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from ground import GUARD, equal, holds, lines, run, shown, until
from machine import DROP_IN, FIREWALL, RULE, awaited, decision, decisions, default_limit, kept, limit

OTHER = Path("/etc/sysctl.d/99-zzz-other.conf")
PROCPS = Path("/etc/sysctl.conf")
OTHER_LIMIT, PROCPS_LIMIT = 40_000, 50_000
"""Neither a kernel default nor what the guard kept."""


def doctor(**wrong: str) -> str:
    """Return evidence: `guard doctor` finds wrong what is named, with these words, and none of its other boot checks."""
    done = subprocess.run(["guard", "doctor", "--json"], capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    boot = {name: checks[name] for name in ("at_boot", "sysctl_system", "boot_trap")}
    equal({name for name, check in boot.items() if check["verdict"] == "wrong"}, set(wrong))
    for name, words in wrong.items():
        holds(boot[name]["evidence"], words)
    equal(done.returncode, 3 if any(check["verdict"] == "wrong" for check in checks.values()) else 0)
    return "; ".join(f"{name} {boot[name]['verdict']}: {boot[name]['evidence']}" for name in wrong or boot)


def the_guard_is_disabled_and_the_module_loaded_late() -> str:
    """The firewall came after the sysctl files were applied."""
    until(lambda: shown(FIREWALL, "ActiveState") == "active", 30, "the firewall is loaded")
    equal(shown(GUARD, "ActiveState"), "inactive")
    times = [int(shown(unit, "ActiveEnterTimestampMonotonic")) / 1e6 for unit in ("systemd-sysctl.service", FIREWALL)]
    equal(times, sorted(times))
    return "sysctl files were applied {:.1f} s after the start, the firewall loaded at {:.1f} s".format(*times)


def without_the_rule_the_kept_limit_is_lost() -> str:
    """So the trap is real."""
    run("udevadm", "settle")
    equal(limit(), default_limit())
    return f"{limit():,} in force, the kernel's default; {kept():,} was kept; systemd-sysctl said {_sysctl_said()}"


def the_guard_puts_back_what_the_boot_lost() -> str:
    """A decision of its own kind."""
    lost = limit()
    run("systemctl", "start", GUARD)
    row = decision("restore")
    equal((row["from"], row["to"], row["outcome"], limit()), (lost, kept(), "applied", kept()))
    return f"history: {row['sentence']}"


def the_next_boot_has_the_rule() -> str:
    """As the package ships it."""
    Path(f"/root/{RULE.name}").rename(RULE)
    equal(shown(GUARD, "UnitFileState"), "disabled")
    return f"{RULE} is back, {GUARD} still disabled"


def with_the_rule_the_kept_limit_is_in_force() -> str:
    """No guard has run in this boot."""
    awaited(kept())
    return f"{limit():,} in force, {kept():,} kept, {default_limit():,} the kernel's default; {GUARD} {shown(GUARD, 'ActiveState')}"


def doctor_finds_the_boot_in_order() -> str:
    """Both programs that apply sysctl files leave the last word to the drop-in, and the trap is closed."""
    return doctor()


def the_guard_finds_it_in_force() -> str:
    """It writes nothing."""
    before = limit()
    run("systemctl", "start", GUARD)
    row = decision("already_in_force")
    equal(limit(), before)
    return f"history: {row['sentence']}"


def the_next_boot_has_guard_and_rule() -> str:
    """As every boot of a host has them."""
    run("systemctl", "enable", GUARD)
    return f"{GUARD} {shown(GUARD, 'UnitFileState')}"


def guard_and_rule_agree() -> str:
    """They start side by side; whichever is first, the kept limit is in force and nobody fights."""
    until(lambda: shown(FIREWALL, "ActiveState") == shown(GUARD, "ActiveState") == "active", 30, "both are active")
    awaited(kept())
    reasons = until(lambda: [row["reason"] for row in decisions()], 30, "the guard has compared")
    equal([reason for reason in reasons if reason not in {"already_in_force", "restore"}], [])
    equal([line["MESSAGE"] for line in lines(GUARD_EVENT="guard.error")], [])
    return f"{limit():,} in force; history: {', '.join(reasons)}; status line “{shown(GUARD, 'StatusText')}”"


def the_next_boot_has_a_file_that_shadows() -> str:
    """Its name comes after the drop-in's."""
    run("systemctl", "disable", GUARD)
    OTHER.write_text(f"# Tuning by somebody\nnet.netfilter.nf_conntrack_max = {OTHER_LIMIT}\n", "ascii")
    return f"{OTHER}:2 sets {OTHER_LIMIT:,}"


def the_other_file_has_the_last_word() -> str:
    """The rule applies the sysctl files as they are ordered."""
    awaited(OTHER_LIMIT)
    return f"{limit():,} in force, {kept():,} kept"


def doctor_names_the_file_that_shadows() -> str:
    """With its line; `sysctl --system` would apply the same."""
    return doctor(at_boot=f"{OTHER}:2", sysctl_system=f"{OTHER}:2")


def the_guard_leaves_it_to_the_other() -> str:
    """A limit that somebody set is not put back, and what is kept stays."""
    before = kept()
    run("systemctl", "start", GUARD)
    row = decision("set_elsewhere")
    equal((limit(), kept()), (OTHER_LIMIT, before))
    return f"history: {row['sentence']}"


def sysctl_conf_wins_when_procps_applies_it() -> str:
    """Under the alias key; at boot 99-sysctl.conf, a link to it, loses."""
    OTHER.unlink()
    with PROCPS.open("a", encoding="ascii") as file:
        file.write(f"net.nf_conntrack_max={PROCPS_LIMIT}\n")
    run("sysctl", "--system")
    equal(limit(), PROCPS_LIMIT)
    run("/usr/lib/systemd/systemd-sysctl")
    equal(limit(), kept())
    return f"`sysctl --system` sets {PROCPS_LIMIT:,}, systemd-sysctl {kept():,}"


def doctor_names_sysctl_conf() -> str:
    """For procps alone."""
    number = len(PROCPS.read_text("ascii").splitlines())
    return doctor(sysctl_system=f"{PROCPS}:{number}")


def the_next_boot_is_as_it_was_kept() -> str:
    """Nothing shadows any more."""
    rows = PROCPS.read_text("ascii").splitlines(keepends=True)
    PROCPS.write_text("".join(rows[:-1]), "ascii")
    return f"{OTHER} and the line in {PROCPS} are gone"


def less_memory_is_told_and_not_acted_on() -> str:
    """The limit stays in force; history says that this host can't bear it."""
    before = awaited(kept())
    run("systemctl", "start", GUARD)
    row = decision("over_budget_at_start")
    equal(limit(), before)
    return f"history: {row['sentence']}"


def status_says_over_budget() -> str:
    """Degraded, with the command that goes back."""
    until(lambda: "over budget" in shown(GUARD, "StatusText"), 30, "the status line says so")
    equal(json.loads(run("guard", "status", "--json", fails=True))["degraded"], True)  # noqa: FBT003 - JSON's own word
    told = run("guard", "status", fails=True)
    holds(told, "over budget", "guard revert --all")
    in_short, row = (row for row in told.splitlines() if "over budget" in row)
    holds(in_short, "NEEDS A PERSON")
    (line,) = lines(GUARD_EVENT="guard.hold", GUARD_REASON="over_budget_at_start")
    equal(line["PRIORITY"], "3")
    return f"status line “{shown(GUARD, 'StatusText')}”; guard status: {row.strip()}"


def the_command_that_it_names_goes_back() -> str:
    """To the limit before the first raise, which was another kernel default; the next boot has nothing to keep."""
    said = run("guard", "revert", "--all")
    equal([path for path in (DROP_IN,) if path.exists()], [])
    until(lambda: "over budget" not in shown(GUARD, "StatusText"), 30, "the status line is calm again")
    run("guard", "status")
    return said.strip().replace("\n", " ")


def _sysctl_said() -> str:
    rows = run("journalctl", "--boot", "--quiet", "--output=cat", "--unit=systemd-sysctl.service").splitlines()
    return "; ".join(row for row in rows if "conntrack" in row) or "nothing"


BOOTS: dict[str, tuple[Callable[[], str], ...]] = {
    "trap": (
        the_guard_is_disabled_and_the_module_loaded_late,
        without_the_rule_the_kept_limit_is_lost,
        the_guard_puts_back_what_the_boot_lost,
        the_next_boot_has_the_rule,
    ),
    "kept": (
        the_guard_is_disabled_and_the_module_loaded_late,
        with_the_rule_the_kept_limit_is_in_force,
        doctor_finds_the_boot_in_order,
        the_guard_finds_it_in_force,
        the_next_boot_has_guard_and_rule,
    ),
    "daily": (
        guard_and_rule_agree,
        the_next_boot_has_a_file_that_shadows,
    ),
    "shadowed": (
        the_guard_is_disabled_and_the_module_loaded_late,
        the_other_file_has_the_last_word,
        doctor_names_the_file_that_shadows,
        the_guard_leaves_it_to_the_other,
        sysctl_conf_wins_when_procps_applies_it,
        doctor_names_sysctl_conf,
        the_next_boot_is_as_it_was_kept,
    ),
    "small": (
        the_guard_is_disabled_and_the_module_loaded_late,
        less_memory_is_told_and_not_acted_on,
        status_says_over_budget,
        the_command_that_it_names_goes_back,
    ),
}

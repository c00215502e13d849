"""Later boots: check that the persisted limit takes effect without the guard, and who reports it if it doesn't.

A firewall's rules load the module late in each boot. One function a check; it returns its evidence.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ground import GUARD, equal, holds, lines, run, shown, until
from kernel import HAS_CHAIN_LIMIT, UNLIMITED, default_limit, the_limit_takes_the_range_that_is_known
from machine import DROP_IN, FIREWALL, RULE, SYSCTL, InitialTable, awaited, decision, decisions, limit, persisted

OTHER = Path("/etc/sysctl.d/99-zzz-other.conf")
PROCPS = Path("/etc/sysctl.conf")
OTHER_LIMIT, PROCPS_LIMIT = 40_000, 50_000
"""Neither a kernel default nor the persisted limit."""
CHAINED, FEW_BUCKETS, PACKETS = 12_000, 512, 2_000
"""An average chain of 47, from which a kernel that limits chains loses some percent of all new flows."""
SETTLED_SECONDS = 5
"""The guard looks at the tables four times a second, and at chains more rarely."""


def doctor(**wrong: str) -> str:
    """Check that of the boot checks of `guard doctor` exactly the named fail, with this evidence. Return the evidence."""
    done = subprocess.run(["guard", "doctor", "--json"], capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    boot = {name: checks[name] for name in ("at_boot", "sysctl_system", "boot_trap")}
    equal({name for name, check in boot.items() if check["verdict"] == "wrong"}, set(wrong))
    for name, words in wrong.items():
        holds(boot[name]["evidence"], words)
    equal(done.returncode, 3 if any(check["verdict"] == "wrong" for check in checks.values()) else 0)
    return "; ".join(f"{name} {boot[name]['verdict']}: {boot[name]['evidence']}" for name in wrong or boot)


def the_guard_is_disabled_and_the_module_loaded_late() -> str:
    """The firewall loads after the sysctl files are applied."""
    until(lambda: shown(FIREWALL, "ActiveState") == "active", 60, "the firewall is loaded")
    equal(shown(GUARD, "ActiveState"), "inactive")
    times = [int(shown(unit, "ActiveEnterTimestampMonotonic")) / 1e6 for unit in ("systemd-sysctl.service", FIREWALL)]
    equal(times, sorted(times))
    return "sysctl files were applied {:.1f} s after the start, the firewall loaded at {:.1f} s".format(*times)


def without_the_rule_the_persisted_limit_is_lost() -> str:
    """The limit falls to the kernel's default."""
    run("udevadm", "settle")
    equal(limit(), default_limit())
    return (
        f"{limit():,} in force, the kernel's default; {persisted():,} persisted; systemd-sysctl logged {_sysctl_log()}"
    )


def the_guard_restores_the_limit_that_the_boot_lost() -> str:
    """History has a decision of kind restore."""
    lost = limit()
    run("systemctl", "start", GUARD)
    row = decision("restore")
    equal((row["from"], row["to"], row["outcome"], limit()), (lost, persisted(), "applied", persisted()))
    return f"history: {row['sentence']}"


def the_next_boot_has_the_rule() -> str:
    """The next boot has the rule as the package ships it."""
    Path(f"/root/{RULE.name}").rename(RULE)
    equal(shown(GUARD, "UnitFileState"), "disabled")
    return f"{RULE} is back, {GUARD} still disabled"


def with_the_rule_the_persisted_limit_is_in_force() -> str:
    """The limit is there although no guard has run in this boot."""
    awaited(persisted())
    found = f"{limit():,} in force, {persisted():,} persisted, {default_limit():,} the kernel's default"
    return f"{found}; {GUARD} {shown(GUARD, 'ActiveState')}"


def doctor_finds_the_boot_in_order() -> str:
    """The drop-in wins with both programs that apply sysctl files, and the late module load is covered."""
    return doctor()


def the_guard_finds_it_in_force() -> str:
    """The guard finds the persisted limit in force and writes nothing."""
    before = limit()
    run("systemctl", "start", GUARD)
    row = decision("already_in_force")
    equal(limit(), before)
    return f"history: {row['sentence']}"


def the_next_boot_has_guard_and_rule() -> str:
    """The next boot has guard and rule, as on any host."""
    run("systemctl", "enable", GUARD)
    return f"{GUARD} {shown(GUARD, 'UnitFileState')}"


def guard_and_rule_agree() -> str:
    """Guard and rule start in any order: the persisted limit takes effect, and neither undoes the other."""
    until(lambda: shown(FIREWALL, "ActiveState") == shown(GUARD, "ActiveState") == "active", 60, "both are active")
    awaited(persisted())
    reasons = until(lambda: [row["reason"] for row in decisions()], 60, "the guard has compared the limits")
    equal([reason for reason in reasons if reason not in {"already_in_force", "restore"}], [])
    equal([line["MESSAGE"] for line in lines(GUARD_EVENT="guard.error")], [])
    return f"{limit():,} in force; history: {', '.join(reasons)}; status line “{shown(GUARD, 'StatusText')}”"


def losses_to_long_chains_are_logged() -> str:
    """They come without a kernel message. A kernel that limits no chain loses nothing, and nothing is logged."""
    initial, buckets = InitialTable(), SYSCTL / "nf_conntrack_buckets"
    initial.fill(CHAINED)
    buckets.write_text(f"{FEW_BUCKETS}\n", "ascii")
    lost = initial.send(PACKETS)
    equal(lost > 0, HAS_CHAIN_LIMIT)
    found = f"{lost:,} of {PACKETS:,} packets lost at an average chain of {2 * initial.count() / FEW_BUCKETS:.0f}"
    if not HAS_CHAIN_LIMIT:
        time.sleep(SETTLED_SECONDS)
        equal([row["sentence"] for row in decisions() if row["trigger"] == "chains"], [])
        return f"{found}, and nothing is logged"
    return f"{found}; history: {decision('chain_drops')['sentence']}"


def the_next_boot_has_a_file_that_shadows() -> str:
    """The name of the other file sorts after the drop-in's."""
    run("systemctl", "disable", GUARD)
    OTHER.write_text(f"# Tuning by somebody\nnet.netfilter.nf_conntrack_max = {OTHER_LIMIT}\n", "ascii")
    return f"{OTHER}:2 sets {OTHER_LIMIT:,}"


def the_other_file_wins() -> str:
    """The rule applies the sysctl files in their order."""
    awaited(OTHER_LIMIT)
    return f"{limit():,} in force, {persisted():,} persisted"


def doctor_names_the_file_that_shadows() -> str:
    """Doctor names file and line; `sysctl --system` would apply the same."""
    return doctor(at_boot=f"{OTHER}:2", sysctl_system=f"{OTHER}:2")


def the_guard_leaves_a_limit_that_someone_set() -> str:
    """The guard restores nothing over a limit that someone set, and keeps the drop-in."""
    before = persisted()
    run("systemctl", "start", GUARD)
    row = decision("set_elsewhere")
    equal((limit(), persisted()), (OTHER_LIMIT, before))
    return f"history: {row['sentence']}"


def sysctl_conf_wins_when_procps_applies_it() -> str:
    """The alias in sysctl.conf wins; at boot its link 99-sysctl.conf loses."""
    OTHER.unlink()
    with PROCPS.open("a", encoding="ascii") as file:
        file.write(f"net.nf_conntrack_max={PROCPS_LIMIT}\n")
    run("sysctl", "--system")
    equal(limit(), PROCPS_LIMIT)
    run("/usr/lib/systemd/systemd-sysctl")
    equal(limit(), persisted())
    return f"`sysctl --system` sets {PROCPS_LIMIT:,}, systemd-sysctl {persisted():,}"


def doctor_names_sysctl_conf() -> str:
    """Doctor names sysctl.conf for procps alone."""
    number = len(PROCPS.read_text("ascii").splitlines())
    return doctor(sysctl_system=f"{PROCPS}:{number}")


def the_next_boot_has_the_drop_in_alone() -> str:
    """No other file sets the limit."""
    rows = PROCPS.read_text("ascii").splitlines(keepends=True)
    PROCPS.write_text("".join(rows[:-1]), "ascii")
    return f"{OTHER} and the line in {PROCPS} are gone"


def less_memory_is_reported_and_the_limit_stays() -> str:
    """The limit stays; history shows that a full table would exceed the budget."""
    before = awaited(persisted())
    run("systemctl", "start", GUARD)
    row = decision("over_budget_at_start")
    equal(limit(), before)
    return f"history: {row['sentence']}"


def status_shows_over_budget() -> str:
    """The status needs an operator and names the command that reverts."""
    until(lambda: "too high for this host's memory" in shown(GUARD, "StatusText"), 60, "the status line shows it")
    equal(json.loads(run("guard", "status", "--json", fails=True))["health"]["level"], "action_required")
    text = run("guard", "status", fails=True)
    holds(text, "action required", "guard revert --all")
    holds(text, "ACTION NEEDED: the limit is too high for this host's memory")
    (row,) = (row for row in text.splitlines() if "action required" in row)
    (line,) = lines(GUARD_EVENT="guard.hold", GUARD_REASON="over_budget_at_start")
    equal(line["PRIORITY"], "3")
    return f"status line “{shown(GUARD, 'StatusText')}”; guard status: {row.strip()}"


def the_named_command_reverts() -> str:
    """The command restores the limit from before the first raise, and removes the drop-in."""
    output = run("guard", "revert", "--all")
    equal([path for path in (DROP_IN,) if path.exists()], [])
    until(
        lambda: "too high for this host's memory" not in shown(GUARD, "StatusText"),
        60,
        "the status line shows no problem",
    )
    run("guard", "status")
    return output.strip().replace("\n", " ")


def a_limit_that_means_none_is_left_alone() -> str:
    """A raise would be a lowering. Neither the guard that runs nor the next one writes a limit."""
    if UNLIMITED is None:
        return "this kernel takes no such limit"
    (SYSCTL / "nf_conntrack_max").write_text(f"{UNLIMITED}\n", "ascii")
    as_read = UNLIMITED % 2**32  # by the kernel, and so in the history
    row, *_ = until(lambda: [row for row in decisions() if row["from"] == as_read], 60, "history has that limit")
    run("systemctl", "restart", GUARD)
    until(lambda: "unlimited" in shown(GUARD, "StatusText"), 60, "the status line shows that there is no limit")
    equal((limit(), [path for path in (DROP_IN,) if path.exists()]), (UNLIMITED, []))
    return f"history: {row['sentence']}; status line “{shown(GUARD, 'StatusText')}”"


def _sysctl_log() -> str:
    rows = run("journalctl", "--boot", "--quiet", "--output=cat", "--unit=systemd-sysctl.service").splitlines()
    return "; ".join(row for row in rows if "conntrack" in row) or "nothing"


BOOTS: dict[str, tuple[Callable[[], str], ...]] = {
    "trap": (
        the_guard_is_disabled_and_the_module_loaded_late,
        without_the_rule_the_persisted_limit_is_lost,
        the_limit_takes_the_range_that_is_known,
        the_guard_restores_the_limit_that_the_boot_lost,
        the_next_boot_has_the_rule,
    ),
    "persisted": (
        the_guard_is_disabled_and_the_module_loaded_late,
        with_the_rule_the_persisted_limit_is_in_force,
        doctor_finds_the_boot_in_order,
        the_guard_finds_it_in_force,
        the_next_boot_has_guard_and_rule,
    ),
    "daily": (
        guard_and_rule_agree,
        losses_to_long_chains_are_logged,
        the_next_boot_has_a_file_that_shadows,
    ),
    "shadowed": (
        the_guard_is_disabled_and_the_module_loaded_late,
        the_other_file_wins,
        doctor_names_the_file_that_shadows,
        the_guard_leaves_a_limit_that_someone_set,
        sysctl_conf_wins_when_procps_applies_it,
        doctor_names_sysctl_conf,
        the_next_boot_has_the_drop_in_alone,
    ),
    "small": (
        the_guard_is_disabled_and_the_module_loaded_late,
        less_memory_is_reported_and_the_limit_stays,
        status_shows_over_budget,
        the_named_command_reverts,
        a_limit_that_means_none_is_left_alone,
    ),
}

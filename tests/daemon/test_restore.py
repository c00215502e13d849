"""What was kept for this boot, and what is in force: at start, and when the module loads late."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Policy, Share

STEP = 98_304
"""65,536 × 1.5."""


def rebooted(host: Host, clock_of: Guarded | None = None) -> Guarded:
    """Return a guard that starts on the host after another boot."""
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    guarded = Guarded(host, clock=clock_of.clock if clock_of else None)
    guarded.loop.start()
    return guarded


def raised_once(host: Host) -> Guarded:
    """Return an ended guard that has raised and kept STEP."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    host.table(10)
    assert host.persisted == STEP
    return guarded


def says_over_budget(guarded: Guarded) -> bool:
    """Return the newest status line of the guard."""
    status = guarded.runtime_dir.status()
    assert status is not None
    return bool(status["over_budget"])


def test_a_limit_that_the_boot_lost_is_put_back(host: Host) -> None:
    """The module loaded after systemd-sysctl had run: its default is in force, and the kept limit comes back."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    second = rebooted(host)
    assert host.limit == STEP
    assert second.reasons()[-1] == "raise restore applied"
    assert "98,304 was saved for this boot" in second.rows()[-1].sentence
    assert host.persisted == STEP
    second.stop()


def test_a_limit_that_is_in_force_is_left_alone(host: Host) -> None:
    """One quiet row says that the kept limit survived."""
    raised_once(host)
    second = rebooted(host)
    assert host.limit == STEP
    assert second.kernel.writes == []
    assert second.reasons()[-1] == "hold already_in_force none"
    second.stop()


def test_another_value_is_somebodys(host: Host) -> None:
    """A value that no kernel chooses by itself was set by somebody: it stays."""
    raised_once(host)
    host.limit = 70_000
    second = rebooted(host)
    assert host.limit == 70_000
    assert second.reasons()[-1] == "hold set_elsewhere none"
    second.stop()


def test_less_memory_is_reported_and_the_limit_stays(host: Host) -> None:
    """Half the memory, or a copied disk: the limit stays, status is degraded, and the log names the way back."""
    raised_once(host)
    (host.root / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 400000 kB\n")
    second = rebooted(host)
    assert host.limit == STEP
    assert second.reasons()[-1] == "hold over_budget_at_start none"
    (hold,) = second.logged("guard.hold")
    assert hold["level"] == "error"
    assert "guard revert --all" in hold["message"]
    assert says_over_budget(second)
    second.stop()


@pytest.mark.parametrize(
    ("limit", "over"), [(None, False), (LIMIT, False), (STEP - 1, True)], ids=["revert", "another writer", "too little"]
)
def test_less_memory_is_reported_until_the_limit_is_affordable(host: Host, limit: int | None, *, over: bool) -> None:
    """Whoever lowers it, by the command that the log names or otherwise."""
    raised_once(host)
    (host.root / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 400000 kB\n")
    second = rebooted(host)
    if limit is None:
        assert main(["revert", "--all"], second.paths) is Exit.DONE
    else:
        host.limit = limit
    second.turn(5.0)
    assert says_over_budget(second) is over
    second.stop()


def test_short_hash_chains_do_not_hide_that_memory_is_short(host: Host) -> None:
    """A host with less memory has fewer buckets too: chains would stop a raise before the budget does."""
    raised_once(host)
    (host.root / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 400000 kB\n")
    host.buckets = 4_096
    second = rebooted(host)
    assert second.reasons()[-1] == "hold over_budget_at_start none"
    assert "the budget of 48.8 MiB allows 88,775" in second.rows()[-1].sentence  # (51,200,000 − 4,096 × 16) ÷ 576
    second.stop()


def test_a_module_that_loads_while_the_guard_runs(host: Host) -> None:
    """No conntrack at start; when it appears with its default, the kept limit is put back."""
    raised_once(host)
    limit = host.root / "proc/sys/net/netfilter/nf_conntrack_max"
    limit.unlink()
    host.buckets = LIMIT
    second = rebooted(host)
    second.turn(3.0)
    host.limit = LIMIT
    second.turn(3.0)
    assert host.limit == STEP
    assert second.reasons()[-1] == "raise restore applied"
    second.stop()


def test_what_only_partly_fits_is_put_back_in_part(host: Host) -> None:
    """Within the budget of today, not of the day it was kept."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    second = Guarded(host, Policy(budget=Share(bytes=48_000_000)))
    second.loop.start()
    # (48,000,000 − 65,536 × 16) ÷ 576, less 20 for the container's ten entries
    assert LIMIT < host.limit == (48_000_000 - LIMIT * 16) // 576
    second.stop()


@pytest.mark.parametrize("broken", ["", "net.netfilter.nf_conntrack_max = many\n", "# boot_id=\n"])
def test_a_file_without_our_line_persists_nothing(host: Host, broken: str) -> None:
    """Whatever stands there, a start goes on."""
    raised_once(host)
    (host.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf").write_text(broken)
    host.limit = host.buckets = LIMIT
    second = rebooted(host)
    assert second.kept is None
    assert host.limit == LIMIT
    second.stop()

"""What was kept for this boot, and what is in force: at start, and when the module loads late."""

from __future__ import annotations

from typing import NoReturn

import pytest
from testbed.guarded import GIB_KIB, LIMIT, Guarded, Host, again, an_override
from testbed.programs import process

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import OverrideKind, Pause

STEP = 98_304
"""65,536 × 1.5."""


def rebooted(host: Host, clock_of: Guarded | None = None, policy: Policy | None = None) -> Guarded:
    """Return a guard that starts on the host after another boot."""
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    guarded = Guarded(host, policy, clock=clock_of.clock if clock_of else None)
    guarded.loop.start()
    return guarded


def raised(host: Host) -> Guarded:
    """Return a running guard that has raised for a full table, which has emptied since."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    return guarded


def raised_once(host: Host) -> Guarded:
    """Return an ended guard that has raised and kept STEP."""
    guarded = raised(host)
    guarded.stop()
    assert host.persisted == STEP
    return guarded


def available_at(host: Host, kib: int) -> None:
    """Have the host show that much available memory."""
    (host.root / "proc/meminfo").write_text(f"MemTotal: {24 * GIB_KIB} kB\nMemAvailable: {kib} kB\nHugetlb: 0 kB\n")


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


def load_module(host: Host, limit: int | None = LIMIT, buckets: int = LIMIT) -> None:
    """Load connection tracking, again if it is loaded: sysfs has a new folder, and the kernel sets its defaults."""
    new, module = host.root / "sys/module/new", host.root / "sys/module/nf_conntrack"
    new.mkdir(parents=True)
    if module.exists():
        module.rename(host.root / f"sys/module/old{module.stat().st_ino}")  # its inode stays in use
    new.rename(module)
    if limit is not None:
        host.limit, host.buckets = limit, buckets


def test_a_module_loaded_again_between_two_looks(host: Host) -> None:
    """A firewall's restart: what the running guard raised comes back, however often, and that is no conflict."""
    load_module(host, limit=None)
    guarded = raised(host)
    for _ in range(4):
        load_module(host)
        guarded.turn(5.0)
        assert host.limit == STEP
    assert guarded.reasons()[-2:] == ["hold reloaded none", "raise restore applied"]
    assert guarded.state.conflict_seconds == ()
    assert "98,304 was set in this boot" in guarded.rows()[-1].sentence
    guarded.stop()


def test_a_module_loaded_again_that_somebody_tuned(host: Host) -> None:
    """A value that is no default stays, and what comes later is no conflict: nothing of the guard's is in force."""
    load_module(host, limit=None)
    guarded = raised(host)
    load_module(host, limit=70_000)
    guarded.turn(5.0)
    assert guarded.reasons()[-2:] == ["hold reloaded none", "hold set_elsewhere none"]
    host.limit = 60_000
    guarded.turn(20.0)
    assert host.limit == 60_000
    assert guarded.state.conflict_seconds == ()
    guarded.stop()


def test_a_module_that_is_gone_for_a_while(host: Host) -> None:
    """What the running guard raised is put back as what it found at start; nothing was saved at that start."""
    guarded = raised(host)
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    guarded.turn(5.0)
    host.limit = host.buckets = LIMIT
    guarded.turn(5.0)
    assert host.limit == STEP
    assert guarded.reasons()[-2:] == ["hold reloaded none", "raise restore applied"]
    guarded.stop()


def test_a_module_loaded_again_while_no_guard_ran(host: Host) -> None:
    """The kernel's default at start is a lost limit, and no conflict."""
    first = raised_once(host)
    first.clock.now += 10.0
    host.limit = host.buckets = LIMIT
    after = Guarded(host, clock=first.clock)
    after.loop.start()
    assert host.limit == STEP
    assert after.reasons()[-2:] == ["hold reloaded none", "raise restore applied"]
    assert after.state.conflict_seconds == ()
    after.stop()


def test_a_reverted_limit_is_not_put_back(host: Host) -> None:
    """The operator outranks what was kept, also after the module was loaded again."""
    load_module(host, limit=None)
    guarded = raised(host)
    guarded.written()
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    guarded.turn(5.0)
    load_module(host)
    guarded.turn(5.0)
    assert main(["resume"], guarded.paths) is Exit.DONE  # a revert pauses raising
    guarded.turn(5.0)
    guarded.turn(5.0)
    assert host.limit == LIMIT
    guarded.stop()


def test_a_limit_lost_during_a_pause_is_put_back_after_it(host: Host) -> None:
    """The pause holds; its end is what the lost limit waits for."""
    first = raised_once(host)
    host.limit = host.buckets = LIMIT
    first.runtime_dir.put_pause(Pause(by="root", reason="drill", until_seconds=first.clock.now + 60.0))
    second = rebooted(host, first)
    assert (host.limit, second.reasons()[-1]) == (LIMIT, "hold paused none")
    second.turn(30.0)
    assert host.limit == LIMIT
    second.turn(31.0)
    assert host.limit == STEP
    second.stop()


@pytest.mark.parametrize(
    ("limit", "buckets", "files", "text"),
    [
        (262_144, 65_536, {}, "isn't the kernel's default with 65,536 buckets (65,536)"),
        (294_912, 73_728, {}, "isn't the kernel's default with 73,728 buckets (73,728)"),
        (294_912, 294_912, {}, "isn't the kernel's default with 294,912 buckets. Someone"),
        (65_536, 8_192, {"etc/modprobe.d/x.conf": "options nf_conntrack hashsize=8192\n"}, None),
        (65_536, 8_192, {"proc/cmdline": "nf_conntrack.hashsize=8192\n"}, None),
        (65_536, 8_192, {}, "isn't the kernel's default with 8,192 buckets (8,192)"),
        (8_192, 8_192, {"proc/cmdline": "nf_conntrack.hashsize=8192\n"}, "8,192 buckets (65,536)"),
        (262_144, 65_536, {"proc/sys/kernel/osrelease": "5.10.0-32-amd64\n"}, None),
        (65_536, 65_536, {"proc/sys/kernel/osrelease": "5.10.0-32-amd64\n"}, "65,536 buckets (262,144)"),
        (65_536, 65_536, {"etc/sysctl.d/k8s.conf": "net.netfilter.nf_conntrack_max = 65536\n"}, "k8s.conf:1 sets it at boot"),
        (65_536, 65_536, {"etc/sysctl.d/k8s.conf": "net.netfilter.nf_conntrack_max = 65537\n"}, None),
        (65_536, 65_536, {"etc/sysctl.d/50-x.conf": "net.netfilter.nf_conntrack_max = 65536\n"}, None),
    ],
)  # fmt: skip
def test_the_saved_limit_goes_over_a_default_alone(
    host: Host, limit: int, buckets: int, files: dict[str, str], text: str | None
) -> None:
    """By kernel, options and memory; another value stays, with the true reason."""
    raised_once(host)
    drop_in = host.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf"
    drop_in.write_text(drop_in.read_text().replace("= 98304", "= 300000"))
    for path, content in files.items():
        (host.root / path).parent.mkdir(parents=True, exist_ok=True)
        (host.root / path).write_text(content)
    host.limit, host.buckets = limit, buckets
    second = rebooted(host)
    assert (host.limit > limit) is (text is None)
    assert second.reasons()[-1] == ("raise restore applied" if text is None else "hold set_elsewhere none")
    assert (text or "") in second.rows()[-1].sentence
    second.stop()


def test_who_set_another_value_is_named(host: Host) -> None:
    """On evidence: a program that runs since some time in this boot, and sets this value."""
    raised_once(host)
    host.limit, host.buckets = 70_000, 65_536
    process(host.root, "kube-proxy", "kube-proxy", "--conntrack-max-per-core=1", "--conntrack-min=70000")
    second = rebooted(host)
    assert "so it stays. Probable cause: kube-proxy is running (pid 701)" in second.rows()[-1].sentence
    second.stop()


def test_a_lowering_after_the_module_was_loaded_again_is_a_conflict(host: Host) -> None:
    """The limit was in force again at once: what lowers it later is somebody."""
    load_module(host, limit=None)
    guarded = raised(host)
    load_module(host, limit=None)
    guarded.turn(5.0)
    host.limit = 40_000
    guarded.turn(5.0)
    assert guarded.reasons()[-1] == "hold limit_lowered none"
    assert len(guarded.state.conflict_seconds) == 1
    guarded.stop()


def test_a_lowering_of_this_boot_is_somebodys_even_if_it_is_the_default(host: Host) -> None:
    """A restart of the guard undoes no decision of another program or an operator."""
    first = raised(host)
    host.buckets = LIMIT
    first.turn(15.0)
    host.limit = LIMIT
    first.turn(1.0)
    assert first.reasons()[-1] == "hold limit_lowered none"
    first.stop()
    second = again(first)
    second.loop.start()
    assert (host.limit, second.reasons()[-1]) == (LIMIT, "hold set_elsewhere none")
    assert second.rows()[-1].sentence == (
        "The limit (65,536) is lower than the 98,304 saved for this boot, and was set in this boot, so it stays. "
        "The next need raises it from there."
    )
    second.stop()


@pytest.mark.parametrize("how", ["resume", "time", "reload"])
def test_a_conflict_holds_a_restore_until_it_is_over(host: Host, how: str) -> None:
    """The module is loaded again while raising has stopped; an operator, time or other settings end that."""
    guarded = raised(host)
    for limit in (50_000, 49_999, 49_998):
        host.table(limit)
        host.limit = limit
        guarded.turn(15.0)
        guarded.turn(1.0)
    assert guarded.state.conflict_seconds
    host.table(10)
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    guarded.turn(15.0)
    host.limit = host.buckets = LIMIT
    guarded.turn(3.0)
    guarded.turn(30.0)
    assert (host.limit, guarded.reasons()[-1]) == (LIMIT, "hold conflict none")
    if how == "resume":
        resume = an_override(guarded, OverrideKind.RESUME)
        guarded.runtime_dir.overrides.put(resume.key, encode(resume))
    elif how == "time":
        guarded.clock.now += tuning.CONFLICT_WINDOW_SECONDS
    else:
        guarded.controller.policy = Policy(conflict_limit=0)
    guarded.turn(3.0)
    guarded.turn(3.0)
    assert guarded.reasons()[-1] == "raise restore applied"
    guarded.stop()


def test_memory_that_is_short_for_a_moment_shrinks_no_persisted_limit(host: Host) -> None:
    """A part is put back at once, the rest when there is memory; the drop-in keeps the whole."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    memory = (host.root / "proc/meminfo").read_text()
    least_kib = 24 * GIB_KIB // 20
    available_at(host, least_kib + 40_000)
    second = rebooted(host)
    part = host.limit
    assert LIMIT < part < STEP
    assert (host.persisted, second.reasons()[-1]) == (STEP, "raise restore applied")
    (host.root / "proc/meminfo").write_text(memory)
    for _ in range(40):
        second.turn(2.0)
    assert (host.limit, host.persisted) == (STEP, STEP)
    second.stop()


def test_a_part_that_is_put_back_survives_a_restart(host: Host) -> None:
    """It is the guard's own value: the next start goes on from there."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    available_at(host, 24 * GIB_KIB // 20 + 40_000)
    second = rebooted(host)
    second.stop()
    available_at(host, 20 * GIB_KIB)
    third = again(second)
    third.loop.start()
    assert host.limit == STEP
    third.stop()


@pytest.mark.parametrize("at", ["start", "load"])
def test_an_error_while_a_limit_is_put_back_delays_it(host: Host, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Out of descriptors for a moment: it is tried again."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    if at == "load":
        (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    second = Guarded(host)
    failing = HostError("read", "the limit", OSError(23, "Too many open files in system"), "")

    def fail(*_: object, **__: object) -> NoReturn:
        raise failing

    if at == "load":
        second.loop.start()
        second.turn(3.0)
        host.limit = LIMIT
    with monkeypatch.context() as patched:
        patched.setattr(second.controller, "decide", fail)
        second.loop.start() if at == "start" else second.turn(3.0)
    for _ in range(4):
        second.turn(3.0)
    assert host.limit == STEP
    second.stop()


def test_a_limit_that_became_affordable_is_no_longer_over_budget(host: Host) -> None:
    """Memory is read again each minute while the status says so."""
    raised_once(host)
    available_at(host, 540_000)
    second = rebooted(host)
    second.turn(3.0)
    assert says_over_budget(second)
    available_at(host, 20 * GIB_KIB)
    for _ in range(40):
        second.turn(2.0)
    assert not says_over_budget(second)
    second.stop()


@pytest.mark.parametrize("by", ["need", "min_limit"])
def test_a_raise_before_the_rest_is_restored_keeps_the_persisted_limit(host: Host, by: str) -> None:
    """It ends below that, and is no choice against it."""
    raised_once(host)
    host.limit = host.buckets = LIMIT
    available_at(host, 24 * GIB_KIB // 20 + 40_000)
    second = rebooted(host, policy=Policy(min_limit=90_000) if by == "min_limit" else None)
    part = host.limit
    if by == "need":
        available_at(host, 24 * GIB_KIB // 20 + 5_000)
        host.table(part)
        second.message()
    else:
        available_at(host, 20 * GIB_KIB)
    for _ in range(6):
        second.turn(2.0)
    assert part < host.limit < STEP
    assert host.persisted == STEP
    available_at(host, 20 * GIB_KIB)
    for _ in range(40):
        second.turn(2.0)
    assert host.limit >= STEP
    assert host.persisted == host.limit
    second.stop()


def test_over_budget_stays_while_nothing_shows_otherwise(host: Host) -> None:
    """Memory that can't be read, or a limit that another program lowered a little, ends nothing."""
    raised_once(host)
    available_at(host, 540_000)
    second = rebooted(host)
    (host.root / "proc/meminfo").write_text("no figures\n")
    for _ in range(40):
        second.turn(2.0)
    assert says_over_budget(second)
    available_at(host, 540_000)
    host.limit = STEP - 1
    for _ in range(40):
        second.turn(2.0)
    assert says_over_budget(second)
    second.stop()

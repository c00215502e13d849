"""What `guard doctor` concludes from what it read."""

from __future__ import annotations

from typing import Any

import pytest

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Pause, State
from conntrackd_guard.core.sysctl_precedence import SysctlFile, Tool
from conntrackd_guard.doctor import verdicts, verdicts_boot, verdicts_guard
from conntrackd_guard.doctor.verdicts import Check, Verdict
from conntrackd_guard.doctor.verdicts_guard import Lowerings
from conntrackd_guard.host.other_writers import Writer

KEPT = "sysctl.d/99-zz-conntrackd-guard.conf"
OURS = f"/etc/{KEPT}"
SETS = "net.netfilter.nf_conntrack_max"
HEALTHY: dict[str, Any] = {
    "pid": 42,
    "mode": "act",
    "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
    "recorder": {"trouble": [], "stuck_seconds": 0.0, "lost_lines": 0, "lost_holds": 0},
}


def told(check: Check) -> tuple[str, str]:
    """Return verdict and everything said."""
    return check.verdict.value, f"{check.evidence} -> {check.next_step}"


def files(contents: dict[str, str | None]) -> list[SysctlFile]:
    """Return files by path below /etc."""
    split = [(f"/etc/{path}".rpartition("/"), content) for path, content in contents.items()]
    return [SysctlFile(folder=f, name=n, path=f"{f}/{n}", content=content) for (f, _, n), content in split]


@pytest.mark.parametrize(
    ("limit", "number", "verdict", "says"),
    [
        (262144, 262144, "good", "= 2.0"),
        (262144, 65536, "good", "= 8.0"),
        (262145, 65536, "note", "sysctl -w net.netfilter.nf_conntrack_buckets=66048"),
        (786432, 65536, "note", "= 24.0"),
        (786433, 65536, "wrong", "beyond 24 packets drop without a kernel line"),
        (None, 65536, "unknown", "no limit"),
        (0, 65536, "unknown", "no limit"),
        (262144, None, "unknown", "no number of buckets"),
    ],
)
def test_buckets(limit: int | None, number: int | None, verdict: str, says: str) -> None:
    """The chain of one full table at the present limit: 8 is fine, beyond 24 packets are lost without a line."""
    found = told(verdicts.buckets(limit, number))
    assert found[0] == verdict
    assert says in found[1]


def test_the_command_for_more_buckets_cures() -> None:
    """With the buckets that the next step names, the same limit is good."""
    step = verdicts.buckets(1_000_000, 4096).next_step
    wanted = int(step.split("nf_conntrack_buckets=")[1].split("`")[0])
    assert wanted % 512 == 0
    assert verdicts.buckets(1_000_000, wanted).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("here", "behind", "exists", "permitted", "verdict", "says"),
    [
        (9_000_000, None, True, True, "good", "newest kernel line came at [9.000000]"),
        (5_000_000, 9_000_000, True, True, "wrong", "the kernel warned at [9.000000], its newest line came at [5.000000]"),
        (None, 9_000_000, True, True, "note", "no kernel line of this boot, though the kernel warned at [9.000000]"),
        (None, None, True, True, "unknown", "no kernel line of this boot"),
        (None, 9_000_000, False, True, "note", "no journal"),
        (None, None, False, False, "unknown", "a member of adm or systemd-journal"),
    ],
)  # fmt: skip
def test_journal(here: int | None, behind: int | None, exists: bool, permitted: bool, verdict: str, says: str) -> None:  # noqa: FBT001, PLR0913, PLR0917
    """An older line in it and a newer warning beside it prove that lines don't arrive; none at all proves nothing."""
    found = told(verdicts.journal(here, exists=exists, permitted=permitted, behind=behind))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("boot_id", "wall", "newest", "verdict", "says"),
    [
        ("f2a6c0de-1", 1.8e9, 1.8e9 + 60, "good", "2027-01-15 08:00:00 UTC, boot f2a6c0de"),
        ("f2a6c0de-1", 1.8e9, 1.8e9 + 7200, "wrong", "the newest decision is 2h later: the clock was set back"),
        ("f2a6c0de-1", 1.8e9, None, "good", "boot f2a6c0de"),
        ("f2a6c0de-1", 30.0, None, "wrong", "it was never set: 1970-01-01 00:00:30 UTC"),
        (None, 1.8e9, None, "wrong", "boot's identity"),
    ],
)
def test_clock(boot_id: str | None, wall: float, newest: float | None, verdict: str, says: str) -> None:
    """A clock that was never set, or set back behind the newest decision, is wrong."""
    found = told(verdicts.clock(boot_id, wall, newest))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("kept", "in_force", "raised_to", "verdict", "says"),
    [
        (None, 100, None, "good", "nothing is kept for the next boot: the guard has raised nothing"),
        (None, 100, 100, "wrong", "raised the limit to 100"),
        (None, 100, 200, "good", "nothing is kept"),
        (200, 200, 200, "good", f"200 is kept in {OURS}, and in force"),
        (200, 100, None, "wrong", "`sysctl -w net.netfilter.nf_conntrack_max=200`"),
        (200, 300, None, "note", "another writer has set 300 since"),
        (200, 300, 300, "wrong", "200 is kept in"),
        (200, None, None, "unknown", "no limit in force"),
    ],
)
def test_drop_in(kept: int | None, in_force: int | None, raised_to: int | None, verdict: str, says: str) -> None:
    """What the guard raised must be kept, and what is kept must be in force."""
    found = told(verdicts_boot.drop_in(OURS, kept, in_force, raised_to, persist=True))
    assert found[0] == verdict
    assert says in found[1]


def test_nothing_is_kept_by_choice() -> None:
    """With `persist: false` a raise that is not kept is no fault."""
    assert told(verdicts_boot.drop_in(OURS, None, 100, 100, persist=False))[0] == "good"


@pytest.mark.parametrize(
    ("others", "systemd", "procps"),
    [
        ({}, ("good", f"sets 500 ({OURS}:1)"), ("good", f"sets 500 ({OURS}:1)")),
        (
            {"sysctl.d/50-x.conf": f"{SETS} = 9"},
            ("good", f"sets 500 ({OURS}:1), over 9 in /etc/sysctl.d/50-x.conf:1"),
            ("good", "over 9 in"),
        ),
        (
            {"sysctl.d/99-zzz.conf": f"\n{SETS} = 9"},
            ("wrong", "sets 9 (/etc/sysctl.d/99-zzz.conf:2), which comes after 500"),
            ("wrong", "Take line 2 out of /etc/sysctl.d/99-zzz.conf"),
        ),
        ({"sysctl.d/99-zzz.conf": f"{SETS} = 501"}, ("note", "sets 501"), ("note", "sets 501")),
        ({"sysctl.conf": f"{SETS} = 9"}, ("good", "sets 500"), ("wrong", "sets 9 (/etc/sysctl.conf:1)")),
        (
            {"sysctl.d/99-zzz.conf": f"{SETS} = 1M"},
            ("wrong", "sets nothing: /etc/sysctl.d/99-zzz.conf:1"),
            ("good", "sets 500"),
        ),
        ({"sysctl.d/99-zzz.conf": f"-{SETS}"}, ("wrong", "has the last word, with no value"), ("good", "sets 500")),
        (
            {"sysctl.d/99-zzz.conf": None},
            ("unknown", "/etc/sysctl.d/99-zzz.conf can't be read"),
            ("unknown", "can't be read"),
        ),
    ],
)
def test_order(others: dict[str, str | None], systemd: tuple[str, str], procps: tuple[str, str]) -> None:
    """Each tool's last word is named with file and line; one that is lower than ours, or none, is wrong."""
    found = files({KEPT: f"{SETS} = 500", **others})
    for tool, (verdict, says) in ((Tool.SYSTEMD, systemd), (Tool.PROCPS, procps)):
        check = told(verdicts_boot.order(found, tool, OURS, 500))
        assert check[0] == verdict
        assert says in check[1]


def test_order_without_a_kept_limit() -> None:
    """Where the guard keeps nothing, whatever the files say is the operator's."""
    assert told(verdicts_boot.order([], Tool.SYSTEMD, OURS, None)) == ("good", "no sysctl file sets the limit -> ")
    check = verdicts_boot.order(files({"sysctl.d/50-x.conf": f"{SETS} = 9"}), Tool.SYSTEMD, OURS, None)
    assert check.verdict is Verdict.GOOD
    assert "sets 9 (/etc/sysctl.d/50-x.conf:1)" in check.evidence


def test_a_link_is_named_by_what_is_to_be_edited() -> None:
    """On Debian 12 the line to take out is in /etc/sysctl.conf, whatever the link is called."""
    link = SysctlFile(
        folder="/etc/sysctl.d", name="99-zzz.conf", path="/etc/sysctl.d/99-zzz.conf", content=f"{SETS} = 9", link="../sysctl.conf"
    )  # fmt: skip
    found = [*files({KEPT: f"{SETS} = 500"}), link]
    step = verdicts_boot.order(found, Tool.SYSTEMD, OURS, 500).next_step
    assert step.startswith("Take line 1 out of ../sysctl.conf (/etc/sysctl.d/99-zzz.conf is a link to it)")


@pytest.mark.parametrize(
    ("built_in", "rule", "listed", "kept", "verdict", "says"),
    [
        (True, "", "", True, "good", "built into this kernel"),
        (False, "/etc/udev/rules.d/60-x.rules", "", True, "good", "/etc/udev/rules.d/60-x.rules applies"),
        (None, "", "/etc/modules-load.d/x.conf:2", True, "good", "/etc/modules-load.d/x.conf:2 loads the module"),
        (False, "", "", True, "wrong", "echo nf_conntrack > /etc/modules-load.d/"),
        (None, "", "", False, "note", "open"),
    ],
)
def test_boot_trap(built_in: bool | None, rule: str, listed: str, kept: bool, verdict: str, says: str) -> None:  # noqa: FBT001, PLR0913, PLR0917
    """Built in, a udev rule or modules-load.d closes it, and which is said; open, it costs a kept limit."""
    found = told(verdicts_boot.boot_trap(built_in=built_in, rule=rule, listed=listed, kept=kept))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("changed", "age", "verdict", "says"),
    [
        ({}, 1.0, "good", "it runs (process 42, mode act), follows ring buffer and journal"),
        ({}, 91.0, "wrong", "has said nothing for 1min 31s"),
        ({"recorder": {"trouble": ["disk full"]}}, 1.0, "wrong", "with trouble: disk full"),
        ({"recorder": {"stuck_seconds": 11.0}}, 1.0, "wrong", "at one step for 11s"),
        ({"over_budget": True}, 1.0, "wrong", "`guard revert --all` goes back"),
        ({"recorder": {"lost_lines": 7}}, 1.0, "note", "7 log lines undelivered"),
        ({"recorder": {"lost_holds": 1200}}, 1.0, "note", "1,200 holds not recorded"),
        ({"sources": {"ring_buffer": "absent", "journal": "following", "notes": ["no rights"]}}, 1.0, "note", "no rights"),
        ({"sources": {"ring_buffer": "following", "journal": "waiting: no journal"}}, 1.0, "note", "waiting: no journal"),
        ({"sources": {"ring_buffer": "following", "journal": "looked at once a minute"}}, 1.0, "good", "no trouble"),
        ({"sources": {"ring_buffer": "following", "journal": "absent"}}, 1.0, "note", "journal absent"),
        ({"sources": None, "recorder": None}, 1.0, "note", "no ring buffer"),
    ],
)  # fmt: skip
def test_a_running_guard(changed: dict[str, Any], age: float, verdict: str, says: str) -> None:
    """What the guard says of itself counts: silence and trouble are wrong, a missing source is a note."""
    found = told(verdicts_guard.guard({**HEALTHY, **changed}, age, running=True, rehearsing=False))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("running", "rehearsing", "verdict", "says"),
    [
        (False, False, "wrong", "none runs: nothing is raised -> `systemctl start conntrackd-guard`"),
        (False, True, "wrong", "only one in dry run"),
        (None, False, "unknown", "can't tell"),
        (True, False, "note", "not yet said"),
    ],
)
def test_a_guard_that_says_nothing(running: bool | None, rehearsing: bool, verdict: str, says: str) -> None:  # noqa: FBT001
    """Without a guard nothing is raised, and that is wrong."""
    found = told(verdicts_guard.guard(None, None, running=running, rehearsing=rehearsing))
    assert found[0] == verdict
    assert says in found[1]


def test_pause() -> None:
    """A pause is an order, no fault; who gave it, why and for how long is told."""
    assert verdicts_guard.pause(None, 0.0).verdict is Verdict.GOOD
    found = told(verdicts_guard.pause(Pause(by="guard pause", reason="load test", until_seconds=160.0), 100.0))
    assert found[0] == "note"
    assert "paused by guard pause (load test), for another 1min" in found[1]
    fleet = verdicts_guard.pause(Pause(by="/etc/conntrackd-guard/pause", reason="the file exists"), 0.0)
    assert fleet.next_step == "Remove /etc/conntrackd-guard/pause to resume."


KUBE = Writer(evidence="kube-proxy runs", next_step="Set maxPerCore.")
FIGHTS = Lowerings(count=2, window_seconds=86400.0, stopped=False)
PEACE = Lowerings(count=0, window_seconds=86400.0, stopped=False)


@pytest.mark.parametrize(
    ("found", "lowered", "unseen", "verdict", "says"),
    [
        ([], PEACE, "", "good", "no kube-proxy"),
        ([], None, "the history can't be read", "unknown", "none found, but the history can't be read"),
        ([KUBE], PEACE, "", "note", "kube-proxy runs -> Set maxPerCore."),
        ([KUBE], None, "hidden", "note", "kube-proxy runs"),
        ([KUBE], FIGHTS, "", "wrong", "was lowered 2 times in 1d; kube-proxy runs -> Set maxPerCore."),
        ([], FIGHTS, "", "wrong", "by whom is unknown"),
        ([], Lowerings(count=3, window_seconds=60.0, stopped=True), "", "wrong", "stopped raising"),
        ([Writer(evidence="ufw", next_step="Take it out.", number=9)], PEACE, "", "wrong", "ufw -> Take it out."),
        ([Writer(evidence="ufw", next_step="Take it out.", number=500)], PEACE, "", "note", "ufw"),
    ],
)
def test_other_writers(found: list[Writer], lowered: Lowerings | None, unseen: str, verdict: str, says: str) -> None:
    """A trace is a note; a fight, or a value that is set over ours, is wrong; without evidence the writer is unknown."""
    check = told(verdicts_guard.other_writers(found, lowered, 500, unseen=unseen))
    assert check[0] == verdict
    assert says in check[1]


def test_only_lowerings_within_the_window_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones are ignored; at `conflict_limit` the guard has stopped; with 0 it never stops."""
    monkeypatch.setattr(tuning, "CONFLICT_WINDOW_SECONDS", 500.0)
    state = State(conflict_seconds=(10.0, 1000.0, 1001.0, 1002.0))
    assert verdicts_guard.lowerings(state, Policy(), 1100.0) == Lowerings(count=3, window_seconds=500.0, stopped=True)
    assert not verdicts_guard.lowerings(state, Policy(conflict_limit=0), 1100.0).stopped


@pytest.mark.parametrize(
    ("free", "inodes_left", "writable", "verdict", "says"),
    [
        (1 << 30, True, True, "good", "1 GiB free for /var"),
        (63 << 20, True, True, "note", "63 MiB free"),
        (7 << 20, True, True, "wrong", "not recorded"),
        (1 << 30, False, True, "wrong", "no inode"),
        (1 << 30, True, False, "wrong", "can't be written"),
    ],
)
def test_disk(free: int, inodes_left: bool, writable: bool, verdict: str, says: str) -> None:  # noqa: FBT001
    """A disk without room, without inodes or mounted read-only keeps decisions from being recorded."""
    found = told(verdicts.disk("/var", free, inodes_left=inodes_left, writable=writable))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("initial", "beside", "verdict", "says"),
    [
        (True, True, "good", "the guard runs in it"),
        (True, None, "good", "the initial network namespace"),
        (True, False, "wrong", "PrivateNetwork="),
        (False, None, "wrong", "on the host itself"),
        (None, None, "unknown", "once the kernel tracks connections"),
    ],
)
def test_namespace(initial: bool | None, beside: bool | None, verdict: str, says: str) -> None:  # noqa: FBT001
    """Only the initial network namespace can write the limit; a guard shut into another one is told."""
    found = told(verdicts.namespace(initial=initial, guard_beside=beside))
    assert found[0] == verdict
    assert says in found[1]


@pytest.mark.parametrize(
    ("limit", "verdict", "says"),
    [(None, "note", "modprobe nf_conntrack"), (0, "note", "unlimited"), (65536, "good", "limit 65,536")],
)
def test_conntrack(limit: int | None, verdict: str, says: str) -> None:
    """A kernel that tracks nothing, or without a limit, gives the guard nothing to do."""
    found = told(verdicts.conntrack(limit, 16384))
    assert found[0] == verdict
    assert says in found[1]

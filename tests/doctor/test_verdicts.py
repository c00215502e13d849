"""Verdicts of `guard doctor` from facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from testbed.hosts import host, table
from testbed.records import a_record

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.health import Health, of_host
from conntrackd_guard.core.model import Pause, State, Table
from conntrackd_guard.core.state import conflicts
from conntrackd_guard.core.sysctl_precedence import SysctlFile, Tool
from conntrackd_guard.doctor import verdicts
from conntrackd_guard.doctor.place import Place
from conntrackd_guard.doctor.verdicts import Check, Verdict
from conntrackd_guard.host.writer import Writer

SAVED = "sysctl.d/99-zz-conntrackd-guard.conf"
OURS = f"/etc/{SAVED}"
SETS = "net.netfilter.nf_conntrack_max"
HEALTHY: dict[str, Any] = {
    "pid": 42,
    "mode": "act",
    "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
    "recorder": {"trouble": [], "stuck_seconds": 0.0, "lost_lines": 0, "lost_holds": 0},
}


def shown(check: Check) -> tuple[str, str]:
    """Return the verdict and both texts."""
    return check.verdict.value, f"{check.evidence} -> {check.next_step}"


def files(contents: dict[str, str | None]) -> list[SysctlFile]:
    """Return files by path below /etc."""
    split = [(f"/etc/{path}".rpartition("/"), content) for path, content in contents.items()]
    return [SysctlFile(folder=f, name=n, path=f"{f}/{n}", content=content) for (f, _, n), content in split]


@pytest.mark.parametrize(
    ("limit", "number", "verdict", "text"),
    [
        (262144, 262144, "good", "= 2.0"),
        (262144, 65536, "good", "= 8.0"),
        (262145, 65536, "note", "sysctl -w net.netfilter.nf_conntrack_buckets=66048"),
        (786432, 65536, "note", "= 24.0"),
        (786433, 65536, "wrong", "above 24 the kernel drops packets without a message"),
        (None, 65536, "unknown", "needs a limit"),
        (0, 65536, "unknown", "needs a limit"),
        (262144, None, "unknown", "a number of buckets"),
    ],
)
def test_buckets(limit: int | None, number: int | None, verdict: str, text: str) -> None:
    """Average chains up to 8 are fine; above 24 packets are dropped without a message."""
    found = shown(verdicts.buckets(limit, number))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("reader", "verdict"), [("guard", "good"), ("helper", "good"), ("nobody", "note"), (None, "unknown")]
)
def test_owners(reader: str | None, verdict: str) -> None:
    """Without the helper, and without the right itself, the guard raises for less than it could."""
    found = shown(verdicts.owners({"owners_read_by": reader}))
    assert found[0] == verdict
    assert ("`systemctl start conntrackd-guard-namespaces`" in found[1]) is (verdict == "note")


def test_buckets_of_a_kernel_without_a_chain_limit() -> None:
    """It drops nothing for them, so nothing is wrong."""
    found = verdicts.buckets(786433, 65536, chain_limit=False)
    assert found.verdict is Verdict.GOOD
    assert found.evidence.endswith("2 × 786,433 ÷ 65,536 buckets = 24.0; this kernel drops nothing for long chains")


@pytest.mark.parametrize(
    ("saved", "in_force", "verdict", "text"),
    [
        (None, 65536, "good", "is saved and in force -> "),
        (98304, None, "good", "is saved and in force -> "),
        (98304, 98304, "good", "is saved and in force, with its 98,304 hash buckets -> "),
        (98304, 262144, "good", "is saved and in force, with its 98,304 hash buckets -> "),
        (98304, 65536, "wrong", "only 65,536 of its 98,304 hash buckets are -> `sysctl -w net.netfilter.nf_conntrack_buckets="),
    ],
)  # fmt: skip
def test_a_saved_limit_is_in_force_with_its_buckets(
    saved: int | None, in_force: int | None, verdict: str, text: str
) -> None:
    """Only both are what was saved."""
    found = shown(verdicts.drop_in_buckets(verdicts.good("5 is saved and in force"), saved, in_force))
    assert found[0] == verdict
    assert text in found[1]


def test_a_limit_that_is_not_in_force_says_nothing_about_buckets() -> None:
    """The graver finding stands."""
    found = verdicts.wrong("5 is saved, but 4 is in force")
    assert verdicts.drop_in_buckets(found, 98304, 512) is found


@pytest.mark.parametrize("tool", Tool)
def test_a_later_file_that_sets_other_buckets_is_named(tool: Tool) -> None:
    """The limit comes back, its buckets do not."""
    buckets = "net.netfilter.nf_conntrack_buckets"
    ours = f"{buckets} = 98304\n{SETS} = 500"
    last: dict[str, str | None] = {SAVED: ours, "sysctl.d/zzz.conf": f"{buckets} = 65536"}
    assert shown(verdicts.order(files({SAVED: ours}), tool, OURS, 500, 98304))[0] == "good"
    found = verdicts.order(files(last), tool, OURS, 500, 98304)
    assert found.verdict is Verdict.WRONG
    assert found.evidence == (
        "sets 500, but 65536 hash buckets (/etc/sysctl.d/zzz.conf:1) instead of the 98,304 saved with it"
    )
    assert found.next_step == "Remove line 1 from /etc/sysctl.d/zzz.conf: it undoes the saved buckets."
    assert shown(verdicts.order(files(last), tool, OURS, 500, None))[0] == "good"


def test_figures_without_memory() -> None:
    """Nothing is raised then, so it is no note: the check fails and names the file."""
    unknown = "/proc/meminfo (no valid MemTotal)"
    seen = host(table(1), unread=(f"{unknown}: memory is unknown",), memory_unknown=unknown)
    found = shown(verdicts.figures(seen, as_root=True))
    assert found[0] == "wrong"
    assert "nothing is raised: /proc/meminfo (no valid MemTotal)" in found[1]


def test_the_suggested_number_of_buckets_is_enough() -> None:
    """With that number the check passes."""
    step = verdicts.buckets(1_000_000, 4096).next_step
    wanted = int(step.split("nf_conntrack_buckets=")[1].split("`")[0])
    assert wanted % 512 == 0
    assert verdicts.buckets(1_000_000, wanted).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("newest", "behind", "exists", "permitted", "verdict", "text"),
    [
        (9_000_000, None, True, True, "good", "newest kernel message at [9.000000]"),
        (5_000_000, 9_000_000, True, True, "wrong", "a warning at [9.000000], the newest message in the journal is of [5.000000]"),
        (None, 9_000_000, True, True, "note", "of this boot, although the kernel logged a warning at [9.000000]"),
        (None, None, True, True, "unknown", "without kernel messages of this boot"),
        (None, 9_000_000, False, True, "note", "no journal"),
        (None, None, False, False, "unknown", "a member of adm or systemd-journal"),
    ],
)  # fmt: skip
def test_journal(  # noqa: PLR0913 - one case
    *, newest: int | None, behind: int | None, exists: bool, permitted: bool, verdict: str, text: str
) -> None:
    """A journal older than the kernel's last warning fails; one without kernel messages is unknown."""
    found = shown(verdicts.journal(newest, exists=exists, permitted=permitted, behind=behind))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("boot_id", "wall", "newest", "verdict", "text"),
    [
        ("f2a6c0de-1", 1.8e9, 1.8e9 + 60, "good", "2027-01-15 08:00:00 UTC, boot f2a6c0de"),
        (
            "f2a6c0de-1",
            1.8e9,
            1.8e9 + 7200,
            "wrong",
            "set back: it is 2027-01-15 08:00:00 UTC, and the newest decision is 2h",
        ),
        ("f2a6c0de-1", 1.8e9, None, "good", "boot f2a6c0de"),
        ("f2a6c0de-1", 30.0, None, "wrong", "never set: 1970-01-01 00:00:30 UTC"),
        (None, 1.8e9, None, "wrong", "boot id can't be read"),
    ],
)
def test_clock(boot_id: str | None, wall: float, newest: float | None, verdict: str, text: str) -> None:
    """A clock that was never set, or was set back, fails."""
    found = shown(verdicts.clock(boot_id, wall, newest))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("saved", "in_force", "raised_to", "verdict", "text"),
    [
        (None, 100, None, "good", "no limit is saved: no raise is in force"),
        (None, 100, 100, "wrong", "raised the limit to 100"),
        (None, 100, 200, "good", "no limit is saved"),
        (200, 200, 200, "good", f"200 is saved in {OURS} and in force"),
        (200, 100, None, "wrong", "`sysctl -w net.netfilter.nf_conntrack_max=200`"),
        (200, 300, None, "note", "another program has set 300"),
        (200, 300, 300, "wrong", "200 is saved in"),
        (200, None, None, "unknown", "no limit is in force"),
    ],
)
def test_drop_in(saved: int | None, in_force: int | None, raised_to: int | None, verdict: str, text: str) -> None:
    """The guard's raise must be saved, and the saved limit must be in force."""
    found = shown(verdicts.drop_in(OURS, saved, in_force, raised_to, persist=True))
    assert found[0] == verdict
    assert text in found[1]


def test_persist_false_saves_nothing() -> None:
    """With `persist: false` an unsaved raise is no fault."""
    assert shown(verdicts.drop_in(OURS, None, 100, 100, persist=False))[0] == "good"


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
            ("wrong", "sets 9 (/etc/sysctl.d/99-zzz.conf:2), which overrides 500"),
            ("wrong", "Remove line 2 from /etc/sysctl.d/99-zzz.conf"),
        ),
        ({"sysctl.d/99-zzz.conf": f"{SETS} = 501"}, ("note", "sets 501"), ("note", "sets 501")),
        (
            {"sysctl.d/99-zzz.conf": "net.nf_conntrack_max = 0"},
            ("note", "sets 0 (/etc/sysctl.d/99-zzz.conf:1), which overrides 500"),
            ("note", "the tables are unlimited then"),
        ),
        (
            {"sysctl.d/99-zzz.conf": "net.nf_conntrack_max = -1"},
            ("good", f"sets 500 ({OURS}:1), over -1 in"),
            ("good", "this kernel refuses -1 in /etc/sysctl.d/99-zzz.conf:1"),
        ),
        ({"sysctl.conf": f"{SETS} = 9"}, ("good", "sets 500"), ("wrong", "sets 9 (/etc/sysctl.conf:1)")),
        (
            {"sysctl.d/99-zzz.conf": f"{SETS} = 1M"},
            ("wrong", "leaves the limit unset: /etc/sysctl.d/99-zzz.conf:1 overrides it with 1M"),
            ("good", "sets 500"),
        ),
        ({"sysctl.d/99-zzz.conf": f"-{SETS}"}, ("wrong", "overrides it with an empty value"), ("good", "sets 500")),
        (
            {"sysctl.d/99-zzz.conf": None},
            ("unknown", "can't read /etc/sysctl.d/99-zzz.conf"),
            ("unknown", "can't read"),
        ),
    ],
)
def test_order(others: dict[str, str | None], systemd: tuple[str, str], procps: tuple[str, str]) -> None:
    """Each tool's final value is named with file and line; a lower one than ours, or none, fails."""
    found = files({SAVED: f"{SETS} = 500", **others})
    for tool, (verdict, text) in ((Tool.SYSTEMD, systemd), (Tool.PROCPS, procps)):
        check = shown(verdicts.order(found, tool, OURS, 500))
        assert check[0] == verdict
        assert text in check[1]


def test_order_without_a_saved_limit() -> None:
    """Without a saved limit any value is the operator's choice."""
    assert shown(verdicts.order([], Tool.SYSTEMD, OURS, None)) == ("good", "no sysctl file sets the limit -> ")
    check = verdicts.order(files({"sysctl.d/50-x.conf": f"{SETS} = 9"}), Tool.SYSTEMD, OURS, None)
    assert check.verdict is Verdict.GOOD
    assert "sets 9 (/etc/sysctl.d/50-x.conf:1)" in check.evidence
    check = verdicts.order(files({"sysctl.d/50-x.conf": f"{SETS} = -1"}), Tool.SYSTEMD, OURS, None, lowest=-(2**31))
    assert shown(check) == (
        "note",
        "sets -1 (/etc/sysctl.d/50-x.conf:1): the tables are unlimited then -> Set a limit that this host can bear.",
    )


def test_a_link_is_named_with_the_file_to_edit() -> None:
    """On Debian 12 the line to remove is in /etc/sysctl.conf."""
    link = SysctlFile(
        folder="/etc/sysctl.d", name="99-zzz.conf", path="/etc/sysctl.d/99-zzz.conf", content=f"{SETS} = 9", link="../sysctl.conf"
    )  # fmt: skip
    found = [*files({SAVED: f"{SETS} = 500"}), link]
    step = verdicts.order(found, Tool.SYSTEMD, OURS, 500).next_step
    assert step.startswith("Remove line 1 from ../sysctl.conf (/etc/sysctl.d/99-zzz.conf is a link to it)")


@pytest.mark.parametrize(
    ("built_in", "rule", "listed", "saved", "verdict", "text"),
    [
        (True, "", "", True, "good", "built into this kernel"),
        (False, "/etc/udev/rules.d/60-x.rules", "", True, "good", "/etc/udev/rules.d/60-x.rules applies"),
        (None, "", "/etc/modules-load.d/x.conf:2", True, "good", "/etc/modules-load.d/x.conf:2 loads the module"),
        (False, "", "", True, "wrong", "echo nf_conntrack > /etc/modules-load.d/"),
        (None, "", "", False, "note", "lost at boot"),
    ],
)
def test_boot_trap(built_in: bool | None, rule: str, listed: str, saved: bool, verdict: str, text: str) -> None:  # noqa: FBT001, PLR0913, PLR0917
    """A built-in module, a udev rule or modules-load.d passes; otherwise a saved limit is lost."""
    found = shown(verdicts.boot_trap(built_in=built_in, rule=rule, listed=listed, saved=saved))
    assert found[0] == verdict
    assert text in found[1]


def of_document(changed: dict[str, Any], age: float) -> tuple[Health, dict[str, Any]]:
    """Return the health of a running guard whose status is that old, and the status."""
    document = {**HEALTHY, "boottime_seconds": 1000.0, **changed}
    return of_host(document, running=True, now_seconds=1000.0 + age, mode=Mode.ACT), document


@pytest.mark.parametrize(
    ("changed", "verdict", "text"),
    [
        ({}, "good", "healthy, follows ring buffer and journal"),
        ({"recorder": {"trouble": ["disk full"]}}, "wrong", "disk full"),
        ({"recorder": {"stuck_seconds": 11.0}}, "note", "stuck for 11s"),
        ({"over_budget": True}, "wrong", "`guard revert --all` restores"),
        ({"not_writable": {"why": "/x: read-only", "next_step": "Mount it."}}, "wrong", "can't write /x: read-only -> Mount it."),
        ({"unmet": [{"table": "web", "reason": "at_ceiling"}]}, "wrong", "web is full, and can't be raised further (at max_limit)"),
        ({"recorder": {"lost_lines": 7}}, "note", "7 log messages not delivered"),
        ({"recorder": {"lost_holds": 1200}}, "note", "1,200 holds not recorded"),
        ({"sources": {"ring_buffer": "absent", "journal": "following", "notes": ["no rights"]}}, "note", "no rights"),
        ({"sources": {"ring_buffer": "following", "journal": "not found on this host"}}, "note", "not found on this host"),
        ({"sources": {"ring_buffer": "following", "journal": "read once a minute"}}, "good", "follows"),
        ({"sources": {"ring_buffer": "following", "journal": "absent"}}, "note", "journal absent"),
        ({"sources": None, "recorder": None}, "note", "no ring buffer"),
    ],
)  # fmt: skip
def test_the_health_of_a_running_guard(changed: dict[str, Any], verdict: str, text: str) -> None:
    """What needs an operator fails; what the guard works without is a note."""
    found = shown(verdicts.health(*of_document(changed, 1.0)))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("age", "verdict", "text"), [(9.0, "good", "answers"), (29.0, "wrong", "not answered for 29s")]
)
def test_a_guard_that_answers(age: float, verdict: str, text: str) -> None:
    """A guard that was stopped half a minute ago is not good, and its old status is no evidence of health."""
    found, document = of_document({}, age)
    answers = shown(verdicts.guard(found, document, dry_run=False))
    assert answers[0] == verdict
    assert text in answers[1]
    assert (verdicts.health(found, document).verdict is Verdict.UNKNOWN) == (verdict == "wrong")


@pytest.mark.parametrize(
    ("running", "dry_run", "verdict", "text"),
    [
        (False, False, "wrong", "no guard is running: nothing is raised -> `systemctl start conntrackd-guard`"),
        (False, True, "wrong", "(only a dry run is running)"),
        (None, False, "unknown", "can't be seen whether the guard runs"),
        (True, False, "unknown", "has not published a status yet"),
    ],
)
def test_a_guard_without_a_status(running: bool | None, dry_run: bool, verdict: str, text: str) -> None:  # noqa: FBT001
    """Without a running guard the check fails."""
    found = of_host(None, running=running, now_seconds=5.0, mode=Mode.ACT)
    answers = shown(verdicts.guard(found, None, dry_run=dry_run))
    assert answers[0] == verdict
    assert text in answers[1]
    assert verdicts.health(found, None).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("table", "verdict", "text"),
    [
        ({"count": 50}, "good", "none is full; the fullest is web (netns 7) at 50 %"),
        ({"count": 100}, "wrong", "web (netns 7) has 100 of 100 entries"),
        ({"count": 120}, "wrong", "web (netns 7) has 120 of 100 entries"),
        ({"count": 97, "dropped": 3}, "wrong", "dropped 3 packets just now"),
    ],
)
def test_full_tables(table: dict[str, Any], verdict: str, text: str) -> None:
    """A table that is full or drops packets now fails."""
    seen = a_record("k", limit=100, tables=(Table(namespace=7, label="web", **table),)).observation
    found = shown(verdicts.tables(seen))
    assert found[0] == verdict
    assert text in found[1]
    assert verdicts.tables(replace(seen, limit=None)).verdict is Verdict.UNKNOWN


def test_pause() -> None:
    """A pause is a note with its origin, reason and remaining time."""
    assert verdicts.pause(None, 0.0).verdict is Verdict.GOOD
    found = shown(verdicts.pause(Pause(by="guard pause", reason="load test", until_seconds=160.0), 100.0))
    assert found[0] == "note"
    assert "paused by guard pause (load test) for 1min more" in found[1]
    fleet = verdicts.pause(Pause(by="/etc/conntrackd-guard/pause", reason="the file exists"), 0.0)
    assert fleet.next_step == "To resume, remove /etc/conntrackd-guard/pause."


KUBE = Writer(evidence="kube-proxy runs", next_step="Set maxPerCore.")


@pytest.mark.parametrize(
    ("found", "lowered", "unseen", "verdict", "text"),
    [
        ([], 0, "", "good", "no kube-proxy"),
        ([], None, "the history can't be read", "unknown", "none found, but the history can't be read"),
        ([KUBE], 0, "", "note", "kube-proxy runs -> Set maxPerCore."),
        ([KUBE], None, "hidden", "note", "kube-proxy runs"),
        ([KUBE], 2, "", "wrong", "was lowered 2 times in 1d; kube-proxy runs -> Set maxPerCore."),
        ([], 2, "", "wrong", "by an unknown program"),
        ([], 3, "", "wrong", "stopped raising"),
        (
            [Writer(evidence="ufw", next_step="Take it out.", sets=(9,), is_final=True)],
            0,
            "",
            "wrong",
            "ufw -> Take it out.",
        ),
        ([Writer(evidence="ufw", next_step="Take it out.", sets=(9, 500), is_final=True)], 0, "", "note", "ufw"),
    ],
)
def test_other_writers(found: list[Writer], lowered: int | None, unseen: str, verdict: str, text: str) -> None:
    """A trace is a note; a conflict, or another final value, fails."""
    check = shown(verdicts.other_writers(found, lowered, 500, conflict_limit=3, unseen=unseen))
    assert check[0] == verdict
    assert text in check[1]


def test_only_lowerings_within_the_window_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones are ignored; with a `conflict_limit` of 0 the guard never stops."""
    monkeypatch.setattr(tuning, "CONFLICT_WINDOW_SECONDS", 500.0)
    state = State(conflict_seconds=(10.0, 1000.0, 1001.0, 1002.0))
    assert conflicts(state, 1100.0) == 3
    assert "stopped" not in verdicts.other_writers([], 3, 500, conflict_limit=0, unseen="").evidence


@pytest.mark.parametrize(
    ("free", "inodes_left", "writable", "verdict", "text"),
    [
        (1 << 30, True, True, "good", "1 GiB free for /var"),
        (63 << 20, True, True, "note", "63 MiB free"),
        (7 << 20, True, True, "wrong", "not recorded"),
        (1 << 30, False, True, "wrong", "no inode"),
        (1 << 30, True, False, "wrong", "is read-only"),
    ],
)
def test_disk(free: int, inodes_left: bool, writable: bool, verdict: str, text: str) -> None:  # noqa: FBT001
    """A disk that is full, out of inodes or read-only fails."""
    found = shown(verdicts.disk("/var", free, inodes_left=inodes_left, writable=writable))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("initial", "beside", "verdict", "text"),
    [
        (True, True, "good", "the guard runs in it"),
        (True, None, "good", "the initial network namespace"),
        (True, False, "wrong", "PrivateNetwork="),
        (False, None, "wrong", "nsenter -t 1 -n"),
        (None, None, "unknown", "once connection tracking is loaded"),
    ],
)
def test_namespace(initial: bool | None, beside: bool | None, verdict: str, text: str) -> None:  # noqa: FBT001
    """Only the initial network namespace can write the limit."""
    found = shown(verdicts.namespace(Place(initial=initial), guard_beside=beside))
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("limit", "verdict", "text"),
    [(None, "note", "modprobe nf_conntrack"), (0, "note", "unlimited"), (65536, "good", "limit 65,536")],
)
def test_conntrack(limit: int | None, verdict: str, text: str) -> None:
    """Without connection tracking, or without a limit, there is nothing to raise."""
    found = shown(verdicts.conntrack(limit, 16384, Place(initial=None)))
    assert found[0] == verdict
    assert text in found[1]

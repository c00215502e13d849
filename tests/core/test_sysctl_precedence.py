"""Which sysctl line has the last word; `tests/host/test_sysctl_programs.py` asks the programs themselves."""

from __future__ import annotations

import pytest

from conntrackd_guard.core.sysctl_precedence import Assignment, SysctlFile, Tool, last_word, reading_order

OURS = ("/etc/sysctl.d/99-zz-conntrackd-guard.conf", "net.netfilter.nf_conntrack_max = 500")


def files(*contents: tuple[str, str]) -> list[SysctlFile]:
    """Return files by path and content."""
    split = [(path.rpartition("/"), content) for path, content in contents]
    return [SysctlFile(folder=f, name=n, path=f"{f}/{n}", content=content) for (f, _, n), content in split]


def winners(*contents: tuple[str, str]) -> tuple[str, str]:
    """Return `name:line value` of the last word under systemd-sysctl and under procps; "nobody" without one."""
    words = [last_word(files(*contents), tool) for tool in (Tool.SYSTEMD, Tool.PROCPS)]
    told = ["nobody" if w is None else f"{w.path.rpartition('/')[2]}:{w.line} {w.value}" for w in words]
    return told[0], told[1]


@pytest.mark.parametrize(
    ("other", "systemd", "procps"),
    [
        (("/etc/sysctl.d/99-sysctl.conf", "net.netfilter.nf_conntrack_max=9"), "ours", "ours"),
        (("/etc/sysctl.d/99-zzz.conf", "\nnet.netfilter.nf_conntrack_max=9"), "99-zzz.conf:2 9", "99-zzz.conf:2 9"),
        (("/usr/lib/sysctl.d/99-zzz.conf", "net.nf_conntrack_max = 9"), "99-zzz.conf:1 9", "99-zzz.conf:1 9"),
        (("/etc/sysctl.d/99-zzz.conf", "-net/nf_conntrack_max=9"), "99-zzz.conf:1 9", "99-zzz.conf:1 9"),
        (("/etc/sysctl.d/99-zzz.conf", "net.netfilter.nf_* = 9"), "ours", "ours"),
        (("/etc/sysctl.d/99-zzz.conf", "net.nf_* = 9"), "99-zzz.conf:1 9", "99-zzz.conf:1 9"),
        (("/etc/sysctl.d/99-zzz.conf", "net.* = 9"), "99-zzz.conf:1 9", "99-zzz.conf:1 9"),
        (("/etc/sysctl.d/99-zzz.conf", "n*max = 9"), "ours", "ours"),
        (("/etc/sysctl.conf", "net.netfilter.nf_conntrack_max = 9"), "ours", "sysctl.conf:1 9"),
        (("/etc/sysctl.d/99-zzz.conf", "-net.netfilter.nf_conntrack_max"), "nobody", "ours"),
        (("/etc/sysctl.d/99-zzz.conf", "net.netfilter.nf_conntrack_max = 1M"), "nobody", "ours"),
        (("/etc/sysctl.d/99-zzz.conf", "#net.netfilter.nf_conntrack_max = 9"), "ours", "ours"),
        (("/etc/sysctl.d/99-zzz.conf", "net.netfilter/nf_conntrack_max = 9"), "ours", "ours"),
        (("/run/sysctl.d/99-zz-conntrackd-guard.conf", "net.nf_conntrack_max = 9"), "ours", "ours"),
    ],
)
def test_who_has_the_last_word(other: tuple[str, str], systemd: str, procps: str) -> None:
    """Names, folders, separators, globs, `-`, the alias, values the kernel refuses, and /etc/sysctl.conf."""
    ours = "99-zz-conntrackd-guard.conf:1 500"
    assert winners(OURS, other) == (ours if systemd == "ours" else systemd, ours if procps == "ours" else procps)


def test_a_repeated_value_keeps_its_place() -> None:
    """Where a later file only repeats a value, systemd writes it in its first place: the alias loses there."""
    found = winners(
        ("/etc/sysctl.d/1.conf", "net.nf_conntrack_max=7"),
        ("/etc/sysctl.d/2.conf", "net.netfilter.nf_conntrack_max=5"),
        ("/etc/sysctl.d/3.conf", "net.nf_conntrack_max=7"),
    )
    assert found == ("2.conf:1 5", "3.conf:1 7")


def test_an_empty_file_masks() -> None:
    """An empty file in /etc (a link to /dev/null reads as one) hides the vendor's."""
    vendor = ("/usr/lib/sysctl.d/10-vendor.conf", "net.nf_conntrack_max=7")
    assert winners(vendor) == ("10-vendor.conf:1 7", "10-vendor.conf:1 7")
    assert winners(("/etc/sysctl.d/10-vendor.conf", ""), vendor) == ("nobody", "nobody")


def test_names_sort_as_bytes() -> None:
    """`99-b` comes after `99-A` and `100-c` before both; hidden files are read by procps alone."""
    names = [f"/etc/sysctl.d/{name}.conf" for name in ("99-b", "99-A", "100-c", ".x")]
    order = [[f.name for f in reading_order(files(*((name, "") for name in names)), tool)] for tool in Tool]
    assert order == [["100-c.conf", "99-A.conf", "99-b.conf"], [".x.conf", "100-c.conf", "99-A.conf", "99-b.conf"]]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("65536", 65536), ("0x1000", 4096), ("010", 8), ("0", 0), ("65536 # why", 65536), ("2147483647", 2147483647),
        ("2147483648", None), ("09", None), ("1M", None), ("-1", None), ("", None), ("262_144", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_what_the_kernel_reads_of_a_value(value: str, number: int | None) -> None:
    """The first number counts, in C's notation, up to INT_MAX; anything else is refused and changes nothing."""
    assert Assignment(path="x", line=1, value=value).number == number

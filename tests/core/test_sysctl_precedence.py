"""Which sysctl line finally sets the limit; `tests/host/test_sysctl_programs.py` compares with the programs."""

from __future__ import annotations

import pytest

from conntrackd_guard.core.sysctl_precedence import Assignment, SysctlFile, Tool, final_assignment, reading_order

OURS = ("/etc/sysctl.d/99-zz-conntrackd-guard.conf", "net.netfilter.nf_conntrack_max = 500")


def files(*contents: tuple[str, str]) -> list[SysctlFile]:
    """Return files by path and content."""
    split = [(path.rpartition("/"), content) for path, content in contents]
    return [SysctlFile(folder=f, name=n, path=f"{f}/{n}", content=content) for (f, _, n), content in split]


def winners(*contents: tuple[str, str]) -> tuple[str, str]:
    """Return `name:line value` of the final assignment by systemd-sysctl and by procps, or "nobody"."""
    words = [final_assignment(files(*contents), tool) for tool in (Tool.SYSTEMD, Tool.PROCPS)]
    found = ["nobody" if w is None else f"{w.path.rpartition('/')[2]}:{w.line} {w.value}" for w in words]
    return found[0], found[1]


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
def test_the_final_assignment(other: tuple[str, str], systemd: str, procps: str) -> None:
    """Names, folders, separators, globs, `-`, the alias, refused values and /etc/sysctl.conf."""
    ours = "99-zz-conntrackd-guard.conf:1 500"
    assert winners(OURS, other) == (ours if systemd == "ours" else systemd, ours if procps == "ours" else procps)


def test_a_repeated_value_keeps_its_position() -> None:
    """Systemd writes a repeated value at its first position, so the alias loses."""
    found = winners(
        ("/etc/sysctl.d/1.conf", "net.nf_conntrack_max=7"),
        ("/etc/sysctl.d/2.conf", "net.netfilter.nf_conntrack_max=5"),
        ("/etc/sysctl.d/3.conf", "net.nf_conntrack_max=7"),
    )
    assert found == ("2.conf:1 5", "3.conf:1 7")


def test_an_empty_file_masks() -> None:
    """An empty file in /etc, or a link to /dev/null, masks the vendor's file."""
    vendor = ("/usr/lib/sysctl.d/10-vendor.conf", "net.nf_conntrack_max=7")
    assert winners(vendor) == ("10-vendor.conf:1 7", "10-vendor.conf:1 7")
    assert winners(("/etc/sysctl.d/10-vendor.conf", ""), vendor) == ("nobody", "nobody")


def test_names_sort_as_bytes() -> None:
    """`100-c` comes before `99-A`, and that before `99-b`; only procps reads hidden files."""
    names = [f"/etc/sysctl.d/{name}.conf" for name in ("99-b", "99-A", "100-c", ".x")]
    order = [[f.name for f in reading_order(files(*((name, "") for name in names)), tool)] for tool in Tool]
    assert order == [["100-c.conf", "99-A.conf", "99-b.conf"], [".x.conf", "100-c.conf", "99-A.conf", "99-b.conf"]]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("65536", 65536), ("0x1000", 4096), ("010", 8), ("0", 0), ("65536 # why", 65536), ("2147483647", 2147483647),
        ("2147483648", None), ("09", None), ("1M", None), ("", None), ("262_144", None), ("9" * 5000, None),
        ("-1", 4294967295), ("-0x10", 4294967280), ("-010", 4294967288), ("-0", 0),
        ("-2147483648", 2147483648), ("-2147483649", None), ("- 1", None), ("+1", None), ("--1", None),
    ],
)  # fmt: skip
def test_values_are_read_as_the_kernel_does(value: str, number: int | None) -> None:
    """The first number counts, in C's notation, as a signed int that is used unsigned; every kernel refuses anything else."""
    assert Assignment(path="x", line=1, value=value).number == number

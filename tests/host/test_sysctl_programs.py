"""The simulation of sysctl files, compared with the programs themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testbed.sysctl_programs import SysctlRoot, why_not

from conntrackd_guard.core.sysctl_precedence import FOLDERS, Tool, writes
from conntrackd_guard.host.conf_dirs import sysctl_files

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

PATHS = [f"{folder}/{name}" for folder in FOLDERS[:-1] for name in ("10-a.conf", "99-b.conf", "99-zz-c.conf")] + [
    "/etc/sysctl.d/9.conf",
    "/etc/sysctl.d/.hidden.conf",
    "/etc/sysctl.d/99-b.conf.bak",
    "/etc/sysctl.conf",
]
NAMES = [
    "net.netfilter.nf_conntrack_max",
    "net/netfilter/nf_conntrack_max",
    "net.nf_conntrack_max",
    "net/nf_conntrack_max",
    "/net/netfilter/nf_conntrack_max",
    ".net.netfilter.nf_conntrack_max",
    "net//netfilter/nf_conntrack_max",
    "net.netfilter/nf_conntrack_max",
    "net/netfilter.nf_conntrack_max",
    "net.netfilter.*",
    "net/netfilter/*",
    "net.netfilter.nf_conntrack_m?x",
    "net/*/nf_conntrack_max",
    "net.nf_*",
    "net.*",
    "*.nf_conntrack_[l-n]ax",
    "*.nf_conntrack_[^a]ax",
    "*.nf_conntrack_[!m]ax",
    "kernel.domainname",
]
LINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "-", "- ", " ", "\t-", "#", " ;"]),
    st.sampled_from(NAMES),
    st.sampled_from([" = ", "=", "\t=\t"]),
    st.integers(100000, 100002),
) | st.builds("{}{}".format, st.sampled_from(["-", "", "- "]), st.sampled_from(NAMES))
CONTENTS = st.lists(LINES, max_size=4).map("\n".join) | st.lists(LINES, max_size=2).map("\r\n".join) | st.none()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> SysctlRoot:
    """Return a root with both programs."""
    return SysctlRoot(tmp_path_factory.mktemp("root"))


@settings(max_examples=settings().max_examples * 3 // 2)
@given(st.dictionaries(st.sampled_from(PATHS), CONTENTS, min_size=1, max_size=5))
def test_the_simulation_matches_the_programs(root: SysctlRoot, files: dict[str, str | None]) -> None:
    """For any set of files, each program ends with the last value of its simulation."""
    root.clear()
    for path, content in files.items():
        root.put(path, content)
    for tool in Tool:
        written = writes(sysctl_files(root.root), tool)
        assert (tool, root.limit_after(tool)) == (tool, written[-1].value if written else None)


def test_the_programs_really_run(root: SysctlRoot, tmp_path: Path) -> None:
    """Both programs write: a program that fails to start would match every simulation without a value."""
    assert tmp_path.exists()
    root.clear()
    root.put("/usr/lib/sysctl.d/1.conf", "net.netfilter.nf_conntrack_max = 100001\n")
    root.put("/etc/sysctl.conf", "net.nf_conntrack_max = 100002\n")
    assert [root.limit_after(tool) for tool in Tool] == ["100001", "100002"]

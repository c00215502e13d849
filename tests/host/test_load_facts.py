"""What the files say about limit and buckets while connection tracking loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.core.model import LoadFacts
from conntrackd_guard.host.load_facts import load_facts
from conntrackd_guard.host.paths import Paths

SETS = "net.netfilter.nf_conntrack_max"


def facts(root: Path, **files: str) -> LoadFacts:
    """Return the facts of a host with these files; `__` in a name is `/`, and `_` is `.`."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return load_facts(Paths(root))


def test_a_bare_host(tmp_path: Path) -> None:
    """Without files nothing is known."""
    assert facts(tmp_path) == LoadFacts()


@pytest.mark.parametrize(
    ("content", "hashsize"),
    [
        ("options nf_conntrack hashsize=65536\n", 65_536),
        ("#x\noptions  nf-conntrack\texpect_hashsize=7 hashsize=65537 acct=1\n", 66_048),  # the kernel fills a page
        ("options nf_conntrack \\\n hashsize=0x20000\n", 131_072),
        ("install nf_conntrack /sbin/modprobe -i nf_conntrack hashsize=4096\n", 4_096),
        ("options nf_conntrack hashsize=8192\noptions nf_conntrack hashsize=16384\n", 16_384),
        ("options nf_conntrack hashsize=0\noptions nf_conntrack hashsize=-1\n", None),
        ("options nf_conntrack hashsize=many\n#options nf_conntrack hashsize=1\n", None),
        ("options nf_conntrack_ftp hashsize=1024\noptions nf_conntrack expect_hashsize=1024\noptions\n", None),
    ],
)
def test_options_of_the_module(tmp_path: Path, content: str, hashsize: int | None) -> None:
    """The last value counts, rounded up as the kernel does; other modules and options don't."""
    assert facts(tmp_path, etc__modprobe_d__x_conf=content).hashsize == hashsize


def test_the_command_line_comes_last(tmp_path: Path) -> None:
    """Modprobe appends the kernel command line's option; a masked file has none."""
    options = "options nf_conntrack hashsize=65536\n"
    assert facts(tmp_path, usr__lib__modprobe_d__x_conf=options).hashsize == 65_536
    assert facts(tmp_path, proc__cmdline="ro nf-conntrack.hashsize=8192 x.hashsize=1\n").hashsize == 8_192
    assert facts(tmp_path, proc__cmdline="", etc__modprobe_d__x_conf="").hashsize is None


def test_the_line_that_is_applied_last(tmp_path: Path) -> None:
    """Another file's line is named; the drop-in's own is not."""
    found = facts(tmp_path, etc__sysctl_d__k8s_conf=f"#\n{SETS} = 131072\n")
    assert (found.final_line, found.final_limit) == (f"{tmp_path}/etc/sysctl.d/k8s.conf:2", 131_072)
    drop_in = Paths(tmp_path).drop_in
    drop_in.write_text(f"{SETS} = 200000\n")
    assert load_facts(Paths(tmp_path)).final_limit == 131_072
    (drop_in.parent / "k8s.conf").rename(drop_in.parent / "50-k8s.conf")
    assert load_facts(Paths(tmp_path)).final_limit is None

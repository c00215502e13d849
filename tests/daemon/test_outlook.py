"""What a dry run says at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.hosts import LIMIT, MIB, host, table

from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.model import Observation
from conntrackd_guard.daemon.outlook import outlook

SEEN = host(table(131_072), table(10, namespace=7))
MATCH = Policy(buckets=Buckets.MATCH)


def test_use_budget_reach_and_boot(tmp_path: Path) -> None:
    """Four facts in three sentences."""
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "10-a.conf").write_text("net.netfilter.nf_conntrack_max = 1\n")
    (folder / "90-b.conf").write_text("# ours\nnet.nf_conntrack_max = 262144\n")
    use, reach, boot = outlook(SEEN, MATCH, tmp_path)
    assert use == (
        "The fullest table, of web (netns 4026532316), holds 131,072 of 262,144 entries (50 %); "
        "all tables take 76 MiB of a memory budget of 2.4 GiB."
    )
    assert reach.startswith("With one full table, raising could go up to 4,")
    assert reach.endswith(", bounded by the memory budget.")
    assert boot == f"At boot {folder}/90-b.conf:2 sets nf_conntrack_max to 262144."


@pytest.mark.parametrize(
    ("seen", "policy", "reach"),
    [
        (SEEN, Policy(), "bounded by the length of hash chains (see `buckets: match`)."),
        (SEEN, Policy(max_limit=300_000), "raising could go up to 300,000, bounded by `max_limit`."),
        (SEEN, Policy(max_limit=LIMIT), "Nothing can be raised: `max_limit` allows 262,144."),
        (SEEN, Policy(budget=Share(bytes=MIB)), "Nothing can be raised: the memory budget allows 0."),
        (host(limit=0), Policy(), "Nothing can be raised: the limit is 0 (unlimited)."),
        (host(limit=None), Policy(), "Nothing is tracked yet."),
    ],
)
def test_how_far_raising_could_go(tmp_path: Path, seen: Observation, policy: Policy, reach: str) -> None:
    """With its bound; without a raise it says so."""
    texts = outlook(seen, policy, tmp_path)
    assert texts[1].endswith(reach)
    assert texts[2] == "At boot no sysctl file sets nf_conntrack_max: the kernel's default applies."

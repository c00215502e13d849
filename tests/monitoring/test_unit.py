"""The documents show how to allow metrics in the unit."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWS = {"RestrictAddressFamilies": "AF_INET", "IPAddressAllow": "localhost"}


def directives(text: str) -> dict[str, str]:
    """Return the directives in a text."""
    return dict(re.findall(r"(?m)^([A-Z]\w+)=(\S+)$", text))


def test_both_pages_show_the_same_drop_in() -> None:
    """Both have the folder of Debian's node_exporter, and the port."""
    for name in ("how-to/prometheus.md", "reference/guard.yaml.5.md"):
        blocks = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / name).read_text("utf-8"), re.DOTALL)
        assert directives("".join(blocks)) == ALLOWS | {"BindPaths": "/var/lib/prometheus/node-exporter"}


def test_the_unit_forbids_both_by_default() -> None:
    """The drop-in is needed for file and port."""
    unit = (ROOT / "systemd/conntrackd-guard.service").read_text("utf-8")
    assert {"RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any", "RootDirectory=/run/conntrackd-guard-root"} <= set(
        unit.splitlines()
    )

"""What the operator is told to allow is what the unit forbids."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWS = {"RestrictAddressFamilies": "AF_INET", "IPAddressAllow": "localhost"}


def directives(text: str) -> dict[str, str]:
    """Return the directives in it."""
    return dict(re.findall(r"(?m)^([A-Z]\w+)=(\S+)$", text))


def test_readme_and_man_page_tell_the_same_drop_in() -> None:
    """For the folder where Debian's node_exporter looks, and for the port."""
    readme = directives(re.findall(r"```ini\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[0])
    page = directives((ROOT / "share/man/guard.yaml.5").read_text("utf-8"))
    assert readme == page == ALLOWS | {"ReadWritePaths": "/var/lib/prometheus/node-exporter"}


def test_without_it_the_unit_forbids_both() -> None:
    """Whoever loosens the unit for all may drop the drop-in."""
    unit = (ROOT / "systemd/conntrackd-guard.service").read_text("utf-8")
    assert {"RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any", "ProtectSystem=strict"} <= set(unit.splitlines())

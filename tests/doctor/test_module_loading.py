"""Whether the module is loaded when sysctl files are applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.doctor import module_loading

RULE = 'ACTION=="add", SUBSYSTEM=="module", KERNEL=="nf_conntrack", \\\n  RUN+="/usr/lib/systemd/systemd-sysctl"\n'


def put(path: Path, content: str) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_built_in_and_loaded_differ(tmp_path: Path) -> None:
    """A loaded module has a state, a built-in one has none."""
    assert module_loading.built_in(tmp_path / "sys") is None
    put(tmp_path / "sys/module/nf_conntrack/parameters/hashsize", "1")
    assert module_loading.built_in(tmp_path / "sys") is True
    put(tmp_path / "sys/module/nf_conntrack/initstate", "live")
    assert module_loading.built_in(tmp_path / "sys") is False


@pytest.mark.parametrize(
    ("content", "closes"),
    [
        (RULE, True),
        (f"# {RULE}".replace("\\\n", ""), False),
        (RULE.replace("nf_conntrack", "br_netfilter"), False),
        (RULE.replace("RUN+=", "ENV{x}="), False),
        ("", False),
    ],
)
def test_a_udev_rule_closes_it(tmp_path: Path, content: str, closes: bool) -> None:  # noqa: FBT001
    """A rule on the module that runs a sysctl program counts, also over several lines; a comment does not."""
    path = tmp_path / "etc/udev/rules.d/60-conntrackd-guard.rules"
    put(path, content)
    assert module_loading.udev_rule(tmp_path) == (str(path) if closes else "")


def test_a_masked_rule_does_not_count(tmp_path: Path) -> None:
    """A link to /dev/null in /etc takes a vendor's rule out of force."""
    put(tmp_path / "usr/lib/udev/rules.d/60-x.rules", RULE)
    assert module_loading.udev_rule(tmp_path)
    (tmp_path / "etc/udev/rules.d").mkdir(parents=True)
    (tmp_path / "etc/udev/rules.d/60-x.rules").symlink_to("/dev/null")
    put(tmp_path / "etc/udev/rules.d/.61-hidden.rules", RULE)
    assert not module_loading.udev_rule(tmp_path)


@pytest.mark.parametrize(
    ("content", "line"),
    [("overlay\nnf_conntrack\n", 2), ("nf-conntrack", 1), ("#nf_conntrack", None), ("nf_conntrack_ftp", None)],
)
def test_a_list_of_modules_closes_it(tmp_path: Path, content: str, line: int | None) -> None:
    """A line with the module's name counts; /etc/modules is read through Debian's link."""
    put(tmp_path / "etc/modules", content)
    assert not module_loading.listed(tmp_path)
    (tmp_path / "etc/modules-load.d").mkdir()
    (tmp_path / "etc/modules-load.d/modules.conf").symlink_to("../modules")
    found = module_loading.listed(tmp_path)
    assert found == ("" if line is None else f"{tmp_path}/etc/modules-load.d/modules.conf:{line}")

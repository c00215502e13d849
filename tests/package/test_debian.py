"""Compare the files of the Debian package with the program."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from conntrackd_guard import __version__
from conntrackd_guard.host.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
UNIT_ROOT = "/run/conntrackd-guard-root"
"""The root directory of the units."""
DEBIAN_NAMES = {
    "systemd-python": "python3-systemd", "pyyaml": "python3-yaml", "structlog": "python3-structlog",
    "rich": "python3-rich",
    "jinja2": "python3-jinja2",
}  # fmt: skip


def read(name: str) -> str:
    """Return a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_carries_the_version() -> None:
    """The newest entry has the version of `conntrackd_guard.__version__`."""
    assert read("debian/changelog").splitlines()[0].split()[1] == f"({__version__})"


def test_dependencies_are_those_of_the_project() -> None:
    """The package depends on the same libraries, with the same lower bounds."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = {"python3": project["requires-python"]}
    for dependency in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(>=.+)", dependency).groups()  # type: ignore[union-attr] # fails the test
        wanted[DEBIAN_NAMES[name]] = bound
    named = re.findall(r"(?m)^ (python3[\w-]*) \(>= (.+)\),$", read("debian/control").partition("\nPackage:")[2])
    assert {name: f">={bound}" for name, bound in named} == wanted


def test_the_package_leaves_usr_bin_guard_to_others() -> None:
    """Both names start the same program; Debian has another package with /usr/bin/guard."""
    scripts = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    assert scripts["guard"] == scripts["conntrackd-guard"]
    assert "usr/bin/conntrackd-guard usr/sbin/guard" in read("debian/links").splitlines()
    assert "\trm debian/conntrackd-guard/usr/bin/guard\n" in read("debian/rules")
    assert "Conflicts:" not in read("debian/control")


def test_a_purge_removes_all_files_of_the_guard() -> None:
    """The postrm script names the drop-in, its temporary file, and the state and runtime directories."""
    paths, script = Paths(), read("debian/postrm")
    beside = paths.drop_in.parent / f".{paths.drop_in.name}.new"
    assert f"\ndrop_in={paths.drop_in}\n" in script
    recommended = f"{paths.recommended_sysctl}* {paths.recommended_module}*"
    for line in (
        f'rm -f "$drop_in" {beside}',
        f"rm -f {recommended}",
        f"rm -rf {paths.state_folder} {paths.run_folder} {UNIT_ROOT}",
    ):
        assert f"\n    {line}\n" in script


def test_every_unit_has_a_root_directory() -> None:
    """The package makes it at each boot, before the units start."""
    assert f"d {UNIT_ROOT} 0755 root root -" in read("config/tmpfiles.d/conntrackd-guard.conf").splitlines()
    for unit in ("conntrackd-guard", "conntrackd-guard-audit", "conntrackd-guard-notify", "conntrackd-guard-persist"):
        assert f"RootDirectory={UNIT_ROOT}" in read(f"systemd/{unit}.service").splitlines()
    assert "config/tmpfiles.d/* usr/lib/tmpfiles.d" in read("debian/install").splitlines()


def test_the_rule_applies_the_drop_in_when_the_module_loads() -> None:
    """The prefix of the udev rule covers the setting in the drop-in."""
    rule = read("config/60-conntrackd-guard.rules").splitlines()[-1]
    (prefix,) = re.findall(r"--prefix=(\S+?)\"", rule)
    assert Paths().limit.is_relative_to(f"/proc/sys{prefix}")

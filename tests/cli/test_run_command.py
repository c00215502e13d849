"""`guard run --check` and the log level of `guard run`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings import files


@pytest.fixture(name="paths")
def a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A tree with the kernel's files, and settings that belong to whoever runs the tests."""
    contents = {
        "proc/sys/kernel/random/boot_id": "boot-1\n",
        "proc/meminfo": "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n",
        "proc/sys/net/netfilter/nf_conntrack_max": "65536\n",
        "proc/sys/net/netfilter/nf_conntrack_buckets": "65536\n",
        "etc/conntrackd-guard/guard.yaml": "max_limit: none\n",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "proc/locks").symlink_to("/proc/locks")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(files, "_ROOT", os.geteuid())
    return Paths(tmp_path)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file with its time and content."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.parametrize("limit", ["65536\n", "0\n", None])
def test_a_check_beside_a_running_guard_changes_nothing(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    """It needs no lock, and leaves the overrides and intents that it finds to the daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    runtime_dir = RuntimeDir(paths)
    runtime_dir.prepare()
    runtime_dir.take_lock()
    runtime_dir.overrides.put("1-2-resume", {})
    runtime_dir.intents.put("1-2-3", {})
    if limit is None:
        paths.limit.unlink()
    else:
        paths.limit.write_text(limit)
    before = tree(paths.root)
    assert main(["run", "--check", "--log-format", "text"], paths) is Exit.DONE
    assert tree(paths.root) == before
    logged = capsys.readouterr().err
    words = {
        "65536\n": "limit 65,536):",
        "0\n": "limit 0 (unlimited)):",
        None: "this kernel tracks no connections yet):",
    }
    assert f"): /dev/kmsg absent; {journal(logged)}.\n" in logged
    assert "Checked (mode act, " in logged
    assert words[limit] in logged
    assert f"A guard in this mode runs already, as process {os.getpid()}" in logged
    assert "None" not in logged


def journal(text: str) -> str:
    """Return the state of this machine's journal as logged."""
    return text.split("/dev/kmsg absent; ", 1)[1].split(".\n", 1)[0]


def test_a_check_needs_good_settings(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """With invalid settings it ends with exit code 78."""
    paths.settings_file.write_text("budgett: 1%\n")
    assert main(["run", "--check"], paths) is Exit.BAD_SETTINGS
    assert "budgett" in capsys.readouterr().err

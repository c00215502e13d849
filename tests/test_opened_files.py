"""Every file of /proc, /sys, /etc and /run that the guard opens to read has a fuzz table in `testbed.read_files`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again, an_override
from testbed.read_files import fuzz_table, put, put_all

from conntrackd_guard.actions import status
from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy
from conntrackd_guard.core.model import OverrideKind, Pause
from conntrackd_guard.daemon import service
from conntrackd_guard.doctor import checks
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.recording.metrics_exporter import Outlets
from conntrackd_guard.settings.keys import Settings

NO_TEXT = ("proc/*/ns/net", "run/netns/*", "dev/*", "var/*", "run/conntrackd-guard.prom")
"""Opened for their inode or owner, devices, the history, and what the guard only writes."""
_opened: set[str] | None = None
"""Paths opened to read since tracing began; None: nobody traces."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        flags = arguments[2]
        if flags & os.O_ACCMODE != os.O_WRONLY and not flags & (os.O_DIRECTORY | os.O_PATH):
            _opened.add(os.fsdecode(arguments[0]))


sys.addaudithook(_note)  # it can't be removed, so it does nothing while nobody traces


@contextmanager
def traced() -> Iterator[set[str]]:
    """Trace every file that this process opens to read."""
    global _opened  # noqa: PLW0603 - the hook has no other way to know
    found: set[str] = set()
    _opened = found
    try:
        yield found
    finally:
        _opened = None


def below(root: Path, paths: set[str]) -> set[str]:
    """Return the paths of the host: below this root, or in the machine's own /proc, /sys, /etc and /run."""
    inside = {path.removeprefix(f"{root}/") for path in paths if path.startswith(f"{root}/")}
    own = {path[1:] for path in paths if path.startswith(("/proc/", "/sys/", "/etc/", "/run/"))}
    return {path for path in inside | own if not any(fnmatch(path, pattern) for pattern in NO_TEXT)}


def without_table(paths: set[str]) -> list[str]:
    """Return the files that nobody has damaged in a test."""
    return sorted(path for path in paths if fuzz_table(path) is None)


@pytest.fixture
def host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with everything that the guard may look at."""
    good = {path: path.read_bytes() for path in host.root.rglob("proc/**/*") if path.is_file()}
    put_all(host.root)
    for path, content in good.items():
        path.write_bytes(content)
    for folder in ("intents", "overrides", "notices"):
        for file in (host.root / "run/conntrackd-guard" / folder).iterdir():
            file.unlink()
    for name in ("pause", "drop-in.override", "drop-in.request", "drop-in.answer"):
        (host.root / "run/conntrackd-guard" / name).unlink()
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    return host


def test_the_daemon(host: Host) -> None:
    """A raise, another writer, a pause, an override, a sample, a notification, metrics, a damaged meminfo, a restart."""
    paths = Paths(host.root)
    with traced() as opened:
        guarded = Guarded(host, Policy(on_flood=FloodResponse(action=FloodAction.HOLD)))
        worker = guarded.recorder._worker
        worker.notices, worker.outlets = (
            NotifySpool(paths.notices),
            Outlets(file=host.root / "run/conntrackd-guard.prom"),
        )
        guarded.controller.publish({})
        host.table(LIMIT, pid="200")
        guarded.message()
        guarded.turn(0.3)
        host.limit = LIMIT // 2
        guarded.turn(30.0)
        guarded.runtime_dir.put_pause(Pause(by="guard pause", reason="drill"))
        record = an_override(guarded, OverrideKind.PAUSE)
        guarded.message()
        guarded.turn(30.0)
        guarded.runtime_dir.overrides.put(record.key, {"not": "a record"})
        guarded.controller.publish({})
        put(host.root, "proc/meminfo", b"MemTotal: 25165824 kB\nMemFree: 20971520 kB\n")
        put(host.root, "proc/sys/net/netfilter/nf_conntrack_buckets", b"x\n")
        put(host.root, "proc/1/net/stat/nf_conntrack", b"\n")
        guarded.observer.observe(rescan=True)
        guarded.written()
        guarded.intents_folder.put("left", {"by": "a kill"})
        guarded.stop()
        again(guarded).stop()
        service.check(paths, Settings(), Log("json", io.StringIO()))
    used = below(host.root, opened)
    assert without_table(used) == []
    expected = {
        "proc/meminfo", "proc/zoneinfo", "proc/self/net/stat/nf_conntrack", "proc/200/net/stat/nf_conntrack",
        "proc/sys/kernel/random/boot_id", "sys/module/nf_conntrack/parameters/hashsize", "etc/machine-id",
        "run/conntrackd-guard/pause", "run/conntrackd-guard/status.json", "run/conntrackd-guard/intents/left.json",
        "etc/tuned/active_profile", "proc/sys/net/netfilter/nf_conntrack_count",
    }  # fmt: skip
    assert expected - used == set()


def test_status_and_doctor(host: Host) -> None:
    """On a host that has every file which they look for, and on this machine."""
    with traced() as opened:
        status.gather(Paths(host.root))
        checks.examine(Paths(host.root))
        checks.examine(Paths())
    used = below(host.root, opened)
    assert without_table(used) == []
    assert {
        "proc/meminfo",
        "proc/locks",
        "etc/sysctl.d/50-x.conf",
        "etc/ufw/ufw.conf",
        "etc/modules-load.d/x.conf",
    } <= used


def test_a_file_without_a_table_is_found(tmp_path: Path) -> None:
    """The test before can fail."""
    put(tmp_path, "proc/new", b"1\n")
    with traced() as opened:
        (tmp_path / "proc/new").read_bytes()
    assert without_table(below(tmp_path, opened)) == ["proc/new"]

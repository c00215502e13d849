"""Dask distributed does the work: the same bytes as this process alone, and clear lines where it can't."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths


@pytest.fixture
def histories(host: Host) -> list[str]:
    """Give three files, two of them damaged."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    path, folder = guarded.paths.history, host.root
    for name, size in (("cut.db", 4096), ("half.db", path.stat().st_size // 2)):
        (folder / name).write_bytes(path.read_bytes()[:size])
    return [str(path), str(folder / "cut.db"), str(folder / "half.db")]


@pytest.fixture
def distributed() -> Any:
    """Give the library; skip the test where it isn't installed, but not in CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module("distributed")
    return pytest.importorskip("distributed")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what the command prints."""
    assert main(["replay", "--json", *arguments], Paths()) is Exit.DONE
    return capsys.readouterr().out


def test_two_worker_processes_give_the_same_bytes(
    histories: list[str],
    distributed: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A scheduler with two worker processes, and this process alone."""
    alone = run(capsys, "--jobs", "1", *histories)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        assert run(capsys, "--dask", cluster.scheduler_address, *histories) == alone


@pytest.mark.usefixtures("distributed")
def test_without_a_scheduler_there_is_a_clear_line(
    histories: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS file that is none, an address that is none, and no library."""
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate", "ascii")
    cases: list[tuple[str, tuple[str, ...]]] = [
        ("tls://127.0.0.1:9", ("--dask-ca", str(bad))),
        ("tcp://127.0.0.1:9", ()),
        ("no\x1bsense://x", ()),
    ]
    for address, files in cases:
        assert main(["replay", *histories, "--dask", address, *files], Paths()) is Exit.FAILED
        err = capsys.readouterr().err
        assert "Can't reach Dask's scheduler" in err
        assert "\x1b" not in err
    monkeypatch.setitem(cast("dict[str, Any]", sys.modules), "distributed", None)
    assert main(["replay", *histories, "--dask", "tcp://127.0.0.1:9"], Paths()) is Exit.FAILED
    assert "apt install python3-distributed" in capsys.readouterr().err

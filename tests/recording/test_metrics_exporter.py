"""Metrics of a running guard: figures, errors, and changed destinations."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from testbed.disks import until
from testbed.exposition import samples
from testbed.guarded import LIMIT, Guarded, Host, again

from conntrackd_guard.core.configuration import LOOPBACK, Listen
from conntrackd_guard.recording import metrics_exporter
from conntrackd_guard.recording.metrics_exporter import Outlets

KERNEL_MESSAGE = {"verdict": "raise", "reason": "kernel_message confirmed", "outcome": "applied"}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export and flush at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(metrics_exporter, "EXPORT_SECONDS", 0.0)
    monkeypatch.setattr(metrics_exporter, "MAX_CPU_SHARE", 1e9)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The metrics file."""
    return tmp_path / "guard.prom"


def exporting(host: Host, outlets: Outlets) -> Guarded:
    """Start a guard that exports there and has published its status."""
    guarded = Guarded(host)
    into(guarded, outlets)
    guarded.turn(3.0)
    return guarded


def into(guarded: Guarded, outlets: Outlets) -> None:
    """Change the destinations, as a reload does."""
    guarded.recorder._worker.outlets = outlets


def exported(guarded: Guarded, file: Path) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the file's metrics once everything so far is in it."""
    guarded.turn(3.0)  # the loop publishes its status
    guarded.written()
    guarded.written()  # the export follows one turn later
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, labels, figure in samples(file.read_text()):
        found.setdefault(name, []).append((labels, figure))
    return found


def counted(found: dict[str, Any], **labels: str) -> float:
    """Return the count of a decision."""
    (figure,) = [figure for seen, figure in found["guard_decisions_total"] if seen == labels]
    return float(figure)


def test_a_raise_is_exported(host: Host, file: Path) -> None:
    """Usage, limit, drops, budget and the decision are exported."""
    guarded = exporting(host, Outlets(file=file))
    assert counted(exported(guarded, file), **KERNEL_MESSAGE) == 0
    host.table(LIMIT, drop=7)
    for _ in range(3):
        guarded.message()
    guarded.turn()
    found = exported(guarded, file)
    assert counted(found, **KERNEL_MESSAGE) == 1
    assert found["guard_limit_entries"] == [({}, host.limit)]
    assert host.limit > LIMIT
    initial = {"namespace": str(host.initial), "name": "initial"}
    assert [figure for labels, figure in found["guard_table_entries"] if labels == initial] == [LIMIT]
    assert [figure for labels, figure in found["guard_table_drops_total"] if labels == initial] == [7]
    assert found["guard_budget_bytes"] == [({}, int(0.1 * 24 * 2**30))]
    assert found["guard_last_success_timestamp_seconds"] == [({}, guarded.clock.wall())]
    guarded.stop()


def test_decisions_are_counted_as_in_the_history(host: Host, file: Path) -> None:
    """Repeated holds count, decisions of an earlier guard don't."""
    guarded = exporting(host, Outlets(file=file))
    for _ in range(3):
        guarded.message()  # a hold: the table holds nothing
        guarded.message()
        guarded.turn(3.0)
    found = exported(guarded, file)
    (row,) = guarded.rows()
    assert (row.reason, row.repeats) == ("contradicted", 6)
    assert counted(found, verdict="hold", reason="contradicted", outcome="none") == 6
    guarded.stop()
    after = again(guarded)
    into(after, Outlets(file=file))
    assert counted(exported(after, file), verdict="hold", reason="contradicted", outcome="none") == 0
    after.stop()


def test_a_retried_row_counts_once(host: Host, file: Path, refusing: Any) -> None:
    """Retries don't count."""
    guarded = exporting(host, Outlets(file=file))
    refusing.set()
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    until(lambda: guarded.recorder.report()["trouble"])
    refusing.clear()
    assert counted(exported(guarded, file), **KERNEL_MESSAGE) == 1
    guarded.stop()


def test_a_new_namespace_is_exported(host: Host, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter scans for namespaces itself."""
    monkeypatch.setattr(metrics_exporter, "RESCAN_SECONDS", 0.0)
    guarded = exporting(host, Outlets(file=file))
    assert exported(guarded, file)["guard_tables"] == [({}, 2)]
    host.namespace("300", 5)
    found = exported(guarded, file)
    assert found["guard_tables"] == [({}, 3)]
    assert 5 in [figure for _, figure in found["guard_table_entries"]]
    guarded.stop()


def test_a_pause_is_exported(host: Host, file: Path) -> None:
    """A fleet's pause counts too."""
    guarded = exporting(host, Outlets(file=file))
    assert exported(guarded, file)["guard_paused"] == [({}, 0)]
    host._write("etc/conntrackd-guard/pause", "")
    assert exported(guarded, file)["guard_paused"] == [({}, 1)]
    guarded.stop()


def test_nothing_is_exported_before_the_first_status(host: Host, file: Path) -> None:
    """The status of an earlier guard does not count."""
    guarded = Guarded(host)
    guarded.runtime_dir.put_status({"pid": 1, "at": 5.0})
    into(guarded, Outlets(file=file))
    guarded.written()
    guarded.written()
    assert not file.exists()
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_a_missing_folder_is_an_error_until_it_exists(host: Host, tmp_path: Path) -> None:
    """It is logged once and shown by the status; decisions go on."""
    file = tmp_path / "absent/guard.prom"
    guarded = exporting(host, Outlets(file=file))
    until(lambda: guarded.recorder.report()["trouble"])
    for _ in range(3):
        guarded.written()
    (line,) = guarded.logged("guard.error")
    assert f"Can't write {file}" in line["message"]
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert [row.verdict for row in guarded.rows()] == ["raise"]
    file.parent.mkdir()
    exported(guarded, file)
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_an_old_file_is_removed(host: Host, file: Path, tmp_path: Path) -> None:
    """node_exporter would export a stale file forever."""
    guarded = exporting(host, Outlets(file=file))
    exported(guarded, file)
    other = tmp_path / "other.prom"
    into(guarded, Outlets(file=other))
    exported(guarded, other)
    assert not file.exists()
    into(guarded, Outlets())
    guarded.written()
    guarded.written()
    assert not other.exists()
    guarded.stop()


def test_errors_end_when_metrics_are_switched_off(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the file, of the endpoint and of the figures."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        guarded = exporting(
            host, Outlets(file=tmp_path / "absent/x.prom", http=Listen(LOOPBACK, taken.getsockname()[1]))
        )
        until(lambda: len(guarded.recorder.report()["trouble"]) == 2)
        monkeypatch.setattr(metrics_exporter, "decode", lambda *_: int("x"))
        until(lambda: len(guarded.recorder.report()["trouble"]) == 3)
        into(guarded, Outlets())
        until(lambda: guarded.recorder.report()["trouble"] == [])
    guarded.stop()


def test_the_file_stays_when_the_guard_ends(host: Host, file: Path) -> None:
    """Its age is a metric."""
    guarded = exporting(host, Outlets(file=file))
    exported(guarded, file)
    guarded.stop()
    assert file.exists()


def scraped(port: int) -> bytes:
    """Return the metrics that the endpoint serves; nothing while it is closed or has none."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return bytes(answer.read())
    return b""


def test_the_endpoint_opens_and_closes_with_the_setting(host: Host) -> None:
    """It is open while the setting has a port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    guarded = exporting(host, Outlets(http=Listen(LOOPBACK, port)))
    until(lambda: b"\nguard_limit_entries 65536.0\n" in scraped(port))
    into(guarded, Outlets())
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)))
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_a_guard_whose_port_is_in_use_goes_on(host: Host, file: Path) -> None:
    """The error is logged once; the file is written and decisions are made."""
    other = socket.create_server(("127.0.0.1", 0))
    guarded = exporting(host, Outlets(file=file, http=Listen(LOOPBACK, other.getsockname()[1])))
    until(lambda: guarded.recorder.report()["trouble"])
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert [row.verdict for row in guarded.rows()] == ["raise"]
    assert counted(exported(guarded, file), **KERNEL_MESSAGE) == 1
    (line,) = guarded.logged("guard.error")
    assert "set another port in `metrics_http`" in line["message"]
    guarded.stop()
    other.close()


def test_large_hosts_are_read_less_often(host: Host, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes a bounded share of a core: a slow reading delays the next one."""
    monkeypatch.setattr(metrics_exporter, "MAX_CPU_SHARE", 1e-9)
    guarded = exporting(host, Outlets(file=file))
    before = exported(guarded, file)
    host.table(5)
    assert exported(guarded, file) == before
    guarded.stop()

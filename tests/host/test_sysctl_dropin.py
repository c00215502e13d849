"""The drop-in, read back."""

from __future__ import annotations

from pathlib import Path

from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import NoDropIn, Persisted, SysctlDropIn

PERSISTED = Persisted(
    limit=98_304,
    at="2026-11-01T10:00:00+00:00",
    version="0.1.0",
    decision="7",
    why="Raised 65,536 → 98,304: budget_bytes=1 is no header.",
    boot_id="5a2b-b007",
    memory_total_bytes=8 << 30,
    budget_bytes=800 << 20,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Limit, boot, machine, memory and budget are read back."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("00ff\n")
    drop_in = SysctlDropIn(Paths(tmp_path))
    assert drop_in.persisted() is None
    drop_in.put(PERSISTED, 1.0)
    kept = PersistedLimit(
        limit=98_304,
        decision="7",
        boot_id="5a2b-b007",
        machine_id="00ff",
        memory_total_bytes=8 << 30,
        budget_bytes=800 << 20,
    )
    assert drop_in.persisted() == kept
    assert NoDropIn(Paths(tmp_path), reads=True).persisted() == kept
    assert NoDropIn(Paths(tmp_path), reads=False).persisted() is None


def test_a_handwritten_file_has_a_limit_only(tmp_path: Path) -> None:
    """Without the header only the limit is known; hostile values are ignored."""
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(PERSISTED, 1.0)
    path = Paths(tmp_path).drop_in
    path.write_text("# memory_total_bytes=abc boot_id=\u202e\nnet.netfilter.nf_conntrack_max = 5\n")
    assert drop_in.persisted() == PersistedLimit(limit=5)

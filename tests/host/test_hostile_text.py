"""Every file that the guard reads, with every damage of its text: no reader fails, no figure is changed unnamed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.bad_files import KINDS
from testbed.bad_files import replace as replace_file
from testbed.mutations import mutations
from testbed.read_files import MEMINFO, READ_FILES, STATISTICS, ZONEINFO, ReadFile, put, put_all

from conntrackd_guard.actions import status
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.doctor import checks
from conntrackd_guard.host.conntrack import memory_estimate
from conntrackd_guard.host.conntrack.stat import Memory, MemoryReader, read_statistics
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

KIB, GIB = 1 << 10, 1 << 30
TOTAL, AVAILABLE, FREE = 24_684_092 * KIB, 24_192_740 * KIB, 23_389_436 * KIB
BY_FORMULA = 24_192_996 * KIB
"""256 KiB from what the kernel showed a moment apart."""
SEVERE = {"empty", "cut in half", "longer than int() takes", "bytes that are no text", "JSON without its keys"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a healthy text in every file."""
    put_all(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", READ_FILES, ids=lambda file: file.place)
def test_no_text_ends_a_reader(root: Path, file: ReadFile) -> None:
    """A reader returns or raises a GuardError, which names the file."""
    file.read(root)
    for name, text in mutations(file.healthy).items():
        put(root, file.place, text)
        try:
            file.read(root)
        except GuardError as error:
            assert Path(file.place).name in str(error), name  # noqa: PT017
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"{name}: {error!r}")


OF_PEOPLE = [file for file in READ_FILES if not file.place.startswith(("proc/", "sys/")) or "/root/" in file.place]
"""What the kernel does not make; /proc/PID/root is a container's own."""


@pytest.mark.parametrize("file", OF_PEOPLE, ids=lambda file: file.place)
def test_no_kind_of_file_ends_or_holds_up_a_reader(root: Path, file: ReadFile) -> None:
    """A FIFO is not waited for, a device is not read, and no file without a limit to its size."""
    for kind in KINDS:
        replace_file(root / file.place, kind)
        try:
            file.read(root)
        except GuardError as error:
            assert Path(file.place).name in str(error), kind  # noqa: PT017
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"{kind}: {error!r}")


@pytest.mark.parametrize("file", READ_FILES, ids=lambda file: file.place)
def test_no_text_ends_status_or_doctor(root: Path, file: ReadFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that someone runs to find the fault run to their end."""
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    damaged = mutations(file.healthy)
    for name in damaged.keys() & SEVERE:
        put(root, file.place, damaged[name])
        try:
            status.document(status.gather(Paths(root)))
        except GuardError as error:
            assert Path(file.place).name in str(error), name  # noqa: PT017
        assert checks.examine(Paths(root)).checks


def memory(root: Path, meminfo: bytes = MEMINFO, zoneinfo: bytes | None = None) -> Memory:
    """Return what a new reader finds, without ZFS and without a guard that has published a reading."""
    (root / "proc/spl/kstat/zfs/arcstats").unlink(missing_ok=True)
    (root / "run/conntrackd-guard/status.json").unlink(missing_ok=True)
    put(root, "proc/meminfo", meminfo)
    if zoneinfo is not None:
        put(root, "proc/zoneinfo", zoneinfo)
    return MemoryReader(Paths(root), RuntimeDir(Paths(root))).read()


def without(*names: str) -> bytes:
    """Return meminfo without these rows."""
    return b"".join(row for row in MEMINFO.splitlines(keepends=True) if row.split(b":")[0].decode() not in names)


def test_a_healthy_host_is_read_whole(root: Path) -> None:
    """Nothing is replaced, nothing is unknown."""
    found = memory(root)
    assert (found.total_bytes, found.available_bytes, found.hugetlb_bytes) == (TOTAL, AVAILABLE, 0)
    assert (found.entry_slab_bytes, found.allocated_entries) == (256, 60_000)
    assert (found.unread, found.unknown) == ((), "")


@pytest.mark.parametrize("name", mutations(MEMINFO))
def test_a_figure_of_memory_is_right_or_named(root: Path, name: str) -> None:
    """Each damage leaves both figures as they are, or names meminfo; a figure is never 0 instead of unknown."""
    found = memory(root, mutations(MEMINFO)[name])
    figures = (found.total_bytes, found.available_bytes, found.hugetlb_bytes)
    if not found.unread:
        assert figures == (TOTAL, AVAILABLE, 0)
    if not found.unknown:
        assert found.total_bytes >= found.available_bytes > 0
    else:
        assert found.available_bytes == 0
    assert all("/proc/meminfo (no valid " in text for text in (*found.unread, *filter(None, [found.unknown])))


@pytest.mark.parametrize(
    ("missing", "available", "source"),
    [
        (("MemAvailable",), BY_FORMULA, "MemFree, the file cache and /proc/zoneinfo"),
        (("MemAvailable", "SReclaimable"), FREE, "MemFree alone"),
        (("MemAvailable", "Active(file)"), FREE, "MemFree alone"),
    ],
)
def test_available_memory_has_an_order_of_substitutes(
    root: Path, missing: tuple[str, ...], available: int, source: str
) -> None:
    """The kernel's formula, then free memory alone; the one taken is named."""
    found = memory(root, without(*missing))
    assert (found.total_bytes, found.available_bytes) == (TOTAL, available)
    assert found.unread == (
        f"{root}/proc/meminfo (no valid MemAvailable): available memory is calculated from {source}",
    )


@pytest.mark.parametrize("name", mutations(ZONEINFO))
def test_the_formula_has_all_terms_or_is_not_used(root: Path, name: str) -> None:
    """Watermarks that can't be read leave free memory alone; no text of them makes available more than it is."""
    found = memory(root, without("MemAvailable"), mutations(ZONEINFO)[name])
    assert found.available_bytes <= TOTAL
    assert ("zoneinfo" in found.unread[0]) is (found.available_bytes != FREE)


def test_without_a_substitute_memory_is_unknown(root: Path) -> None:
    """The file and the missing rows are named."""
    found = memory(root, without("MemAvailable", "MemFree"))
    assert found.unknown == f"{root}/proc/meminfo (no valid MemAvailable or MemFree)"
    assert (found.total_bytes, found.available_bytes) == (TOTAL, 0)
    found = memory(root, without("MemTotal"))
    assert found.unknown == f"{root}/proc/meminfo (no valid MemTotal)"
    (root / "proc/meminfo").unlink()
    found = MemoryReader(Paths(root), RuntimeDir(Paths(root))).read()
    assert found.unknown == f"{root}/proc/meminfo (No such file or directory)"


def test_the_total_has_an_order_of_substitutes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good reading of this process, then that of the guard under /run, then the kernel's count of its own root."""
    paths = Paths(root)
    memory(root)
    reader = MemoryReader(paths, RuntimeDir(paths))
    reader.read()
    put(root, "proc/meminfo", without("MemTotal"))
    put(root, "run/conntrackd-guard/status.json", json.dumps({"pid": 1, "memory_total_bytes": 30 * GIB}).encode())
    found = reader.read()
    assert (found.total_bytes, found.available_bytes) == (TOTAL, AVAILABLE)
    assert "using 23.5 GiB, the last reading in this boot" in found.unread[0]
    found = MemoryReader(paths, RuntimeDir(paths)).read()
    assert found.total_bytes == 30 * GIB
    (root / "run/conntrackd-guard/status.json").unlink()
    assert MemoryReader(paths, RuntimeDir(paths)).read().unknown
    monkeypatch.setattr(memory_estimate, "_HERE", root)
    found = MemoryReader(paths, RuntimeDir(paths)).read()
    assert found.total_bytes > GIB // 4
    assert "the kernel's count of physical pages" in found.unread[0]


def test_huge_pages_that_cannot_be_read_are_assumed(root: Path) -> None:
    """The budget is a share of what is not set aside for them: all that is not available may be."""
    for row in (b"Hugetlb:               x kB", b"Hugetlb:        99999999 kB"):
        found = memory(root, MEMINFO.replace(b"Hugetlb:               0 kB", row))
        assert found.hugetlb_bytes == TOTAL - AVAILABLE
        assert "(no valid Hugetlb)" in found.unread[0]
    assert memory(root, without("Hugetlb")) == memory(root)  # a kernel without huge pages


@pytest.mark.parametrize("name", mutations(STATISTICS))
def test_statistics_are_read_whole_or_not_at_all(root: Path, name: str) -> None:
    """A sum with a row missing would look like a counter that fell: all drops would count as new."""
    put(root, "proc/1/net/stat/nf_conntrack", mutations(STATISTICS)[name])
    found = read_statistics((f"{root}/proc/1/",), None)
    if found is not None and name not in {"without row 1", "without row 2", "row 1 doubled", "row 2 doubled"}:
        assert (found.count, found.drop, found.early_drop) == (60_000, 9, 0)
    assert found is None or found.count == 60_000


def test_a_header_alone_is_unreadable(root: Path) -> None:
    """It is not an empty table."""
    put(root, "proc/1/net/stat/nf_conntrack", STATISTICS.splitlines(keepends=True)[0])
    assert read_statistics((f"{root}/proc/1/",), None) is None


@pytest.mark.parametrize("size", ["0", "1", "127", "5000", "-256"])
def test_a_size_that_no_entry_has_is_not_believed(root: Path, size: str) -> None:
    """640 bytes are assumed instead."""
    put(root, "sys/kernel/slab/nf_conntrack/slab_size", f"{size}\n".encode())
    found = memory(root)
    assert found.entry_slab_bytes is None
    assert f"{root}/sys/kernel/slab/nf_conntrack/slab_size (" in found.unread[0]
    assert replace(found, entry_slab_bytes=256, unread=()) == replace(memory(root), entry_slab_bytes=256, unread=())

"""Row `replay`: the time and memory of `guard replay` on a made fleet's journals and Prometheus, with one and two workers."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event, Thread

from testbed import prometheus
from testbed.journal_files import entry, write_file

from bench.checkout import THIS
from bench.contenders import STATE
from bench.ground import progress
from bench.history_rows import write_history
from bench.table import Row

_START = 1_700_000_000
_DAYS = 30
_MADE = 4
"""Distinct journals; the other hosts' files are links to them, so the page cache holds all."""
_SECONDS = 60.0
_ENTRIES_A_SECOND = 150_000
_PROMETHEUS_DAYS = 14
_PROMETHEUS_SECONDS = 120.0
_MOST_MIB = 500
_HOSTS_A_BLOCK = 50
_FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"
_FIREWALL = (
    "IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=203.0.113.{} DST=192.0.2.7 LEN=60 TOS=0x00 PREC=0x00"
    " TTL=50 ID={} DF PROTO=TCP SPT={} DPT=22 WINDOW=29200 RES=0x00 SYN URGP=0"
)


def replay(hosts: int, kernel_entries: int, series: int, decisions: int) -> Iterator[Row]:
    """Yield rates, times, memory and the speed-up.

    `kernel_entries` of each of the `hosts`; `series`: Prometheus' hosts; `decisions`: rows of a history.
    """
    yield _history(decisions)
    with tempfile.TemporaryDirectory() as folder:
        yield from _journals(Path(folder), hosts, kernel_entries)
        yield from _prometheus(Path(folder), series)


def _journals(folder: Path, hosts: int, kernel_entries: int) -> Iterator[Row]:
    progress(f"replay: writing {_MADE} journals of {2 * kernel_entries:,} entries")
    fleet = folder / "fleet"
    made = [write_file(folder / f"{number}.journal", *_mixed(number, kernel_entries)) for number in range(_MADE)]
    fleet.mkdir()
    for number in range(hosts):
        os.link(made[number % _MADE], fleet / f"remote-host{number:03}.journal")
    total = hosts * kernel_entries
    what = f"replay: journals, {hosts} hosts × {_DAYS} days, {total:,} kernel entries"
    wall = {}
    for jobs in (1, 2):
        wall[jobs], cpu, mib = _run(str(fleet), "--jobs", str(jobs), "--limit", "262144", "--memory-available", "4G")
        if jobs == 1:
            rate = total / cpu
            yield Row(
                what="replay: kernel entries a second of one core",
                who="guard replay",
                figure=f"{rate:,.0f}",
                target=f"≥ {_ENTRIES_A_SECOND:,}",
                met=rate >= _ENTRIES_A_SECOND,
            )
        yield _row(what, jobs, wall, mib, _SECONDS if jobs == 2 else None)  # noqa: PLR2004


def _history(decisions: int) -> Row:
    progress(f"replay: writing {decisions:,} decisions")
    file = STATE.with_name("bench-replay.db")  # in memory: each is synced
    write_history(decisions, file)
    wall, _, mib = _run(str(file), "--jobs", "1")
    file.unlink()
    return _row(f"replay: history.db, {decisions:,} rows", 1, {1: wall}, mib, _SECONDS)


def _prometheus(folder: Path, hosts: int) -> Iterator[Row]:
    minutes = _PROMETHEUS_DAYS * 1440
    progress(f"replay: filling Prometheus with {hosts} hosts × {minutes:,} minutes")
    data = folder / "prometheus"
    for first in range(0, hosts, _HOSTS_A_BLOCK):
        prometheus.fill(data, _past(range(first, min(first + _HOSTS_A_BLOCK, hosts)), minutes))
    what = f"replay: Prometheus, {hosts} hosts × {_PROMETHEUS_DAYS} days at one point a minute"
    wall: dict[int, float] = {}
    with prometheus.running(data) as url:
        since = ("--since", f"@{_START}", "--until", f"@{_START + minutes * 60}")
        for jobs in (1, 2):
            wall[jobs], _, mib = _run(url, "--jobs", str(jobs), *since)
            yield _row(what, jobs, wall, mib, _PROMETHEUS_SECONDS if jobs == 2 else None)  # noqa: PLR2004


def _row(what: str, jobs: int, wall: dict[int, float], mib: float, most_seconds: float | None) -> Row:
    is_met = None if most_seconds is None else wall[jobs] <= most_seconds and mib <= _MOST_MIB
    return Row(
        what=what,
        who=f"guard replay --jobs {jobs}",
        figure=f"{wall[jobs]:.1f} s, {mib:.0f} MiB",
        ratio="" if jobs == 1 else f"{wall[1] / wall[jobs]:.2f} × as fast as --jobs 1",
        target="" if most_seconds is None else f"≤ {most_seconds:.0f} s, ≤ {_MOST_MIB} MiB",
        met=is_met,
    )


def _run(*arguments: str) -> tuple[float, float, float]:
    """Return wall and CPU seconds of a replay, and the most memory (MiB, PSS) that its processes had together."""
    before, start = os.times(), time.monotonic()
    command = THIS.guard("replay", "--json", *arguments)
    with subprocess.Popen(command, env=THIS.environment(), stdout=subprocess.PIPE) as process:
        has_ended, most = Event(), [0]
        watcher = Thread(target=_watch, args=(process.pid, has_ended, most))
        watcher.start()
        output, _ = process.communicate()
        has_ended.set()
        watcher.join()
    after = os.times()
    if process.returncode != 0 or b'"answer"' not in output:
        raise OSError(f"guard replay {arguments[0]} failed with {process.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, cpu, most[0] / 1024


def _watch(pid: int, has_ended: Event, most: list[int]) -> None:
    while not has_ended.wait(0.25):
        children = _read(f"/proc/{pid}/task/{pid}/children").split()
        texts = (_read(f"/proc/{one}/smaps_rollup") for one in (str(pid), *children))
        lines = (line for text in texts for line in text.splitlines() if line.startswith("Pss:"))
        most[0] = max(most[0], sum(int(line.split()[1]) for line in lines))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii", "replace")
    except OSError:  # it has ended
        return ""


def _mixed(number: int, kernel_entries: int) -> Iterator[bytes]:
    """Yield entries of one host over the days, every other the kernel's, 2 % of those about a full table."""
    step = _DAYS * 86_400 * 1_000_000 // (2 * kernel_entries)
    host: dict[str, str | bytes | None] = {"_HOSTNAME": f"host{number}", "_MACHINE_ID": f"{number + 1:032x}"}
    messages = {0: "Linux version 6.1.0-18-amd64 (gcc-12)", 1: "Memory: 8000000K/8388608K available (1K kernel code)"}
    for index in range(kernel_entries):
        firewall = _FIREWALL.format(index % 255, index % 65_536, index % 60_000)
        message = messages.get(index, _FULL if index % 50 == 7 else firewall)  # noqa: PLR2004 - any one of 50
        yield entry(2 * index * step, MESSAGE=message, **host)
        yield entry(
            (2 * index + 1) * step,
            _TRANSPORT="syslog",
            SYSLOG_FACILITY="3",
            _COMM="app",
            MESSAGE=f"request {index} done in {index % 1000} ms",
            **host,
        )


def _past(hosts: Iterable[int], minutes: int) -> Iterator[str]:
    """Yield the hosts' series: steady, ramp, burst, flood or leak. A host's lines are a template for the others."""
    from conntrackd_guard.replay.model import Sample  # noqa: PLC0415  the other rows need nothing of the package

    shapes = (
        lambda minute: 50_000 + minute % 700,
        lambda minute: 20_000 + minute * 12,
        lambda minute: 250_000 if minute % 5000 < 20 else 30_000,  # noqa: PLR2004 - a third of an hour now and then
        lambda minute: 262_144 if minute > minutes // 2 else 10_000,
        lambda minute: 100_000 + minute * 6,
    )
    made = [
        [
            Sample(
                _START + minute * 60, min(entries(minute), 262_144), 262_144, 4 << 30, max(0, entries(minute) - 262_144)
            )
            for minute in range(1, minutes)
        ]
        for entries in shapes
    ]
    texts = [list(prometheus.blocks({"HOST": samples})) for samples in made]
    for index, head in enumerate(prometheus.HEADS):
        yield head
        for number in hosts:
            yield texts[number % len(shapes)][index].replace('"HOST"', f'"host{number:03}:9100"')
    yield "# EOF\n"

"""Row `who`: the time, accuracy and cost of finding what fills a table of a million entries."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from testbed.scratch_namespace import ScratchNamespace, load_lines

from bench import mixture, noise
from bench.checkout import REPOSITORY
from bench.contenders import guard, run
from bench.ground import Ground, memory_available_mib, progress, wait_for
from bench.table import Row

_ENTRIES = 1_000_000
_LIMIT = 1_200_000
"""Above 95 % of the limit the kernel evicts entries that aren't assured."""
_ENTRY_BYTES = 448
"""One made through netlink."""
_SPARE = 4
"""Times the cost that must be available: entries can't be swapped."""
_RUNS = 20
_SAMPLE_MS, _TOP_MS, _SHARE_POINTS, _RESIDENT_MIB = 50.0, 300.0, 3.0, 30.0
_TOP = ["/usr/bin/python3", "-m", "conntrackd_guard", "top"]
_LOW, _CEILING = 0.948, 0.9005
"""Use of the limit before each raise, and where raising ends: from one to the other is just more than the least step,
and at 90 % a table that does not grow is still one to raise for."""
_RAISES = 5
_FLUSH_SECONDS = 65.0
"""Series are written once a minute, and namespaces rescanned."""


def who(ground: Ground) -> Iterator[Row]:
    """Yield how fast and how true a sample of a large table is, and the memory of a guard that has taken some."""
    needed, free = _SPARE * _ENTRIES * _ENTRY_BYTES // 2**20, memory_available_mib()
    if free < needed:
        figure = f"not measured: {_ENTRIES:,} entries take {needed // _SPARE} MiB, and {free} of {needed} MiB are free"
        yield Row(what="who fills a table", who="guard", figure=figure)
        return
    with ground.scratch() as namespace:
        ground.limit_guard.set_limit(_LIMIT)
        progress(f"who: filling a table with {_ENTRIES:,} entries")
        load_lines(mixture.lines(_ENTRIES), enter=("nsenter", f"--net=/proc/{namespace.pid}/ns/net"))
        held = namespace.count()
        progress(f"who: it holds {held:,}")
        yield from _samples(namespace, held)
        yield _top(held)
        yield _truth(held)
        yield _resident(ground, namespace, held)


def _samples(namespace: ScratchNamespace, held: int) -> Iterator[Row]:
    """Yield how long reading a sample and adding it up takes, either way to read."""
    sys.path.insert(0, str(REPOSITORY))
    from conntrackd_guard.core import tuning  # noqa: PLC0415  no other row needs the package
    from conntrackd_guard.core.traffic.sample import count_entries  # noqa: PLC0415
    from conntrackd_guard.host.conntrack import entries_netlink  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.entries import EntryReader, Listing  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.sampler import LONGEST_SECONDS  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.setns import run_in_netns  # noqa: PLC0415
    from conntrackd_guard.host.paths import Paths  # noqa: PLC0415

    netns = next(netns for netns in NamespaceScanner(Paths()).scan()[0] if namespace.pid in netns.pids)
    ways = {
        "/proc": lambda: EntryReader(Paths(), enter=False).open(netns),
        "netlink": lambda: Listing("netlink", *run_in_netns(netns, entries_netlink.listing)),
    }
    for way, opened in ways.items():
        times, seen = [], set()
        for _ in range(_RUNS):
            began = time.monotonic()
            with opened() as listing:
                found = count_entries(
                    listing.entries(most=tuning.SAMPLE_ENTRIES, seconds=LONGEST_SECONDS), table_entries=held
                )
            times.append((time.monotonic() - began) * 1000)
            seen.add(found.seen)
        yield Row(
            what=f"sample of {held:,} entries, by {way}",
            who="guard",
            figure=f"{_middle_and_worst(times)}, {min(seen):,} seen, {_RUNS} runs",
            target=f"worst ≤ {_SAMPLE_MS:.0f} ms, {tuning.SAMPLE_ENTRIES:,} seen",
            met=max(times) <= _SAMPLE_MS and seen == {tuning.SAMPLE_ENTRIES},
        )


def _top(held: int) -> Row:
    """Return the wall time of `guard top`, a new process each: interpreter, imports, all tables, the sample, the text."""
    _ask()  # its files are in the page cache from here on
    times = []
    for _ in range(_RUNS):
        began = time.monotonic()
        _ask()
        times.append((time.monotonic() - began) * 1000)
    return Row(
        what=f"guard top, {held:,} entries, a new process each",
        who="guard",
        figure=f"{_middle_and_worst(times)}, {_RUNS} runs",
        target=f"worst ≤ {_TOP_MS:.0f} ms",
        met=max(times) <= _TOP_MS,
    )


def _truth(held: int) -> Row:
    """Return how far the shares of `guard top` are from those that the table was made with."""
    sample = json.loads(_ask("--json"))["sample"]
    off = {
        (ranking, name): 100
        * abs(true - sum(group["share"] for group in sample[ranking]["top"] if group["name"] == name))
        for (ranking, name), true in mixture.shares().items()
    }
    worst = max(off, key=lambda key: off[key])
    return Row(
        what=f"shares of {held:,} entries",
        who="guard",
        figure=f"{len(off)} shares, {off[worst]:.1f} points off at most ({worst[1]}), from {sample['seen']:,}",
        target=f"≤ {_SHARE_POINTS:.0f} points",
        met=off[worst] <= _SHARE_POINTS,
    )


def _resident(ground: Ground, namespace: ScratchNamespace, held: int) -> Row:
    """Return the memory of a guard with everything on but HTTP, after raises and a hold for a ceiling, each sampled."""
    everything: dict[str, Any] = {  # samples, series and the drop-in are on by default
        "max_limit": int(held / _CEILING),
        "conflict_limit": 0,  # the limit is lowered between the raises
        "on_flood": "hold",  # which it is not: the loop samples, too
        "notify": "/bin/true",
        "metrics_file": str(ground.folder / "guard.prom"),
    }
    company = f"{noise.NAMESPACES} namespaces, {noise.PROCESSES:,} processes"
    progress(f"who: a guard with everything on, {company}")
    ground.limit_guard.set_limit(int(held / _LOW))
    with noise.crowd(ground, noise.NAMESPACES, noise.PROCESSES), run(ground, guard("guard", **everything)) as running:
        for number in range(_RAISES):
            if number:
                ground.limit_guard.set_limit(int(held / _LOW))
            wait_for(lambda taken=number: _logged(ground, "guard.sample") > taken, "a raise and its sample")
        time.sleep(_FLUSH_SECONDS)
        peak, (resident, own) = running.peak_kib(), running.memory_kib()
        sampled = _logged(ground, "guard.sample")
        ground.flush(namespace)  # else the kernel walks a million entries for each of the crowd
    return Row(
        what=f"memory, everything on but HTTP, {company}",
        who="guard",
        figure=(
            f"peak {peak / 1024:.1f} MiB resident, then {resident / 1024:.1f} ({own / 1024:.1f} its own), "
            f"{sampled} sampled decisions"
        ),
        target=f"peak ≤ {_RESIDENT_MIB:.0f} MiB",
        met=peak / 1024 <= _RESIDENT_MIB,
    )


def _ask(*arguments: str) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*_TOP, *arguments], env=environment, stdout=subprocess.PIPE, check=True).stdout


def _logged(ground: Ground, event: str) -> int:
    """Return how often the guard has logged an event."""
    return (ground.folder / "output").read_text("utf-8", "replace").count(f'"{event}"')


def _middle_and_worst(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms, worst {max(times):.0f}"

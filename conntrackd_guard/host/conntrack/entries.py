"""Read the entries of one namespace's table, within bounds of number and time.

/proc/PID/net/nf_conntrack has the entries of the process's namespace, for root without any capability. Without it (by
kernel configuration, or in a namespace without a process) root may enter the namespace, and use netlink.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.limits import MODULUS
from conntrackd_guard.core.traffic.entry import Batch, Entry, state_by_flags
from conntrackd_guard.host.conntrack import entries_netlink
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of, run_in_netns
from conntrackd_guard.host.paths import Paths

_LISTING = "net/nf_conntrack"
_CHUNK_BYTES = 16 * 1024
"""The kernel returns one page per read (20 entries), or one line if it is longer."""
_LONGEST_LINE_BYTES = 4096
_LINE = re.compile(
    rb"^ipv([46]) +\d+ \S+ +(\d{1,3}) "
    rb"(?:(\d{1,10}) )?"  # not if offloaded
    rb"(?:([A-Z][A-Z0-9_]{1,30}) )?(?:timeout=\d+, stream_timeout=\d+ )?"  # TCP, SCTP and DCCP; GRE
    rb"src=([0-9a-f.:]{7,39}) dst=([0-9a-f.:]{7,39}) (?:sport=(\d{1,5}) dport=(\d{1,5}) )?"
    rb"(?:(?!src=)[a-z-]+=\S+ )*(\[UNREPLIED\] )?"  # of ICMP and GRE; zones and accounting
    rb"src=([0-9a-f.:]{7,39}) dst=([0-9a-f.:]{7,39}) (?:sport=(\d{1,5}) dport=(\d{1,5}) )?"
    rb"(?:[a-z-]+=\S+ )*?(?:\[(ASSURED|OFFLOAD|HW_OFFLOAD)\] |(?=mark=|use=))",
    re.MULTILINE,
)
"""A line of the listing, net/netfilter/nf_conntrack_standalone.c, unchanged from 2.6.28 to 6.18."""


class Listing(ExitStack):
    """An open listing of one table. Iterate `entries`, then perhaps `count` the rest, then close."""

    def __init__(
        self, source: str, batches: Iterator[Batch], close: Callable[[], object], rest: Iterator[Batch] | None = None
    ) -> None:
        """`rest` counts what `batches` has not read yet as entries that can't be parsed, which is faster."""
        super().__init__()
        self.callback(close)
        self.source = source
        self.skipped = 0
        """Lines or messages that could not be parsed so far."""
        self._batches, self._rest = batches, rest or batches
        self._listed = 0
        self._ended = self._failed = False

    def entries(self, *, most: int, seconds: float) -> Iterator[Entry]:
        """Yield up to `most` entries; start no read after `seconds`. Ends early instead of raising."""
        deadline = time.monotonic() + seconds
        left = most
        try:
            for entries, skipped in self._batches:
                self.skipped += skipped
                self._listed += len(entries) + skipped
                yield from entries[:left]
                left -= len(entries)
                if left <= 0 or time.monotonic() >= deadline:
                    return
            self._ended = True
        except OSError:  # the namespace ended, or the netlink dump was interrupted
            self._failed = True

    def count(self, *, seconds: float) -> int | None:
        """Read on to the end; return the number of all entries, None if it breaks off or takes longer than `seconds`."""
        self._batches = self._rest
        for _ in self.entries(most=MODULUS, seconds=seconds):
            pass
        return self._listed if self._ended and not self._failed else None


class EntryReader:
    """Opens the listings of network namespaces.

    `enter` allows entering a namespace and using netlink (CAP_SYS_ADMIN, CAP_NET_ADMIN) if /proc has no listing.
    """

    def __init__(self, paths: Paths, *, enter: bool) -> None:
        self._proc = str(paths.proc)
        self._may_enter = enter

    def open(self, netns: NetNamespace) -> Listing:
        """Return the listing of a table. Raises HostError."""
        cause = OSError(errno.ESRCH, "it has no process")
        for pid in ("self",) if netns.initial else netns.pids:
            try:
                with process_of(netns, self._proc, pid) as folder:
                    return _text_listing(f"{folder}/{_LISTING}", "listing in /proc")
            except OSError as error:
                cause = error
        if self._may_enter:
            try:
                return _own_listing() if netns.initial else run_in_netns(netns, _own_listing)
            except OSError as error:
                cause = error
        raise self._refusal(netns, cause) from cause

    def _refusal(self, netns: NetNamespace, cause: OSError) -> HostError:
        if netns.pids and not any(os.path.exists(f"{self._proc}/{pid}") for pid in netns.pids):
            return HostError("read the entries of", netns.label, OSError(errno.ESRCH, "its processes have ended"), "")
        path = f"{self._proc}/{netns.pids[0] if netns.pids else 'PID'}/{_LISTING}"
        step = "" if os.geteuid() == 0 else "Run this as root."
        return HostError(f"read the entries of {netns.label} in", path, cause, step)


def _own_listing() -> Listing:
    """Open the listing of the calling thread's namespace; the descriptor stays with it elsewhere. Raises OSError."""
    try:
        return _text_listing(f"/proc/thread-self/{_LISTING}", "listing in /proc, entered")
    except FileNotFoundError:
        return Listing("netlink", *entries_netlink.listing())


def _text_listing(path: str, source: str) -> Listing:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return Listing(source, _batches(descriptor), lambda: os.close(descriptor), _counted(descriptor))


def _batches(descriptor: int) -> Iterator[Batch]:
    """Yield the entries of each read; a line that is not one is counted. Raises OSError."""
    partial = b""
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        whole, newline, partial = (partial + chunk).rpartition(b"\n")
        yield parse(whole + newline)
        if len(partial) > _LONGEST_LINE_BYTES:
            partial = b""
            yield [], 1


def _counted(descriptor: int) -> Iterator[Batch]:
    """Yield the number of lines in each read. Raises OSError."""
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        yield [], chunk.count(b"\n")


def parse(lines: bytes) -> Batch:
    """Return the entries of whole lines, and the number of lines that are not entries."""
    entries = []
    for match in _LINE.finditer(lines):
        try:
            entries.append(_entry(match.groups()))
        except OSError:  # not an address
            continue
    return entries, lines.count(b"\n") - len(entries)


def _entry(fields: Sequence[Any]) -> Entry:
    """Return the entry of a line's groups, None for those that it lacks. Raises OSError."""
    version, number, remaining, state, source, destination, source_port, destination_port, *rest = fields
    unreplied, reply_source, reply_destination, reply_source_port, reply_destination_port, mark = rest
    address = partial(inet_pton, AF_INET if version == b"4" else AF_INET6)
    offloaded, assured, replied = mark is not None and mark != b"ASSURED", mark is not None, unreplied is None
    return Entry(
        int(number),
        state.decode() if state else state_by_flags(offloaded=offloaded, assured=assured, replied=replied),
        assured,
        replied,
        address(source.decode()),
        address(destination.decode()),
        int(source_port or 0),
        int(destination_port or 0),
        address(reply_source.decode()),
        address(reply_destination.decode()),
        int(reply_source_port or 0),
        int(reply_destination_port or 0),
        None if remaining is None else int(remaining),
    )
